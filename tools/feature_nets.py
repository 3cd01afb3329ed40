"""Make the feature networks in data/feature_nets, or look at them.

    python tools/feature_nets.py [data set ...]    train, and write the files and index.json
    python tools/feature_nets.py --check           change nothing; exit with 1 when a file is not what the index says

Data sets: digits (8 x 8), digits_tints (the digits in six tints, 3 x 8 x 8) and fashion_mnist (16 x 16, from the hub
or from a file that PVLIT_IMAGES names). Networks that are trained on another processor differ from those here. Scores
rest on the files, so making them anew changes every score; only a new architecture is a reason to. Run it with
OMP_NUM_THREADS=1 and from a clean tree.
"""

import argparse
import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch

from pvlit.core import metrics
from pvlit.core.data import load_images
from pvlit.core.files import write_whole
from pvlit.core.settings import load_settings
from pvlit.crossings.drift import digits_and_tints

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "data" / "feature_nets"
SEEDS = range(5)
WANTED = ("digits", "digits_tints", "fashion_mnist")


def pictures(name):
    "Give the train and the test split that a network of this name is made of."
    if name == "digits_tints":
        train, test = digits_and_tints()
        return train[::5], test  # 5 and 6 have no common factor: all tints in turn
    size = {"digits": 8, "fashion_mnist": 16}[name]
    return tuple(load_images(name, split, size, 1) for split in ("train", "test"))


def processor():
    "Name the processor as the system does."
    info = Path("/proc/cpuinfo")
    names = [line for line in info.read_text().splitlines() if line.startswith("model name")] if info.is_file() else []
    return names[0].partition(":")[2].strip() if names else platform.processor() or platform.machine()


def made(name):
    "Say how, and by what, a network is made."
    git = lambda *words: subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    return {
        "command": f"python tools/feature_nets.py {name}",
        "commit": git("rev-parse", "HEAD"),
        "torch": torch.__version__,
        "processor": processor(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def make(name):
    "Train and write the networks of one data set; returns its entry of the index."
    train, test = pictures(name)
    entry = {"name": name, "data": train.fingerprint, "sketch": metrics._sketch(train), "nets": {}}
    for seed in SEEDS:
        net = metrics.train_feature_net(train, test, seed)
        file = f"{name}-{'x'.join(map(str, train.x.shape[1:]))}-seed{seed}.safetensors"
        record = {"recipe": metrics._RECIPE, "data": train.fingerprint, "seed": seed, "made": made(name)}
        metrics._save_net(net, FOLDER / file, record)
        entry["nets"][str(seed)] = {"file": file, "net": net.fingerprint, "accuracy": net.accuracy}
        print(f"{file}  {net.fingerprint}  {net.accuracy:.2%}", flush=True)
    return entry


def write_index(entries):
    "Put entries into the index, in the order of their names; entries of other data sets stay."
    path = FOLDER / "index.json"
    kept = {entry["name"]: entry for entry in (json.loads(path.read_text()) if path.is_file() else [])}
    kept |= {entry["name"]: entry for entry in entries}
    write_whole(path, json.dumps([kept[name] for name in sorted(kept)], indent=1) + "\n")


def empty_net(fingerprint, classes):
    "Build the network that a fingerprint names, without its weights."
    name, shape, features, _ = fingerprint.rsplit("-", 3)
    channels, size, _ = map(int, shape.split("x"))
    return metrics.FeatureNet(name, channels, size, classes, int(features))


def faults():
    "Yield what is wrong with the files, in words."
    settings = replace(load_settings(ROOT), data=ROOT / "data")
    entries = metrics._shipped_index(settings)
    listed = {"index.json"} | {held["file"] for entry in entries for held in entry["nets"].values()}
    for path in sorted(FOLDER.iterdir()):
        if path.name not in listed:
            yield f"{path.name} is not in index.json"
    for entry in entries:
        for seed, held in entry["nets"].items():
            record = {"recipe": metrics._RECIPE, "data": entry["data"], "seed": int(seed), "net": held["net"]}
            try:
                metrics._load_net(empty_net(held["net"], entry["sketch"]["classes"]), FOLDER / held["file"], record)
            except ValueError as error:
                yield f"{held['file']}: {error}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", nargs="*", metavar="data set", help="data sets; all when none is named")
    parser.add_argument("--check", action="store_true", help="only look")
    given = parser.parse_args()
    if given.check:
        found = list(faults())
        print("\n".join(found) or "every shipped feature network is intact")
        sys.exit(bool(found))
    if unknown := set(given.name) - set(WANTED):
        parser.error(f"unknown {', '.join(sorted(unknown))}; known: {', '.join(WANTED)}")
    for name in given.name or WANTED:
        write_index([make(name)])


if __name__ == "__main__":
    main()
