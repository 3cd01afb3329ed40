"""Drawing images by DDIM: pvlit's `ddim_sample` beside diffusers' DDIMPipeline, both with the same network.

    python benchmarks/sampling.py            # 64 images, 50 steps; writes benchmarks/results/sampling.json
    python benchmarks/sampling.py --quick    # 4 images, 3 steps, one round, writes nothing: does it run?

diffusers' UNet2DModel can be laid out like pvlit's U-Net of base width 32, block by block. Here it is, and gets the
very weights: both have as many parameters, do as many operations, and draw the same images from the same start, which
is checked before anything is timed. What is compared is how well one and the same arithmetic is carried out. The floor
is the network alone, called 50 times on one batch of 64 images, 3 x 32 x 32. All live in one process and take turns;
the numbers are medians over the rounds, and the target is a ratio.
"""

import argparse
import statistics
import time
import warnings

import torch
from torch import nn

from _report import at_least, gflop, publish
from pvlit.pseudo_video.families.diffusion import Stage, UNet, ddim_sample

OURS, PEER, FLOOR = "pvlit, ddim_sample", "diffusers, DDIMPipeline", "floor: pvlit's network alone"
WIDTH, SIZE = 32, 32


def network():
    "Make pvlit's U-Net; what training would have moved away from zero is moved."
    net, generator = (
        UNet(3, width=WIDTH, size=SIZE, seed=0).eval().requires_grad_(False),
        torch.Generator().manual_seed(0),
    )
    for p in net.parameters():
        if not p.any():
            p.copy_(0.02 * torch.randn(p.shape, generator=generator))
    return net


def peer_network():
    "Make diffusers' U-Net with the same blocks."
    from diffusers import UNet2DModel

    plain, attending = "{}Block2D", "Attn{}Block2D"
    return (
        UNet2DModel(
            sample_size=SIZE,
            in_channels=3,
            out_channels=3,
            block_out_channels=(WIDTH, 2 * WIDTH, 4 * WIDTH, 4 * WIDTH),
            layers_per_block=1,
            down_block_types=[k.format("Down") for k in (plain, plain, attending, attending)],
            up_block_types=[k.format("Up") for k in (attending, attending, plain, plain)],
            norm_num_groups=8,
            attn_norm_num_groups=8,
            attention_head_dim=32,
            resnet_time_scale_shift="scale_shift",
            flip_sin_to_cos=True,
            freq_shift=0,
        )
        .eval()
        .requires_grad_(False)
    )


def layers_of_stage(stage, block, attention):
    """Pair the layers of one stage with diffusers' residual block and attention.

    Three projections of theirs are one here.
    """
    b = stage.block
    yield from (
        (b.norm1, block.norm1),
        (b.conv1, block.conv1),
        (b.film, block.time_emb_proj),
        (b.norm2, block.norm2),
        (b.conv2, block.conv2),
    )
    if not isinstance(b.skip, nn.Identity):
        yield b.skip, block.conv_shortcut
    if stage.attention:
        a = stage.attention
        yield from (
            (a.norm, attention.group_norm),
            (a.qkv, (attention.to_q, attention.to_k, attention.to_v)),
            (a.out, attention.to_out[0]),
        )


def layers(ours, peer):
    "Pair the layers of the two networks in running order."
    yield from (
        (ours.embed[0], peer.time_embedding.linear_1),
        (ours.embed[2], peer.time_embedding.linear_2),
        (ours.spatial.stem, peer.conv_in),
    )
    for mine, blocks, between in (
        (ours.spatial.down, peer.down_blocks, "downsamplers"),
        (ours.spatial.up, peer.up_blocks, "upsamplers"),
    ):
        theirs = []
        for block in blocks:
            theirs += zip(block.resnets, getattr(block, "attentions", None) or [None] * len(block.resnets))
            if getattr(block, between):
                theirs.append(getattr(block, between)[0].conv)
        for a, b in zip(mine, theirs, strict=True):
            if isinstance(a, Stage):
                yield from layers_of_stage(a, *b)
            else:
                yield (a[1] if isinstance(a, nn.Sequential) else a), b
    middle = peer.mid_block
    for stage, block, attention in zip(ours.spatial.middle, middle.resnets, (middle.attentions[0], None), strict=True):
        yield from layers_of_stage(stage, block, attention)
    yield from ((ours.spatial.head[0], peer.conv_norm_out), (ours.spatial.head[2], peer.conv_out))


def copy_weights(ours, peer):
    "Give diffusers' network the weights of pvlit's; refuse when one is left over."
    copied = 0
    for mine, theirs in layers(ours, peer):
        theirs = theirs if isinstance(theirs, tuple) else (theirs,)
        for name in ("weight", "bias"):
            for part, target in zip(getattr(mine, name).chunk(len(theirs)), theirs):
                copied += getattr(target, name).copy_(part).numel()
    if not copied == parameters(ours) == parameters(peer):
        raise SystemExit(
            f"{copied} numbers copied of {parameters(ours)}, the peer has {parameters(peer)}: not the same network"
        )


def parameters(net):
    return sum(p.numel() for p in net.parameters())


def contenders(images, steps):
    "Name every row with its network and a call that draws all images."
    from diffusers import DDIMPipeline, DDIMScheduler

    ours, peer = network(), peer_network()
    copy_weights(ours, peer)
    pipeline = DDIMPipeline(peer, DDIMScheduler(beta_schedule="squaredcos_cap_v2"))
    pipeline.set_progress_bar_config(disable=True)
    shape, generator = (3, SIZE, SIZE), lambda: torch.Generator().manual_seed(0)
    x, t = torch.randn(images, *shape, generator=generator()), torch.zeros(images, dtype=torch.long)
    return {
        OURS: (ours, lambda: ddim_sample(ours, images, shape, steps=steps, clip=1, generator=generator())),
        PEER: (
            peer,
            lambda: torch.from_numpy(
                pipeline(
                    batch_size=images,
                    num_inference_steps=steps,
                    generator=generator(),
                    output_type="np",
                    use_clipped_model_output=True,
                ).images
            ).permute(0, 3, 1, 2),
        ),
        FLOOR: (ours, lambda: [ours(x, t) for _ in range(steps)]),
    }


def same_images(rows):
    "Draw with both; refuse to go on unless the images agree."
    with torch.no_grad():
        mine, theirs = (rows[name][1]().clamp(0, 1) for name in (OURS, PEER))
    difference = (mine - theirs).abs().max().item()
    print(f"largest difference of a pixel: {difference:.1e}; the images span {mine.min():.2f} to {mine.max():.2f}")
    if not difference < 2e-3:
        raise SystemExit("the two do not draw the same images: nothing to compare")
    return difference


@torch.no_grad()
def gflop_per_evaluation(net):
    "Count the billions of operations of one evaluation of one image."
    x, t = torch.zeros(1, 3, SIZE, SIZE), torch.zeros(1, dtype=torch.long)
    return gflop(lambda: net(x, t))


def measure(images, steps, rounds):
    "Time all contenders in turn; the check before has warmed them up."
    rows = contenders(images, steps)
    difference, times = same_images(rows), {name: [] for name in rows}
    for _ in range(rounds):
        for name, (_, call) in rows.items():
            start = time.perf_counter()
            with torch.no_grad():
                call()
            times[name].append(time.perf_counter() - start)
    floor = statistics.median(times[FLOOR])
    return [
        dict(
            name=name,
            images=images,
            size=SIZE,
            steps=steps,
            parameters=parameters(net),
            gflop_per_evaluation=gflop_per_evaluation(net),
            seconds=statistics.median(times[name]),
            seconds_min=min(times[name]),
            images_per_second=images / statistics.median(times[name]),
            x_floor=statistics.median(times[name]) / floor,
            difference=difference,
        )
        for name, (net, _) in rows.items()
    ]


def targets(rows):
    row = {r["name"]: r for r in rows}
    return [
        at_least(
            "images a second, times diffusers'", 1.0, row[OURS]["images_per_second"] / row[PEER]["images_per_second"]
        )
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--steps", type=int, default=50, help="network evaluations for each image")
    parser.add_argument("--quick", action="store_true", help="4 images, 3 steps, one round, writes nothing")
    options = parser.parse_args()
    if options.quick:
        options.images, options.steps, options.rounds = 4, 3, 1
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", category=FutureWarning)
    rows = measure(options.images, options.steps, options.rounds)
    print(f"{'':30}{'M params':>10}{'GFLOP':>8}{'s':>9}{'least':>9}{'images/s':>10}{'x floor':>9}")
    for r in rows:
        print(
            f"{r['name']:30}{r['parameters'] / 1e6:10.3f}{r['gflop_per_evaluation']:8.3f}{r['seconds']:9.2f}"
            f"{r['seconds_min']:9.2f}{r['images_per_second']:10.2f}{r['x_floor']:9.2f}"
        )
    if not options.quick:
        publish("sampling", rows, targets(rows))


if __name__ == "__main__":
    main()
