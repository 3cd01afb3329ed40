"""What a training step with Motion Coherent Augmentation costs, beside the plain step, and where the rest goes.

    python benchmarks/motion_step.py            # a compact TSM on 16 clips of 8 frames, 64 x 64; writes benchmarks/results/motion_step.json
    python benchmarks/motion_step.py --quick    # tiny tensors, two rounds, writes nothing: does it run?

A step is forward, loss, backward and update, all forms in one process, taking turns; ratios are of medians. The floor of the
full method is two plain steps: as many clips again pass through the network, forward and backward. "reused" is the form in
which the prediction on the clean clips serves both terms of the loss, as it does in all forms here; "twice" computes it a
second time for the alignment, as a loss that is written term by term would.
"""
import argparse, statistics, time

import torch
import torch.nn.functional as F

from _report import at_most, publish
from pvlit.motion_coherence.alignment import MotionCoherentLoss, variation_alignment_loss
from pvlit.motion_coherence.swapmix import SwapMix
from pvlit.motion_coherence.tsm import TSM

PLAIN, MIXED, JOINT, SPLIT, CLEAN = "plain", "SwapMix, plain loss", "MCA, joint", "MCA, split", "MCA, clean"
TWICE, SWAP, ALIGN = "MCA, clean prediction computed twice", "alone: SwapMix", "alone: alignment of logits"


def forms(shape, width):
    "Name every form with a call that does one step, and the parts that can be timed alone."
    batch, frames, size = shape
    generator, classes = torch.Generator().manual_seed(0), 12
    clips = torch.rand(batch, frames, 3, size, size, generator=generator)
    labels, swap = torch.randint(classes, (batch,), generator=generator), SwapMix()

    def step(loss):
        model = TSM(classes, layers=(2, 2, 2, 2), block="basic", width=width, dropout=0.0, small_input=True, seed=0).train()
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
        def call():
            optimizer.zero_grad(set_to_none=True)
            loss(model).backward()
            optimizer.step()
        return call

    def twice(model):
        mixed = swap(clips, generator)
        with torch.no_grad(): clean = model(clips)
        return F.cross_entropy(model(clips), labels) + variation_alignment_loss(clean, model(mixed))

    coherent = {mode: MotionCoherentLoss(1.0, batch_norm=mode) for mode in ("joint", "split", "clean")}
    logits = torch.randn(2, batch, classes, generator=generator)
    return {PLAIN: step(lambda model: F.cross_entropy(model(clips), labels)), MIXED: step(lambda model: F.cross_entropy(model(swap(clips, generator)), labels)),
            JOINT: step(lambda model: coherent["joint"](model, clips, labels, generator)[0]), SPLIT: step(lambda model: coherent["split"](model, clips, labels, generator)[0]),
            CLEAN: step(lambda model: coherent["clean"](model, clips, labels, generator)[0]), TWICE: step(twice),
            SWAP: lambda: swap(clips, generator), ALIGN: lambda: variation_alignment_loss(*logits.unbind())}


def measure(shape, width, rounds):
    "Time all forms in turn; give one row per form."
    calls = forms(shape, width)
    times = {name: [] for name in calls}
    for turn in range(rounds + 1):  # the first is not counted
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn: times[name].append(1e3 * (time.perf_counter() - start))
    plain = statistics.median(times[PLAIN])
    return [dict(form=name, shape=list(shape), ms=round(statistics.median(t), 3), ms_min=round(min(t), 3), times_plain=round(statistics.median(t) / plain, 4)) for name, t in times.items()]


def targets(rows):
    row = {r["form"]: r["times_plain"] for r in rows}
    return [at_most("step with MCA, times the plain step", 2.1, row[JOINT]), at_most("step with MCA and split statistics, times the plain step", 2.1, row[SPLIT]),
            at_most("SwapMix alone, share of the plain step", 0.02, row[SWAP])]


def table(rows):
    print(f"{'form':40} {'ms':>9} {'least':>9} {'x plain':>8}")
    for r in rows: print(f"{r['form']:40} {r['ms']:9.3f} {r['ms_min']:9.3f} {r['times_plain']:8.3f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny tensors, two rounds, writes nothing")
    parser.add_argument("--rounds", type=int, default=9, help="measured rounds")
    parser.add_argument("--threads", type=int, default=2, help="threads for torch")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    rows = measure((4, 4, 16), 8, 2) if args.quick else measure((16, 8, 64), 32, args.rounds)
    table(rows)
    if not args.quick: publish("motion_step", rows, targets(rows))


if __name__ == "__main__": main()
