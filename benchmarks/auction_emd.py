"""The earth mover's distance by auction beside exact solvers and entropic transport: time taken and error.

    python benchmarks/auction_emd.py            # 256, 1024 and 4096 points; writes benchmarks/results/auction_emd.json
    python benchmarks/auction_emd.py --quick    # 64 points, two rounds, writes nothing: does it run?

Every form gets the two clouds and does all of its work, the table of distances included, in double precision. The truth
is SciPy's. Two pairs of clouds on which auctions are slow: an uneven blob and a cube, a half sphere and a sphere. Forms
take turns; times are medians.

Above 1024 points everything is run once, and the auction to the end, whose rounds grow with the points, is left out.
POT (package pot, see requirements.txt) is measured where it is installed.
"""

import argparse
import functools
import importlib.util
import statistics
import time

import torch
from scipy.optimize import linear_sum_assignment

from _report import at_most, publish
from pvlit.papers.scene3d.adaptive_auction_emd import adaptive_auction_emd, auction_assign, cloud_pairs, matched_cost

EXACT, ADAPTIVE, STOPPED, TO_END = (
    "SciPy, exact",
    "adaptive auction (defaults)",
    "auction, 50 rounds from zero",
    "auction to the end",
)
POT_EXACT, POT_SINKHORN = "POT emd2, exact", "POT Sinkhorn, reg 0.01"


def distances(pred, target):
    return torch.cdist(pred[0].double(), target[0].double(), compute_mode="donot_use_mm_for_euclid_dist")


def exact(pred, target):
    dist = distances(pred, target)
    return dist[linear_sum_assignment(dist.numpy())].mean().item()


def auction(pred, target, rounds):
    dist = distances(pred, target)
    return matched_cost(dist, auction_assign(dist, max_rounds=rounds)[0]).item()


def transport(pred, target, regular):
    "Call POT; entropic transport is charged with the distances of its plan, without its entropy."
    import ot

    dist = distances(pred, target).numpy()
    weight = ot.unif(len(dist))
    if not regular:
        return float(ot.emd2(weight, weight, dist, numItermax=10_000_000))
    return float(
        (
            ot.sinkhorn(weight, weight, dist, regular, method="sinkhorn_log", numItermax=200, stopThr=1e-6, warn=False)
            * dist
        ).sum()
    )


def forms(points):
    "Name every form that is measured at this size."
    found = {
        EXACT: exact,
        ADAPTIVE: lambda *pair: adaptive_auction_emd(*pair).item(),
        STOPPED: functools.partial(auction, rounds=50),
    }
    if points <= 1024:
        found[TO_END] = functools.partial(auction, rounds=10_000)
    if importlib.util.find_spec("ot"):
        found |= {
            POT_EXACT: functools.partial(transport, regular=0),
            POT_SINKHORN: functools.partial(transport, regular=0.01),
        }
    return found


def measure(sizes, rounds):
    "Time all forms in turn on every pair and size; give one row each."
    rows = []
    for points in sizes:
        for pair, clouds in cloud_pairs(0, points).items():
            times, value = {name: [] for name in forms(points)}, {}
            for turn in range(rounds + 1 if points <= 1024 else 1):  # the first is not counted where it costs little
                for name, call in forms(points).items():
                    start = time.perf_counter()
                    value[name] = call(*clouds)
                    if turn or points > 1024:
                        times[name].append(1e3 * (time.perf_counter() - start))
            fast = statistics.median(times[EXACT])
            rows += [
                dict(
                    form=name,
                    pair=pair,
                    points=points,
                    ms=round(statistics.median(t), 3),
                    times_exact=round(statistics.median(t) / fast, 3),
                    error=round(value[name] / value[EXACT] - 1, 6),
                )
                for name, t in times.items()
            ]
    return rows


def targets(rows):
    found = []
    for pair in dict.fromkeys(r["pair"] for r in rows):
        for points in dict.fromkeys(r["points"] for r in rows):
            row = {r["form"]: r for r in rows if r["pair"] == pair and r["points"] == points}
            found.append(
                at_most(
                    f"{pair}, {points} points: error of the adaptive auction, share of that of 50 rounds from zero",
                    0.9,
                    abs(row[ADAPTIVE]["error"] / row[STOPPED]["error"]),
                )
            )
            found.append(
                at_most(
                    f"{pair}, {points} points: adaptive auction, times the exact solver",
                    1.0,
                    row[ADAPTIVE]["times_exact"],
                )
            )
    return found


def table(rows):
    print(f"{'points':>6} {'pair':22} {'form':30} {'ms':>10} {'x exact':>9} {'error, %':>9}")
    for r in rows:
        print(
            f"{r['points']:6} {r['pair']:22} {r['form']:30} "
            f"{r['ms']:10.2f} {r['times_exact']:9.2f} {100 * r['error']:9.3f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="64 points, two rounds, writes nothing")
    parser.add_argument("--rounds", type=int, default=3, help="measured rounds")
    parser.add_argument("--threads", type=int, default=2, help="threads for torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if not importlib.util.find_spec("ot"):
        print("POT is not installed: pip install --no-deps pot (see requirements.txt)")
    rows = measure((64,), 2) if args.quick else measure((256, 1024, 4096), args.rounds)
    table(rows)
    if not args.quick:
        publish("auction_emd", rows, targets(rows))


if __name__ == "__main__":
    main()
