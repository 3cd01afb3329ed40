"""One training step of the video U-Net beside lucidrains' Unet3D and beside the image U-Net on the same pixels.

    python benchmarks/video_unet.py            # writes benchmarks/results/video_unet.json
    python benchmarks/video_unet.py --quick    # small tensors, one round, writes nothing: does it run?

A step is: draw steps and noise, forward, mean squared error, backward, Adam. All contenders live in one process and
take turns, so that a slow minute of the machine hits all of them; the numbers are medians over the rounds, and targets
are ratios. The floor is the image U-Net on as many single images: what the video model would cost if frames did not
have to talk. How the cost grows with the number of frames is the slope of a straight line through log(T) and log(cost),
once in milliseconds and once in floating-point operations, which do not depend on the machine; attention over frames
alone would be 2. The peers are installed by:
pip install --no-deps -r benchmarks/requirements.txt
"""

import argparse
import contextlib
import math
import resource
import statistics
import subprocess
import sys
import time

import torch

from _peers import Unet3D
from _report import at_least, at_most, gflop, publish
from pvlit.pseudo_video.families.diffusion import UNet, VideoUNet, epsilon_loss

CLIPS, FRAMES, SIZE, WIDTH = 8, 8, 32, 32
OURS, PEER, FLOOR = "pvlit VideoUNet", "lucidrains Unet3D", "pvlit UNet, frames as images"


def contenders(quick):
    "Name every row with its model and its batch shape."
    clips, frames, size, width = (2, 4, 16, 16) if quick else (CLIPS, FRAMES, SIZE, WIDTH)

    def ours(T, S):
        return lambda: VideoUNet(3, T, size=S, width=width, seed=0), (clips, T, 3, S, S)

    rows = {
        OURS: ours(frames, size),
        PEER: (lambda: Unet3D(3, width, (1, 2, 4, 8)), (clips, frames, 3, size, size)),
        FLOOR: (lambda: UNet(3, size=size, width=width, seed=0), (clips * frames, 3, size, size)),
    }
    if not quick:
        rows[f"{OURS}, attention to 16 px"] = (
            lambda: VideoUNet(3, frames, size=size, width=width, attention=16, seed=0),
            rows[OURS][1],
        )
    for T in (1, 2) if quick else (1, 2, 4, 16):
        rows[f"{OURS}, {T} frames"] = ours(T, size)
    for S in (8,) if quick else (16, 64):
        rows[f"{OURS}, {S} px"] = ours(frames, S)
    return rows


class Step:
    "One training step of a fresh model, ready to be timed."

    def __init__(self, make, shape):
        self.model, self.generator = make(), torch.Generator().manual_seed(0)
        self.batch = torch.rand(shape, generator=self.generator)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-4, fused=True)

    def __call__(self):
        start = time.perf_counter()
        loss = epsilon_loss(self.model, self.batch, self.generator)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start


def growth(rows, key):
    "Give the exponent of the cost over the frames T of the rows that differ in nothing else."
    found = {
        r["shape"][1]: r[key]
        for r in rows
        if r["name"] == OURS or r["name"].startswith(OURS) and r["name"].endswith(" frames")
    }
    return statistics.linear_regression([math.log(T) for T in found], [math.log(cost) for cost in found.values()]).slope


def peak_mib(name, quick, threads):
    "Return how far two steps raise the resident memory of a process of their own above its imports, in MiB."
    command = [sys.executable, __file__, "--memory", name, "--threads", str(threads), *["--quick"] * quick]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def resident_mib():
    "Return the greatest resident memory of this process so far. (Linux' ru_maxrss would start from the parent's.)"
    with contextlib.suppress(OSError):
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def measure_memory(name, quick):
    make, shape = contenders(quick)[name]
    make()  # so that what it imports does not count
    before, step = resident_mib(), Step(make, shape)
    for _ in range(2):
        step()
    print(resident_mib() - before)


def measure(rounds, quick, threads):
    "Time all contenders in turn, after one untimed step each."
    table = contenders(quick)
    steps = {name: Step(*spec) for name, spec in table.items()}
    times = {name: [] for name in steps}
    for round in range(rounds + 1):
        for name, step in steps.items():
            seconds = step()
            if round:
                times[name].append(seconds)
        print(f"round {round} of {rounds}", file=sys.stderr)
    floor = statistics.median(times[FLOOR])
    return [
        {
            "name": name,
            "shape": list(table[name][1]),
            "parameters": sum(p.numel() for p in step.model.parameters()),
            "median_ms": 1e3 * statistics.median(times[name]),
            "min_ms": 1e3 * min(times[name]),
            "max_ms": 1e3 * max(times[name]),
            "rounds": rounds,
            "x_floor": statistics.median(times[name]) / floor,
            "gflop": gflop(step),
            "peak_mib": peak_mib(name, quick, threads),
        }
        for name, step in steps.items()
    ]


def targets(rows):
    row = {r["name"]: r for r in rows}
    ratio = row[PEER]["median_ms"] / row[OURS]["median_ms"]
    return [
        at_least("times faster than lucidrains Unet3D", 5, ratio),
        at_most("parameters, at most those of Unet3D", row[PEER]["parameters"], row[OURS]["parameters"]),
        at_most("growth of the time with T from 1 to 16, exponent", 1.1, growth(rows, "median_ms")),
        at_most("growth of the operations with T from 1 to 16, exponent", 1.1, growth(rows, "gflop")),
    ]


def show(rows):
    print(f"{'':34}{'batch':>18}{'M params':>10}{'ms':>9}{'min':>9}{'max':>9}{'x floor':>9}{'GFLOP':>9}{'MiB':>7}")
    for r in rows:
        print(
            f"{r['name']:34}{'x'.join(map(str, r['shape'])):>18}{r['parameters'] / 1e6:10.2f}{r['median_ms']:9.1f}"
            f"{r['min_ms']:9.1f}{r['max_ms']:9.1f}{r['x_floor']:9.2f}{r['gflop']:9.1f}{r['peak_mib']:7.0f}"
        )
    print(f"growth with T, exponent: time {growth(rows, 'median_ms'):.3f}, operations {growth(rows, 'gflop'):.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, 3 or more for a result")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument(
        "--quick", action="store_true", help="small tensors, one round, no result file, targets not judged"
    )
    parser.add_argument("--memory", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 3 and not options.quick:
        parser.error("a result needs at least 3 rounds (or use --quick)")
    torch.set_num_threads(options.threads)
    if options.memory:
        return measure_memory(options.memory, options.quick)
    rows = measure(1 if options.quick else options.rounds, options.quick, options.threads)
    show(rows)
    if not options.quick:
        publish("video_unet", rows, targets(rows))


if __name__ == "__main__":
    main()
