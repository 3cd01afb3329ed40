"""SwapMix beside the published formula and kornia's hue change, and above the floor of copying the clips.

    python benchmarks/swapmix.py            # 8 clips of 8 frames, 112 x 112; writes benchmarks/results/swapmix.json
    python benchmarks/swapmix.py --large    # also 32 clips of 16 frames, 224 x 224; needs 5 GiB of memory
    python benchmarks/swapmix.py --quick    # small tensors, two rounds, writes nothing: does it run?

All routes live in one process and take turns, so that a slow minute of the machine hits all of them; the numbers are
medians over the rounds, and targets are ratios. Clips are (batch, channel, time, height, width), unless the row says
otherwise. The published formula is lam * x + (1 - lam) * x[:, permutation]; as written, lam comes from NumPy in double
precision and the mixed clips with it. The floor is copying the clips into an existing buffer; for the pair, copying
them twice. Routes without a buffer also pay for fresh memory, and how much depends on what ran before them. Peak memory
counts what torch allocates during a call, without the result. kornia is the hue change that a user would reach for; it
is installed by:
pip install --no-deps -r benchmarks/requirements.txt
"""

import argparse
import math
import statistics
import time

import kornia
import numpy as np
import torch

from _report import at_least, at_most, publish
from pvlit.motion_coherence.swapmix import SwapMix, swapmix, swapmix_pair

WRITTEN, SINGLE, JOINED, HUE = (
    "published formula, as written",
    "published formula, float32",
    "published formula, as written, + cat",
    "kornia, adjust_hue",
)
OURS, OURS_OUT, OURS_TIME, OURS_EACH = (
    "pvlit",
    "pvlit, out=",
    "pvlit, out=, time before channels",
    "pvlit, out=, a permutation a clip",
)
MODULE, PAIR, FLOOR, PAIR_FLOOR = (
    "pvlit, module with its draws",
    "pvlit, pair, out=",
    "floor: copy",
    "floor: two copies",
)
SMALL, LARGE = (8, 3, 8, 112, 112), (32, 3, 16, 224, 224)
PERMUTATION = (1, 2, 0)


def published(clips, lam):
    "Mix as the published README does; a double precision `lam` gives double precision clips."
    lam = lam.view(-1, 1, 1, 1, 1)
    return lam * clips + (1 - lam) * clips[:, list(PERMUTATION)]


def hue(clips):
    "Change the hue of every frame with kornia, by one angle."
    return kornia.enhance.adjust_hue(clips.transpose(1, 2).flatten(0, 1), 0.5)


def routes(shape):
    "Name every route with a call that does the whole work once, and the bytes of its result if it allocates it."
    generator = torch.Generator().manual_seed(0)
    clips, out, both = torch.rand(shape, generator=generator), torch.empty(shape), torch.empty(2 * shape[0], *shape[1:])
    frames, frames_out = (t.transpose(1, 2).contiguous() for t in (clips, out))
    double = torch.from_numpy(np.random.default_rng(0).beta(1, 1, shape[0]))
    lam, each = double.float(), torch.tensor([PERMUTATION, (2, 1, 0)]).repeat(shape[0] // 2, 1)
    module, size, halves = SwapMix(channel_axis=1), 4 * clips.numel(), both.chunk(2)
    error = (swapmix(clips, lam, PERMUTATION, channel_axis=1) - published(clips, double)).abs().max().item()
    if error > 1e-6:
        raise SystemExit(f"pvlit and the published formula differ by {error}: nothing to compare")
    return {
        WRITTEN: (lambda: published(clips, double), 2 * size),
        SINGLE: (lambda: published(clips, lam), size),
        JOINED: (lambda: torch.cat((clips, published(clips, double))), 4 * size),
        HUE: (lambda: hue(clips), size),
        OURS: (lambda: swapmix(clips, lam, PERMUTATION, channel_axis=1), size),
        OURS_OUT: (lambda: swapmix(clips, lam, PERMUTATION, out, channel_axis=1), 0),
        OURS_TIME: (lambda: swapmix(frames, lam, PERMUTATION, frames_out), 0),
        OURS_EACH: (lambda: swapmix(clips, lam, each, out, channel_axis=1), 0),
        MODULE: (lambda: module(clips, generator), size),
        PAIR: (lambda: swapmix_pair(clips, lam, PERMUTATION, both, channel_axis=1), 0),
        FLOOR: (lambda: out.copy_(clips), 0),
        PAIR_FLOOR: (lambda: [half.copy_(clips) for half in halves], 0),
    }


def peak(call):
    "Give the most bytes that torch held at once during a call, beyond those it held before."
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        result = call()  # alive until the profile ends
    held = [0]
    for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
        if event.name() == "[memory]":
            held.append(held[-1] + event.nbytes())
    del result
    return max(held)


def measure(shape, rounds):
    "Time all routes on one shape, taking turns; give one row per route."
    calls = routes(shape)
    times = {name: [] for name in calls}
    for turn in range(rounds + 1):  # the first is not counted
        for name, (call, _) in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - start))
    clips = 4 * math.prod(shape)
    extra = {name: max(0, peak(call) - result) for name, (call, result) in calls.items()}
    return [
        dict(
            route=name,
            shape=list(shape),
            ms=round(statistics.median(t), 3),
            ms_min=round(min(t), 3),
            extra_mib=round(extra[name] / 2**20, 2),
            extra_share=round(extra[name] / clips, 4),
        )
        for name, t in times.items()
    ]


def find(rows, route, shape):
    return next(r for r in rows if (r["route"], tuple(r["shape"])) == (route, shape))


def targets(rows, shape):
    "Compare with what was promised; every speed is a ratio of medians."

    def ratio(slow, fast):
        return round(find(rows, slow, shape)["ms"] / find(rows, fast, shape)["ms"], 2)

    size = "x".join(map(str, shape))
    return [
        at_least(f"{size}: times faster than the published formula, out=", 30, ratio(WRITTEN, OURS_OUT)),
        at_least(f"{size}: times faster than kornia's hue change, out=", 100, ratio(HUE, OURS_OUT)),
        at_least(f"{size}: pair, times faster than formula and cat", 30, ratio(JOINED, PAIR)),
        at_most(f"{size}: times the copy, out=", 1.7, ratio(OURS_OUT, FLOOR)),
        at_most(f"{size}: pair, times two copies", 1.3, ratio(PAIR, PAIR_FLOOR)),
        at_most(
            f"{size}: extra memory as a share of the clips, out=", 0.001, find(rows, OURS_OUT, shape)["extra_share"]
        ),
    ]


def table(rows):
    "Print what was measured, each beside the copy and the published formula."
    print(f"{'shape':>16}  {'route':38} {'ms':>9} {'least':>9} {'x copy':>7} {'x formula':>9} {'extra MiB':>9}")
    for r in rows:
        floor, peer = (find(rows, name, tuple(r["shape"]))["ms"] for name in (FLOOR, WRITTEN))
        print(
            f"{'x'.join(map(str, r['shape'])):>16}  {r['route']:38} {r['ms']:9.3f} {r['ms_min']:9.3f}"
            f" {r['ms'] / floor:7.1f} {peer / r['ms']:9.2f} {r['extra_mib']:9.2f}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small tensors, two rounds, writes nothing")
    parser.add_argument("--large", action="store_true", help="also measure the large clips")
    parser.add_argument("--rounds", type=int, default=25, help="measured rounds; a fifth of them for the large clips")
    parser.add_argument("--threads", type=int, default=1, help="threads for torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.quick:
        return table(measure((2, 3, 4, 16, 16), 2))
    cases = {SMALL: args.rounds} | ({LARGE: max(3, args.rounds // 5)} if args.large else {})
    rows = [row for shape, rounds in cases.items() for row in measure(shape, rounds)]
    checked = [target for shape in cases for target in targets(rows, shape)]
    table(rows)
    publish("swapmix", rows, checked)


if __name__ == "__main__":
    main()
