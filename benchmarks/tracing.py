"""What the tracer of `pvlit.lab.trace` costs a training run: seconds of short trainings with and without it, in turns.

    python benchmarks/tracing.py            # writes benchmarks/results/tracing.json
    python benchmarks/tracing.py --quick    # one short turn, writes nothing: does it run?

The network is the small frame model of the first experiment, whose steps take about a millisecond: the worst case, as a
tracer costs time for calls of Python functions and a larger network makes as few of them.
"""

import argparse
import statistics
import sys
import time
from contextlib import nullcontext

import torch

from _report import at_most, publish
from pvlit.core.data import load_images
from pvlit.lab.trace import tracing
from pvlit.pseudo_video.studies.digits import FrameArm, FrameStudy, train_arm


def seconds(traced, steps, images):
    "Train once and return the processor's time."
    start = time.process_time()
    with tracing("pvlit") if traced else nullcontext():
        train_arm(FrameArm("star 4", frames=4, steps=steps), 0, FrameStudy(), images)
    return time.process_time() - start


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one short turn, nothing is written")
    quick = parser.parse_args().quick
    torch.set_num_threads(1)
    images, turns, steps = load_images("digits").x, 1 if quick else 9, 10 if quick else 300
    times = [(seconds(False, steps, images), seconds(True, steps, images)) for _ in range(turns)]
    ratio = statistics.median(traced / plain for plain, traced in times)
    way = "sys.monitoring" if hasattr(sys, "monitoring") else "sys.settrace"
    print(f"{way}: a traced training takes {ratio:.3f} times as long")
    if not quick:
        rows = [dict(way=way, steps=steps, plain=plain, traced=traced) for plain, traced in times]
        publish("tracing", rows, [at_most("traced over plain", 1.1, ratio)], threads=1)


if __name__ == "__main__":
    main()
