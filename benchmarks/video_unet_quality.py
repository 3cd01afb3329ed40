"""What equal time buys: feature Frechet distance of the video U-Net and lucidrains' Unet3D after equal training time.

    python benchmarks/video_unet_quality.py            # writes benchmarks/results/video_unet_quality.json
    python benchmarks/video_unet_quality.py --quick    # two seconds each, one seed, writes nothing: does it run?

Pseudo videos of handwritten digits at 16 x 16, four frames, star coupling. Both networks have base width 32 and levels
of 1, 2 and 2 widths, and pvlit's has fewer parameters; each is trained for 60 s with each of three seeds. Everything
else is one piece of code: AdamW, batches, noise prediction on the cosine schedule, averaged weights, DDIM with 30
steps, feature network, test images. The rate falls along half a cosine of the time used.

The clock is the processor's time of this process on one thread, so that a shared machine does not favor anybody. It
runs while batches are made and steps are taken; sampling and scoring are outside. The C library is told to keep its
memory (see motion_step.py), which helps the network that needs more of it. Every finished run is kept in the cache, and
a benchmark that was stopped goes on; --fresh forgets them. The first step of each network, which warms things up, is
not on the clock and is undone.
"""

import argparse
import copy
import json
import math
import statistics
import time
from pathlib import Path

import torch

from _peers import Unet3D
from _report import at_most, publish
from motion_step import keep_memory
from pvlit.core.data import load_images
from pvlit.core.files import digest, intact, sealed, write_whole
from pvlit.core.metrics import extract_features, feature_frechet, feature_net, split_half_floor
from pvlit.core.nets import initialized_from
from pvlit.core.settings import load_settings
from pvlit.core.training import DataOrder, ema_decay
from pvlit.pseudo_video.clips import Recipe
from pvlit.pseudo_video.families.diffusion import VideoUNet, ddim_sample, epsilon_loss

FRAMES, SIZE, WIDTH, LEVELS, BATCH, RATE, EMA, DDIM = 4, 16, 32, (1, 2, 2), 16, 1e-3, 0.995, 30
OURS, PEER = "pvlit VideoUNet", "lucidrains Unet3D"


def build(name, seed):
    "Make an untrained network; its weights depend on the seed alone."
    with initialized_from(seed):
        return (
            VideoUNet(1, FRAMES, width=WIDTH, multipliers=LEVELS, attention=SIZE // 2, size=SIZE)
            if name == OURS
            else Unet3D(1, WIDTH, LEVELS)
        )


class Training:
    "A network, its average and what a step needs; weights, order and noise follow from the seed."

    def __init__(self, name, images, seed):
        self.model, self.images, self.unit = build(name, seed).train(), images, images.std().item()
        self.average, self.taken = copy.deepcopy(self.model).eval(), 0
        self.optimizer = torch.optim.AdamW(self.model.parameters(), RATE, fused=True)
        self.order, self.generator = DataOrder(len(images), BATCH, seed), torch.Generator().manual_seed(seed)
        self.recipe = Recipe(FRAMES, coupling="star")

    def step(self, rate):
        clips = self.recipe.make(self.images[self.order(self.taken)], self.unit, self.generator)
        self.optimizer.param_groups[0]["lr"] = rate
        self.optimizer.zero_grad()
        epsilon_loss(self.model, clips, self.generator).backward()
        self.optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.model.parameters()), 1 - ema_decay(EMA, self.taken)
            )
        self.taken += 1


def train(name, images, seed, budget):
    "Train for `budget` seconds of processor time; give the averaged network and the number of steps."
    Training(name, images, seed).step(RATE)  # warms up; thrown away
    training, start = Training(name, images, seed), time.process_time()
    while (used := time.process_time() - start) < budget:
        training.step(RATE * (1 + math.cos(math.pi * used / budget)) / 2)
    return training.average, training.taken, used


def run(name, seed, options, data):
    "Train, sample and score one network on one seed."
    train_images, test_images, net = data
    model, steps, used = train(name, train_images.x, seed, options.budget)
    start = time.process_time()
    clips = ddim_sample(
        model,
        options.samples,
        (FRAMES, 1, SIZE, SIZE),
        steps=DDIM,
        generator=torch.Generator().manual_seed(1000 + seed),
        batch_size=32,
    )
    sampling = time.process_time() - start
    return dict(
        name=name,
        seed=seed,
        frechet=feature_frechet(net, clips[:, -1].clamp(0, 1), test_images),
        steps=steps,
        budget=options.budget,
        train_seconds=used,
        sample_seconds=sampling,
        samples=options.samples,
        parameters=sum(p.numel() for p in model.parameters()),
    )


def kept(name, seed, options, data):
    "Give the row of a finished run, or make it."
    key = digest(
        [
            name,
            seed,
            options.budget,
            options.samples,
            FRAMES,
            SIZE,
            WIDTH,
            LEVELS,
            BATCH,
            RATE,
            EMA,
            DDIM,
            data[0].fingerprint,
            data[2].fingerprint,
            torch.__version__,
        ]
    )
    path = load_settings(Path(__file__).parent).cache / "benchmarks" / f"video_unet_quality-{key}.json"
    if path.exists() and not options.fresh and intact(row := json.loads(path.read_text())):
        return row
    row = sealed(run(name, seed, options, data))
    if not options.quick:
        write_whole(path, json.dumps(row))
    return row


def scale(data):
    "Give the distances that any generator lies between."
    train_images, test_images, net = data
    mean = train_images.x.mean(0, keepdim=True).expand(len(test_images), -1, -1, -1)
    return {
        "halves of the test set": split_half_floor(
            extract_features(net, test_images), torch.Generator().manual_seed(0)
        ),
        "train images": feature_frechet(net, train_images, test_images),
        "the mean image": feature_frechet(net, mean, test_images),
    }


def targets(rows):
    of = lambda name, key: [r[key] for r in rows if r["name"] == name]
    ratio = math.exp(statistics.mean(math.log(a / b) for a, b in zip(of(OURS, "frechet"), of(PEER, "frechet"))))
    return [
        at_most("feature Frechet distance after equal processor time, times that of Unet3D", 1.0, ratio),
        at_most("parameters, at most those of Unet3D", of(PEER, "parameters")[0], of(OURS, "parameters")[0]),
    ]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--budget", type=float, default=60, help="seconds of processor time for each training")
    parser.add_argument(
        "--seeds",
        type=int,
        nargs="+",
        default=[10, 11, 12],
        help="3 or more for a result; those below 10 were used while this was written",
    )
    parser.add_argument("--samples", type=int, default=200, help="generated clips that are scored")
    parser.add_argument("--fresh", action="store_true", help="run again what is kept")
    parser.add_argument("--quick", action="store_true", help="two seconds, one seed, few samples, writes nothing")
    options = parser.parse_args()
    if options.quick:
        options.budget, options.seeds, options.samples, options.fresh = 2, [0], 16, True
    torch.set_num_threads(1)
    keep_memory()
    data = (
        *(load_images("digits", split, SIZE, 1) for split in ("train", "test")),
        feature_net("digits", size=SIZE, channels=1),
    )
    rows = []
    for seed in options.seeds:
        for name in (OURS, PEER):
            rows.append(kept(name, seed, options, data))
            r = rows[-1]
            print(
                f"{r['name']:20} seed {r['seed']:3}  {r['steps']:5} steps in {r['train_seconds']:6.1f} s  "
                f"feature Frechet distance {r['frechet']:8.2f}  (sampled in {r['sample_seconds']:.0f} s)",
                flush=True,
            )
    anchors = scale(data)
    print("for scale: " + ", ".join(f"{name} {value:.2f}" for name, value in anchors.items()))
    if len(options.seeds) < 3:
        print("fewer than 3 seeds: no result was written")
    else:
        publish(
            "video_unet_quality",
            rows + [dict(name=name, frechet=value) for name, value in anchors.items()],
            targets(rows),
        )


if __name__ == "__main__":
    main()
