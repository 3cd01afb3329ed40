"""Clips as tokens: a step of the video tokenizer beside lucidrains' C-ViViT, and three ways to draw tokens.

    python benchmarks/tokens.py            # clips of 8 frames, 3 x 32 x 32; writes benchmarks/results/tokens.json
    python benchmarks/tokens.py --quick    # small tensors, one round, writes nothing: does it run?

A step of a tokenizer is forward, loss, backward and Adam on 8 clips. Both tokenizers have patches of 8 x 8, one token a
patch and frame, 128 features, 4 heads of 32, two transformer blocks in each of the four stacks, and 512 codes; C-ViViT
runs without its adversarial and perceptual losses and with its vector quantization. C-ViViT has more parameters at that
width (its blocks are gated), so pvlit's is measured a second time with 160 features and 5 heads, which gives it no
fewer than C-ViViT has.

The two priors are one transformer, so drawing compares how it is used: token by token with every prefix computed anew,
token by token with the keys and values of earlier tokens kept, and MaskGIT's ten rounds over all tokens at once. The
untrained networks draw at the speed of trained ones. All contenders take turns in one process; numbers are medians over
the rounds, targets ratios. The peer is installed by:
pip install --no-deps -r benchmarks/requirements.txt
"""

import argparse
import statistics
import time

import torch
from torch import nn

from _peers import cvivit_class
from _report import at_least, at_most, gflop, publish
from pvlit.pseudo_video.families.priors import FrameTransformer, MaskGIT
from pvlit.pseudo_video.families.tokenizer import VideoTokenizer

OURS, WIDE, PEER = (
    "pvlit VideoTokenizer, a step",
    "pvlit VideoTokenizer, 160 features, a step",
    "lucidrains C-ViViT, a step",
)
ANEW, CACHED, MASKED = "autoregressive, prefixes anew", "autoregressive, keys and values kept", "MaskGIT, 10 rounds"
CLIPS, DRAWN, FRAMES, SIZE, PATCH, WIDTH, HEADS, DEPTH, CODES = 8, 16, 8, 32, 8, 128, 4, 2, 512


class CViViT(nn.Module):
    "lucidrains' C-ViViT with the axes and the loss of pvlit's tokenizer."

    def __init__(self, size, codes):
        super().__init__()
        self.net = cvivit_class()(
            dim=WIDTH,
            codebook_size=codes,
            image_size=size,
            patch_size=PATCH,
            temporal_patch_size=1,
            spatial_depth=DEPTH,
            temporal_depth=DEPTH,
            dim_head=WIDTH // HEADS,
            heads=HEADS,
            channels=3,
            use_vgg_and_gan=False,
            lookup_free_quantization=False,
        )

    def loss(self, clips, generator):
        return self.net(clips.transpose(1, 2))


def stepper(model, clips):
    "Give a call that trains a tokenizer by one step."
    optimizer, generator = (
        torch.optim.Adam(model.train().parameters(), 1e-4, fused=True),
        torch.Generator().manual_seed(0),
    )

    def step():
        optimizer.zero_grad()
        model.loss(clips, generator).backward()
        optimizer.step()

    return step


def contenders(quick):
    "Name every row with its network and a call that does its work once."
    frames, size, drawn, codes = (2, 16, 2, 32) if quick else (FRAMES, SIZE, DRAWN, CODES)
    clips = torch.rand(CLIPS, frames, 3, size, size, generator=torch.Generator().manual_seed(0))
    ours, wide = (
        VideoTokenizer((3, size, size), frames, codes, width, width, DEPTH, width * HEADS // WIDTH, PATCH, seed=0)
        for width in (WIDTH, 160)
    )
    peer = CViViT(size, codes)
    shape = dict(codes=codes, slots=frames, places=(size // PATCH) ** 2, width=WIDTH, depth=4, heads=HEADS, seed=0)
    one_by_one, at_once, generator = (
        FrameTransformer(**shape).eval(),
        MaskGIT(**shape).eval(),
        torch.Generator().manual_seed(0),
    )
    return {
        OURS: (ours, stepper(ours, clips)),
        WIDE: (wide, stepper(wide, clips)),
        PEER: (peer, stepper(peer, clips)),
        ANEW: (one_by_one, lambda: one_by_one.sample(drawn, generator, cached=False)),
        CACHED: (one_by_one, lambda: one_by_one.sample(drawn, generator)),
        MASKED: (at_once, lambda: at_once.sample(drawn, generator, rounds=10)),
    }


def measure(rounds, quick):
    "Time all contenders in turn; the first turn is not counted."
    rows = contenders(quick)
    times = {name: [] for name in rows}
    for turn in range(rounds + 1):
        for name, (_, call) in rows.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(1e3 * (time.perf_counter() - start))
    return [
        dict(
            name=name,
            frames=2 if quick else FRAMES,
            parameters=sum(p.numel() for p in net.parameters()),
            ms=statistics.median(times[name]),
            ms_min=min(times[name]),
            gflop=gflop(call),
        )
        for name, (net, call) in rows.items()
    ]


def targets(rows):
    row = {r["name"]: r for r in rows}
    ratio = lambda a, b: row[a]["ms"] / row[b]["ms"]
    return [
        at_most("a step of the tokenizer, times C-ViViT's", 1.2, ratio(OURS, PEER)),
        at_most("a step of the tokenizer with no fewer parameters, times C-ViViT's", 1.2, ratio(WIDE, PEER)),
        at_least("MaskGIT, times faster than prefixes anew", 5, ratio(ANEW, MASKED)),
        at_least("keys and values kept, times faster than prefixes anew", 3, ratio(ANEW, CACHED)),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small tensors, one round, writes nothing")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    rows = measure(1 if options.quick else options.rounds, options.quick)
    print(f"{'':44}{'M params':>10}{'GFLOP':>9}{'ms':>10}{'least':>10}")
    for r in rows:
        print(f"{r['name']:44}{r['parameters'] / 1e6:10.3f}{r['gflop']:9.2f}{r['ms']:10.1f}{r['ms_min']:10.1f}")
    if not options.quick:
        publish("tokens", rows, targets(rows))


if __name__ == "__main__":
    main()
