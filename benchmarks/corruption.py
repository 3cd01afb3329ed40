"""Building pseudo videos: pvlit beside kornia's and OpenCV's Gaussian blur.

    python benchmarks/corruption.py            # writes benchmarks/results/corruption.json
    python benchmarks/corruption.py --quick    # small tensors, two rounds, writes nothing: does it run?

Eight frames whose blur falls linearly from 4 pixels to none, without noise unless the row says so. All routes live in
one process and take turns, so that a slow minute of the machine hits all of them; the numbers are medians over the
rounds, and targets are ratios. The floor is copying the image into the frames of an existing buffer.

The peers blur with sampled taps cut off after three standard deviations, pvlit with the heat kernel of the pixel grid,
cut off where float32 no longer sees it: pvlit's kernel is the wider one, and the results differ where the blur is near
one pixel. Peak memory counts what torch allocates during a call, without the output. The peers are installed by:
pip install --no-deps -r benchmarks/requirements.txt
"""

import argparse
import math
import statistics
import threading
import time

import cv2
import kornia
import numpy as np
import torch

from _report import at_least, at_most, publish
from pvlit.pseudo_video.corruption import pseudo_video, schedule

KORNIA, OPENCV, OURS, OURS_OUT, FLOOR = (
    "kornia, frame by frame",
    "OpenCV, sample by sample",
    "pvlit",
    "pvlit, out=",
    "floor: copies",
)
NOISY, DRAWS = "pvlit, out=, chain with noise", "floor: drawing the noise"
SMALL, LARGE = (64, 3, 32, 32), (16, 3, 128, 128)
FRAMES, BLUR = 8, 4.0


def taps(sigma):
    "Give the odd number of taps within three standard deviations."
    return 2 * math.ceil(3 * sigma) + 1


def by_kornia(images, blur, out):
    "Blur all images at once, one frame after the other."
    for t, sigma in enumerate(blur):
        out[:, t] = (
            kornia.filters.gaussian_blur2d(images, (taps(sigma),) * 2, (sigma, sigma), border_type="reflect")
            if sigma
            else images
        )


def by_opencv(images, blur, out):
    "Blur every (H, W, C) sample on its own into `out` (B, T, H, W, C)."
    for image, video in zip(images, out):
        for sigma, frame in zip(blur, video):
            if sigma:
                cv2.GaussianBlur(image, (taps(sigma),) * 2, sigma, dst=frame, borderType=cv2.BORDER_REFLECT_101)
            else:
                frame[...] = image


def by_copies(images, blur, out):
    "Fill the frames with the image."
    for t in range(len(blur)):
        out[:, t].copy_(images)


def routes(shape, frames):
    "Name every route with a call that does the whole work once."
    batch, channels, height, width = shape
    blur, noise = (v.tolist() for v in schedule(frames, BLUR, 0.5, "linear"))
    still, generator = [0.0] * frames, torch.Generator().manual_seed(0)
    images = torch.rand(shape, generator=generator)
    out, field = torch.empty(batch, frames, *shape[1:]), torch.empty(shape)
    arrays = np.ascontiguousarray(images.permute(0, 2, 3, 1).numpy())
    stack = np.empty((batch, frames, height, width, channels), np.float32)
    return {
        KORNIA: lambda: by_kornia(images, blur, out),
        OPENCV: lambda: by_opencv(arrays, blur, stack),
        OURS: lambda: pseudo_video(images, blur, still),
        OURS_OUT: lambda: pseudo_video(images, blur, still, out=out),
        FLOOR: lambda: by_copies(images, blur, out),
        NOISY: lambda: pseudo_video(images, blur, noise, generator=generator, out=out),
        DRAWS: lambda: [torch.randn(shape, generator=generator, out=field) for _ in range(frames - 1)],
    }


def peak(call):
    """Give the most bytes that torch held at once during a call, beyond those it held before.

    A new thread makes the call, because pvlit keeps its work buffers for the next call of the same thread."""
    found = []

    def watch():
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
            call()
        held = [0]
        for event in sorted(profile.profiler.kineto_results.events(), key=lambda e: e.start_ns()):
            if event.name() == "[memory]":
                held.append(held[-1] + event.nbytes())
        found.append(max(held))

    thread = threading.Thread(target=watch)
    thread.start()
    thread.join()
    return found[0]


def measure(shape, frames, rounds):
    "Time all routes on one shape, taking turns; give one row per route."
    calls = routes(shape, frames)
    times = {name: [] for name in calls}
    for turn in range(rounds + 2):  # the first two build caches and are not counted
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn > 1:
                times[name].append(1e3 * (time.perf_counter() - start))
    output = 4 * math.prod(shape) * frames
    extra = {
        name: peak(call) - (output if name == OURS else 0)
        for name, call in calls.items()
        if name not in (OPENCV, DRAWS)
    }
    return [
        dict(
            route=name,
            shape=list(shape),
            frames=frames,
            ms=round(statistics.median(t), 3),
            ms_min=round(min(t), 3),
            extra_mib=round(extra[name] / 2**20, 2) if name in extra else None,
            extra_share=round(extra[name] / output, 3) if name in extra else None,
        )
        for name, t in times.items()
    ]


def find(rows, route, shape, frames=FRAMES):
    return next(r for r in rows if (r["route"], tuple(r["shape"]), r["frames"]) == (route, shape, frames))


def targets(rows):
    "Compare with what was promised; every speed is a ratio of medians, larger is better."

    def ratio(slow, fast, shape):
        return round(find(rows, slow, shape)["ms"] / find(rows, fast, shape)["ms"], 2)

    small, large = ("x".join(map(str, shape)) for shape in (SMALL, LARGE))
    return [
        at_least(f"{small}: times faster than kornia", 5, ratio(KORNIA, OURS_OUT, SMALL)),
        at_least(f"{large}: times faster than kornia", 6, ratio(KORNIA, OURS_OUT, LARGE)),
        at_least(f"{large}: times faster than OpenCV", 1, ratio(OPENCV, OURS_OUT, LARGE)),
        at_most(
            f"{small}: extra memory as a share of the output, out=", 0.5, find(rows, OURS_OUT, SMALL)["extra_share"]
        ),
        at_most(
            f"{large}: extra memory as a share of the output, out=", 0.5, find(rows, OURS_OUT, LARGE)["extra_share"]
        ),
    ]


def table(rows):
    "Print what was measured, each beside its floor and kornia."
    print(
        f"{'shape':>14} {'T':>3}  {'route':30} {'ms':>9} {'least':>9} {'x floor':>8} {'x kornia':>8} {'extra MiB':>9}"
    )
    for r in rows:
        floor, peer = (find(rows, name, tuple(r["shape"]), r["frames"])["ms"] for name in (FLOOR, KORNIA))
        extra = "" if r["extra_mib"] is None else f"{r['extra_mib']:.2f}"
        print(
            f"{'x'.join(map(str, r['shape'])):>14} {r['frames']:>3}  {r['route']:30} {r['ms']:9.3f} {r['ms_min']:9.3f}"
            f" {r['ms'] / floor:8.1f} {peer / r['ms']:8.2f} {extra:>9}"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small tensors, two rounds, writes nothing")
    parser.add_argument("--rounds", type=int, default=25, help="measured rounds")
    parser.add_argument("--threads", type=int, default=2, help="threads for torch and OpenCV")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    cv2.setNumThreads(args.threads)
    if args.quick:
        return table(measure((2, 3, 16, 16), 4, 2))
    cases = dict.fromkeys(
        [
            (SMALL, FRAMES),
            (LARGE, FRAMES),
            *((SMALL, t) for t in (1, 2, 4, 16)),
            *(((16, 3, size, size), FRAMES) for size in (16, 32, 64)),
        ]
    )
    rows = [row for shape, frames in cases for row in measure(shape, frames, args.rounds)]
    checked = targets(rows)
    table(rows)
    print(
        "\nPeers: sampled taps within three standard deviations. pvlit: the heat kernel of the pixel grid, cut at 5e-7."
    )
    publish("corruption", rows, checked)


if __name__ == "__main__":
    main()
