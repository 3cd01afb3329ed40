"""What a training step with Motion Coherent Augmentation costs, beside the plain step, and where the rest goes.

    python benchmarks/motion_step.py            # writes benchmarks/results/motion_step.json
    python benchmarks/motion_step.py --quick    # tiny tensors, two rounds, writes nothing: does it run?

A step is forward, loss, backward and update of a compact TSM on 8 clips of 8 frames, 64 x 64, all forms in one process,
taking turns; ratios are of medians. The floor of the full method is a plain step with twice the clips. In all forms of
MCA but the last the prediction on the clean clips serves both terms of the loss; the last computes it a second time for
the alignment, as a loss that is written term by term would.

Everything is measured twice: as the C library hands out memory by itself, and told to keep what it once had. By itself
it gives every block above 32 MiB back to the system at once, and filling its pages anew costs more than the arithmetic:
that, not the method, is most of what a doubled batch costs on a CPU. GPUs are not concerned, torch keeps their memory.
"""

import argparse
import ctypes
import statistics
import time

import torch
import torch.nn.functional as F

from _report import at_most, publish
from pvlit.motion_coherence.alignment import MotionCoherentLoss, variation_alignment_loss
from pvlit.motion_coherence.swapmix import SwapMix
from pvlit.motion_coherence.backbones.tsm import TSM

PLAIN, DOUBLE, MIXED, JOINT, SPLIT, CLEAN = (
    "plain",
    "plain, twice the clips",
    "SwapMix, plain loss",
    "MCA, joint",
    "MCA, split",
    "MCA, clean",
)
GIVEN_BACK, KEPT = "given back", "kept"
TWICE, SWAP, ALIGN = "MCA, clean prediction computed twice", "alone: SwapMix", "alone: alignment of logits"


def keep_memory():
    "Let glibc keep the memory it has (no mmap, no trim); return whether it understood."
    try:
        return bool(ctypes.CDLL("libc.so.6").mallopt(-4, 0) and ctypes.CDLL("libc.so.6").mallopt(-1, 2**31 - 1))
    except OSError:
        return False


def forms(shape, width):
    "Name every form with a call that does one step, and the parts that can be timed alone."
    batch, frames, size = shape
    generator, classes = torch.Generator().manual_seed(0), 12
    clips = torch.rand(batch, frames, 3, size, size, generator=generator)
    double = clips.repeat(2, 1, 1, 1, 1)
    labels, swap = torch.randint(classes, (batch,), generator=generator), SwapMix()

    def step(loss):
        model = TSM(
            classes, layers=(2, 2, 2, 2), block="basic", width=width, dropout=0.0, small_input=True, seed=0
        ).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)

        def call():
            optimizer.zero_grad(set_to_none=True)
            loss(model).backward()
            optimizer.step()

        return call

    def twice(model):
        mixed = swap(clips, generator)
        with torch.no_grad():
            clean = model(clips)
        return F.cross_entropy(model(clips), labels) + variation_alignment_loss(clean, model(mixed))

    coherent = {mode: MotionCoherentLoss(1.0, batch_norm=mode) for mode in ("joint", "split", "clean")}
    logits = torch.randn(2, batch, classes, generator=generator)
    return {
        PLAIN: step(lambda model: F.cross_entropy(model(clips), labels)),
        DOUBLE: step(lambda model: F.cross_entropy(model(double), labels.repeat(2))),
        MIXED: step(lambda model: F.cross_entropy(model(swap(clips, generator)), labels)),
        JOINT: step(lambda model: coherent["joint"](model, clips, labels, generator)[0]),
        SPLIT: step(lambda model: coherent["split"](model, clips, labels, generator)[0]),
        CLEAN: step(lambda model: coherent["clean"](model, clips, labels, generator)[0]),
        TWICE: step(twice),
        SWAP: lambda: swap(clips, generator),
        ALIGN: lambda: variation_alignment_loss(*logits.unbind()),
    }


def measure(shape, width, rounds, memory):
    "Time all forms in turn; give one row per form."
    calls = forms(shape, width)
    times = {name: [] for name in calls}
    for turn in range(rounds + 1):  # the first is not counted
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - start))
    plain = statistics.median(times[PLAIN])
    return [
        dict(
            form=name,
            memory=memory,
            shape=list(shape),
            ms=round(statistics.median(t), 3),
            ms_min=round(min(t), 3),
            times_plain=round(statistics.median(t) / plain, 4),
        )
        for name, t in times.items()
    ]


def targets(rows):
    found = []
    for memory in dict.fromkeys(r["memory"] for r in rows):
        row = {r["form"]: r["times_plain"] for r in rows if r["memory"] == memory}
        found += [
            at_most(f"memory {memory}: step with MCA, times the plain step", 2.1, row[JOINT]),
            at_most(f"memory {memory}: step with MCA and split statistics, times the plain step", 2.1, row[SPLIT]),
        ]
    return found + [at_most("SwapMix alone, share of the plain step", 0.02, row[SWAP])]


def table(rows):
    print(f"{'memory':12} {'form':40} {'ms':>9} {'least':>9} {'x plain':>8}")
    for r in rows:
        print(f"{r['memory']:12} {r['form']:40} {r['ms']:9.3f} {r['ms_min']:9.3f} {r['times_plain']:8.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny tensors, two rounds, writes nothing")
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds")
    parser.add_argument("--threads", type=int, default=2, help="threads for torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    shape, width, rounds = ((4, 4, 16), 8, 2) if args.quick else ((8, 8, 64), 32, args.rounds)
    rows = measure(shape, width, rounds, GIVEN_BACK)
    if keep_memory():
        rows += measure(shape, width, rounds, KEPT)
    table(rows)
    if not args.quick:
        publish("motion_step", rows, targets(rows))


if __name__ == "__main__":
    main()
