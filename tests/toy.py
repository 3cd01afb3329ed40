"""A small repository with a package, an experiment, a claim and published evidence, for the tests of the ledger."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from pvlit.core.files import sealed
from pvlit.core.settings import load_settings
from pvlit.ledger.closure import Graph, Kept, Sources, code_graph
from pvlit.ledger.evidence import Commits, about, check, evidence_path, make_evidence, save_evidence
from pvlit.ledger.renew import run_witness

TRAIN = """
import random
from .tables import BIAS, KINDS, softened
from .noise import drawn

RATE = 0.5
STEPS = 12


def _check(gain):
    if gain != gain:
        raise ValueError(f"gain: got {gain}")


def update(weight, gradient, rate=RATE):
    "Go one step down."
    return weight - rate * gradient


def gradient(weight, target, noise):
    return 2 * (weight - target) + noise


def schedule(step, steps):
    return 1 - step / (2 * steps)


def fit(target, seed, steps=STEPS):
    "Train a weight."
    draw = random.Random(seed * 31 + round(target * 7))
    weight = draw.gauss(0, 1)
    for step in range(steps):
        noise = drawn(draw, 0.1)
        weight = update(weight, gradient(weight, target, noise), 0.2 * schedule(step, steps))
    return weight


def distance(weight, target):
    error = abs(weight - target)
    if error > 100:
        return 100.0
    return error + BIAS


def never(x):
    return x - 7


def run(arm, seed):
    _check(seed)
    target = KINDS[arm]
    weight = fit(target, seed)
    shift = softened(seed, 3)
    return dict(distance=distance(weight, target) + abs(target) + 0.01 * shift)
"""
TABLES = """
from math import sqrt

BIAS = 0.25
KINDS = {"film": 1.0, "image": 3.0, "long": 2.5, "strangers": 9.0}


def softened(x, width):
    return sqrt((x % width) ** 2 + width)
"""
NOISE = """
class Noise:
    def __init__(self, scale):
        self.scale = scale

    def draw(self, random):
        first = random.gauss(0, self.scale)
        second = random.random()
        return first + 0.01 * second


def drawn(random, scale):
    return Noise(scale).draw(random)
"""
CLAIM = """
- id: film_beats_image
  statement: A film makes better images than an image.
  source: {paper: ours, place: here, read: all of it, checked: {by: the test, date: 2026-11-20}}
  metric: {name: distance, better: lower}
  arms: {method: film, baseline: image, compute_matched: long, ablation: {none: one part}, negative_control: strangers}
  rule:
    {seeds: 5, confidence: 0.95, kind: difference, pilot: invented, pilot_sd: 0.1, smallest_effect: 0.5,
     why: half a point can be seen, all_of: [{compare: [method, baseline]}, {compare: [method, negative_control]}]}
  tier: toy
  changes_mind: a longer training of the image model
- id: image_beats_film
  statement: An image makes better images than a film.
  source: {paper: ours, place: here, read: all of it, checked: {by: the test, date: 2026-11-20}}
  metric: {name: distance, better: lower}
  arms: {method: image, baseline: film, compute_matched: long, ablation: {none: one part}, negative_control: strangers}
  rule:
    {seeds: 5, confidence: 0.95, kind: difference, pilot: invented, pilot_sd: 0.1, smallest_effect: 0.5,
     why: half a point can be seen, compare: [method, baseline]}
  tier: toy
  changes_mind: a shorter training of the film
"""
PARAMETERS = 'run_folder = ""\nvariant = "smoke"\nclaim = ""\npublish = False\nseeds = [1, 2]\nextra = 0'
ROWS = """from toylab.train import run
arms = ["film", "image", "long", "strangers"]
rows = [dict(arm=arm, seed=seed, **run(arm, seed)) for arm in arms for seed in seeds]
print(rows[0])"""
EVIDENCE = "variant: evidence\nseeds: [10, 11, 12, 13, 14]\npublish: true\n"
FILES = {
    "settings.ini": "[pvlit]\n",
    ".gitignore": ".cache/\n__pycache__/\n",
    "toylab/__init__.py": "",
    "toylab/train.py": TRAIN,
    "toylab/tables.py": TABLES,
    "toylab/noise.py": NOISE,
    "data/claims/films.yml": CLAIM,
    "nbs/experiments/params/films/evidence.yml": EVIDENCE,
    "nbs/experiments/params/films/witness.yml": "seeds: [10]\n",
}


def git(root, *words):
    identity = ["-c", "user.name=t", "-c", "user.email=t@t"]
    done = subprocess.run(["git", *identity, *words], cwd=root, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def notebook(rows=ROWS):
    cells = [("parameters", PARAMETERS), ("", rows)]
    made = [
        dict(
            cell_type="code",
            id=f"c{i}",
            metadata={"tags": [t] if t else []},
            source=s,
            outputs=[],
            execution_count=None,
        )
        for i, (t, s) in enumerate(cells)
    ]
    kernel = dict(name="python3", display_name="python3", language="python")
    return json.dumps(dict(cells=made, metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5))


class Lab:
    "The repository, with what tests do to it."

    def __init__(self, root: Path):
        self.root = root
        self.write({**FILES, "nbs/experiments/films.ipynb": notebook()})
        git(root, "init", "-q", "-b", "main")
        self.commit("one")
        self.settings = replace(load_settings(root), root=root)
        self.file = evidence_path("films", "evidence", None, self.settings)[0]

    def write(self, files):
        for name, text in files.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_text(text)

    def commit(self, message):
        git(self.root, "add", ".")
        git(self.root, "commit", "-qm", message)
        return git(self.root, "rev-parse", "HEAD")

    def sources(self):
        return Sources("toylab", self.root / "toylab", Kept())

    def publish(self):
        "Run all seeds and write the evidence, as an experiment would."
        seeds = [10, 11, 12, 13, 14]
        told = run_witness(self.root, "nbs/experiments/films.ipynb", dict(seeds=seeds), package="toylab")
        graph = code_graph("nbs/experiments/films.ipynb", self.sources(), told.ran)
        known = dict(params=dict(variant="evidence", seeds=seeds, extra=0), facts={}, device="cpu", seconds=1.0)
        known["inputs"] = dict(before={"none": "0"}, after={"none": "0"})
        claims = about("films", "evidence", self.settings)
        rows = [sealed({k: v for k, v in row.items() if k != "seal"}) for row in told.rows]
        evidence = make_evidence("films", "evidence", rows, claims, graph, self.settings, "toy", **known)
        save_evidence(evidence, self.file)
        return self.file

    def problems(self):
        "Return everything that is wrong with the evidence, old commits looked into."
        sources = self.sources()
        return " | ".join(check(self.file, self.settings, sources, Commits(self.root, sources.kept, package="toylab")))

    def graph(self):
        return Graph.read(json.loads(self.file.read_text())["code"])

    def edit(self, name, *pairs):
        "Replace texts in a file of the tree."
        text = (self.root / name).read_text()
        for old, new in pairs:
            assert old in text, f"{old!r} is not in {name}"
            text = text.replace(old, new)
        (self.root / name).write_text(text)


if __name__ == "__main__":  # a look at the repository: python tests/toy.py FOLDER
    Lab(Path(sys.argv[1])).publish()
