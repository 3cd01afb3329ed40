"""Frechet distance from given moments: pvlit's Cholesky route beside a general matrix square root.

    python benchmarks/frechet.py            # writes benchmarks/results/frechet.json
    python benchmarks/frechet.py --quick    # two small widths, three rounds, writes nothing: does it run?

Two sets of 10,000 correlated features are reduced to moments once; timed is only what turns moments into a distance.
All routes live in one process and take turns, so that a slow minute of the machine hits all of them; the numbers are
medians over the rounds, and targets are ratios. The floor is one Cholesky factorization and one symmetric eigenvalue
computation.
"""

import argparse
import statistics
import time

import numpy as np
import scipy.linalg
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from _report import at_least, at_most, publish
from pvlit.core.metrics import Moments, frechet_from_moments

OURS, PEER = "pvlit", "scipy sqrtm"
SAMPLES, WIDTHS, TARGET_WIDTH = 10_000, (64, 128, 256, 512, 1024), 512


def moments(width, seed):
    "Give mean and covariance of correlated features whose spectrum falls by a factor of about a hundred."
    random = torch.Generator().manual_seed(seed)
    mix = torch.linalg.qr(torch.randn(width, width, generator=random, dtype=torch.float64)).Q
    mix = mix * torch.logspace(0, -1, width, dtype=torch.float64)
    seen = Moments()
    for _ in range(10):
        seen.update(torch.randn(SAMPLES // 10, width, generator=random, dtype=torch.float64) @ mix.T + 0.02 * seed)
    return seen.mean, seen.cov


def by_sqrtm(mu_a, cov_a, mu_b, cov_b):
    "The route of pytorch-fid and clean-fid."
    root = scipy.linalg.sqrtm(cov_a @ cov_b)
    return float(np.square(mu_a - mu_b).sum() + np.trace(cov_a + cov_b) - 2 * np.trace(root).real)


def by_eigvals(mu_a, cov_a, mu_b, cov_b):
    "The route of torchmetrics, with NumPy's solver, which is the faster of the two."
    root = np.sqrt(np.linalg.eigvals(cov_a @ cov_b).astype(complex)).sum().real
    return float(np.square(mu_a - mu_b).sum() + np.trace(cov_a + cov_b) - 2 * root)


def floor(mu_a, cov_a, mu_b, cov_b):
    "One Cholesky factorization and one symmetric eigenvalue computation: no route by eigenvalues does less."
    scipy.linalg.cholesky(cov_a, check_finite=False)
    np.linalg.eigvalsh(cov_b)
    return float("nan")


def measure(width, rounds):
    "Time all routes on one width, taking turns; give one row per route."
    tensors = moments(width, 0) + moments(width, 1)
    arrays = tuple(t.numpy() for t in tensors)
    routes = {
        OURS: (frechet_from_moments, tensors),
        PEER: (by_sqrtm, arrays),
        "numpy eigvals": (by_eigvals, arrays),
        "floor": (floor, arrays),
    }
    times, values = {name: [] for name in routes}, {}
    for turn in range(rounds + 1):
        for name, (route, inputs) in routes.items():
            start = time.perf_counter()
            values[name] = route(*inputs)
            if turn:
                times[name].append(time.perf_counter() - start)  # the first turn warms up
    median = {name: statistics.median(t) for name, t in times.items()}
    return [
        {
            "width": width,
            "route": name,
            "ms": 1e3 * median[name],
            "ms_min": 1e3 * min(times[name]),
            "value": values[name],
            "times_faster_than_sqrtm": median[PEER] / median[name],
            "times_floor": median[name] / median["floor"],
        }
        | (
            {"relative_difference_to_sqrtm": abs(values[name] / values[PEER] - 1)}
            if name != "floor"
            else {"value": None}
        )
        for name in routes
    ]


def targets(rows):
    "Compare the row of the target width with what was promised."
    ours = next(r for r in rows if r["width"] == TARGET_WIDTH and r["route"] == OURS)
    speed, difference = ours["times_faster_than_sqrtm"], ours["relative_difference_to_sqrtm"]
    return [
        at_least(f"D = {TARGET_WIDTH}: times faster than scipy sqrtm", 10, speed),
        at_most(f"D = {TARGET_WIDTH}: relative difference to scipy sqrtm", 1e-6, difference),
    ]


def threads():
    "Give the number of threads of NumPy's and SciPy's linear algebra."
    return max(pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small widths, three rounds, write nothing")
    parser.add_argument(
        "--rounds",
        type=int,
        default=15,
        help="timed turns per route and width (default 15; a third of it at the largest width)",
    )
    parser.add_argument(
        "--threads", type=int, help="threads of the linear algebra (default: what the libraries choose)"
    )
    options = parser.parse_args()
    if options.threads:
        threadpool_limits(options.threads)
    rows = []
    for width in (16, 64) if options.quick else WIDTHS:
        rounds = 3 if options.quick else max(3, options.rounds // 3) if width > TARGET_WIDTH else options.rounds
        rows += measure(width, rounds)
        for r in rows[-4:]:
            print(
                f"D {r['width']:5}  {r['route']:14} {r['ms']:9.2f} ms   "
                f"{r['times_faster_than_sqrtm']:6.1f} x faster than sqrtm   {r['times_floor']:6.1f} x floor"
                + (f"   off by {r['relative_difference_to_sqrtm']:.0e}" if r["value"] is not None else ""),
                flush=True,
            )
    if options.quick:
        return
    publish("frechet", rows, targets(rows), threads())


if __name__ == "__main__":
    main()
