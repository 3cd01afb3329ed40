"""Evidence survives rewriting: harmless edits expire nothing or are renewed by a witness, harmful ones never are."""

import json
import os
import shutil
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from toy import FILES, ROWS, Lab, notebook

from pvlit.core.files import sealed
from pvlit.ledger.closure import Committed, code_graph
from pvlit.ledger.evidence import save_evidence, shape
from pvlit.ledger.renew import expired, renew, renew_all

T, B, N = "toylab/train.py", "toylab/tables.py", "toylab/noise.py"
UPDATED = "update(weight, gradient(weight, target, noise), 0.2 * schedule(step, steps))"

# kind -> edits; an edit is {file: [(old, new), ...]}; None as a file's list deletes it
HARMLESS = {
    "message": [
        {T: [('f"gain: got {gain}"', '"gain must be a number"')]},
        {
            T: [
                (
                    'raise ValueError(f"gain: got {gain}")',
                    'raise ValueError(f"gain: {gain!r}; give a number") from None',
                )
            ]
        },
        {T: [("        raise ValueError", "        print('bad')\n        raise ValueError")]},
        {T: [("    _check(seed)\n", "    _check(seed)\n    print(seed)\n")]},
        {
            T: [
                (
                    "    error = abs(weight - target)\n",
                    "    error = abs(weight - target)\n    assert error >= 0, 'never'\n",
                )
            ]
        },
    ],
    "docstring": [
        {T: [('"Train a weight."', '"Fit one number to a target."')]},
        {T: [('    "Go one step down."\n', "")]},
        {T: [("def never(x):\n", 'def never(x):\n    "Nobody calls it."\n')]},
        {B: [("    return sqrt", '    "Soften."\n    return sqrt')]},
        {N: [("class Noise:\n", 'class Noise:\n    "A draw."\n\n')]},
    ],
    "annotation": [
        {T: [("def distance(weight, target):", "def distance(weight: float, target: float) -> float:")]},
        {T: [("rate=RATE):", "rate: float = RATE):")]},
        {N: [("def draw(self, random):", "def draw(self, random: object) -> float:")]},
        {B: [("def softened(x, width):", "def softened(x: int, width: int) -> float:")]},
        {T: [("    weight = draw.gauss(0, 1)\n", "    weight: float = draw.gauss(0, 1)\n")]},
    ],
    "rename": [
        {T: [("_check", "_refuse")]},
        {T: [("schedule(", "decay(")]},
        {T: [("drawn", "noisy")], N: [("drawn", "noisy")]},
        {N: [("Noise", "Jitter")]},
        {T: [("BIAS", "OFFSET")], B: [("BIAS", "OFFSET")]},
    ],
    "move": [
        {
            T: [("from .noise import drawn", "from .deep.noise import drawn")],
            N: None,
            "toylab/deep/noise.py": FILES[N],
            "toylab/deep/__init__.py": "",
        },
        {T: [("from .tables import", "from .numbers_ import")], B: None, "toylab/numbers_.py": FILES[B]},
        {
            T: [
                ("def gradient(weight, target, noise):\n    return 2 * (weight - target) + noise\n", ""),
                ("from .noise import drawn", "from .noise import drawn\nfrom .slope import gradient"),
            ],
            "toylab/slope.py": "def gradient(weight, target, noise):\n    return 2 * (weight - target) + noise\n",
        },
        {
            T: [("STEPS = 12\n", ""), ("from .tables import BIAS,", "from .tables import STEPS, BIAS,")],
            B: [("BIAS = 0.25", "BIAS = 0.25\nSTEPS = 12")],
        },
        {
            T: [
                ("def schedule(step, steps):\n    return 1 - step / (2 * steps)\n", ""),
                ("from .noise import drawn", "from .noise import drawn, schedule"),
            ],
            N: [("class Noise:", "def schedule(step, steps):\n    return 1 - step / (2 * steps)\n\n\nclass Noise:")],
        },
    ],
    "reordering": [
        {
            T: [
                ("def never(x):\n    return x - 7\n\n\n", ""),
                ("def _check(gain)", "def never(x):\n    return x - 7\n\n\ndef _check(gain)"),
            ]
        },
        {T: [("RATE = 0.5\nSTEPS = 12", "STEPS = 12\nRATE = 0.5")]},
        {B: [("BIAS = 0.25\n", ""), ("\n\ndef softened", "\nBIAS = 0.25\n\n\ndef softened")]},
        {
            T: [
                (
                    "from .tables import BIAS, KINDS, softened\nfrom .noise import drawn",
                    "from .noise import drawn\nfrom .tables import softened, KINDS, BIAS",
                )
            ]
        },
        {N: [("class Noise:\n    def __init__", "class Other:\n    pass\n\n\nclass Noise:\n    def __init__")]},
    ],
    "helper": [
        {
            T: [
                ("2 * (weight - target) + noise", "_pull(weight, target) + noise"),
                ("def schedule", "def _pull(weight, target):\n    return 2 * (weight - target)\n\n\ndef schedule"),
            ]
        },
        {
            T: [
                ("    return error + BIAS\n", "    return _biased(error)\n"),
                ("def never", "def _biased(error):\n    return error + BIAS\n\n\ndef never"),
            ]
        },
        {
            T: [
                (
                    f"        noise = drawn(draw, 0.1)\n        weight = {UPDATED}\n",
                    "        weight = _step(weight, target, draw, step, steps)\n",
                ),
                (
                    "def distance",
                    "def _step(weight, target, draw, step, steps):\n    noise = drawn(draw, 0.1)\n"
                    f"    return {UPDATED}\n\n\ndef distance",
                ),
            ]
        },
        {N: [("    return Noise(scale).draw(random)", "    source = Noise(scale)\n    return source.draw(random)")]},
        {B: [("    return sqrt((x % width) ** 2 + width)", "    rest = x % width\n    return sqrt(rest**2 + width)")]},
    ],
    "optional parameter": [
        {T: [("rate=RATE):\n", "rate=RATE, momentum=0.0):\n")]},
        {B: [("def softened(x, width):", "def softened(x, width, power=2):"), (") ** 2 +", ") ** power +")]},
        {
            T: [
                ("def distance(weight, target):", "def distance(weight, target, limit=100):"),
                ("error > 100", "error > limit"),
            ]
        },
        {
            N: [
                ("def drawn(random, scale):", "def drawn(random, scale, kind=Noise):"),
                ("Noise(scale).draw", "kind(scale).draw"),
            ]
        },
        {B: [('"strangers": 9.0}', '"strangers": 9.0, "new": 2.0}')]},
    ],
    "branch for a new kind of input": [
        {
            T: [
                ("gradient, rate=RATE):\n", "gradient, rate=RATE, decay=0.0):\n"),
                (
                    "    return weight - rate",
                    "    if decay:\n        weight = weight * decay\n    return weight - rate",
                ),
            ]
        },
        {B: [("    return sqrt", "    if isinstance(x, list):\n        x = sum(x)\n    return sqrt")]},
        {N: [("        second =", "        if self.scale is None:\n            return first\n        second =")]},
        {
            T: [
                ("steps=STEPS):\n", 'steps=STEPS, start="drawn"):\n'),
                ("    for step in", '    if start == "zero":\n        weight = 0.0\n    for step in'),
            ]
        },
    ],
}
HARMFUL = {
    "sign": [
        {T: [("weight - rate", "weight + rate")]},
        {T: [("2 * (weight - target)", "2 * (target - weight)")]},
        {T: [("error + BIAS", "error - BIAS")]},
        {N: [("first + 0.01", "first - 0.01")]},
        {B: [("** 2 + width", "** 2 - -2 * width")]},
        {T: [("1 - step", "1 + step")]},
        {T: [("+ 0.01 * shift", "- 0.01 * shift")]},
    ],
    "constant": [
        {T: [("STEPS = 12", "STEPS = 13")]},
        {B: [("BIAS = 0.25", "BIAS = 0.26")]},
        {T: [("0.2 * schedule", "0.21 * schedule")]},
        {N: [("0.01 * second", "0.011 * second")]},
        {B: [('"film": 1.0', '"film": 1.1')]},
        {T: [("return 2 *", "return 3 *")]},
        {T: [("drawn(draw, 0.1)", "drawn(draw, 0.11)")]},
    ],
    "default": [
        {T: [("steps=STEPS", "steps=11")]},
        {T: [("softened(seed, 3)", "softened(seed, 4)")]},
        {T: [("draw.gauss(0, 1)", "draw.gauss(0, 2)")]},
        {T: [("steps=STEPS", "steps=STEPS - 1")]},
        {T: [("(2 * steps)", "(3 * steps)")]},
        {T: [("seed * 31", "seed * 32")]},
    ],
    "operator": [
        {T: [("weight - rate * gradient", "weight - rate / (1 + gradient**2)")]},
        {B: [("x % width", "x // width")]},
        {T: [("abs(weight - target)", "(weight - target) ** 2")]},
        {T: [("error > 100", "error < 100")]},
        {T: [("step / (2", "step * (2")]},
        {B: [("import sqrt", "import exp as sqrt")]},
        {T: [("+ abs(target)", "+ abs(target) ** 0.5")]},
    ],
    "branch that other seeds take": [
        {T: [("    error = abs", "    if weight > 5:\n        weight = 5.0\n    error = abs")]},
        {N: [("        second =", "        if first > 1:\n            return first\n        second =")]},
        {
            T: [
                ("steps=STEPS):\n", "steps=STEPS, most=5.0):\n"),
                ("    for step in", "    if weight > most:\n        weight = most\n    for step in"),
            ]
        },
    ],
    "order of draws": [
        {
            N: [
                (
                    "        first = random.gauss(0, self.scale)\n        second = random.random()",
                    "        second = random.random()\n        first = random.gauss(0, self.scale)",
                )
            ]
        },
        {T: [("    weight = draw.gauss(0, 1)\n", "    draw.random()\n    weight = draw.gauss(0, 1)\n")]},
        {T: [("        noise = drawn(draw, 0.1)\n", "        drawn(draw, 0.1)\n        noise = drawn(draw, 0.1)\n")]},
        {T: [("range(steps)", "range(steps)[::-1]")]},
        {N: [("self.scale)", "self.scale) + 0 * random.random()")]},
        {T: [("import random\n", "import random\n\nrandom.Random = random.SystemRandom\n")]},
    ],
    "swapped argument": [
        {T: [("weight, gradient(weight, target,", "weight, gradient(target, weight,")]},
        {T: [("softened(seed, 3)", "softened(3, seed)")]},
        {T: [("schedule(step, steps)", "schedule(steps, step + 1)")]},
        {T: [("fit(target, seed)", "fit(seed, target)")]},
        {T: [("update(weight, gradient(", "update(0.5 * weight, gradient(")]},
        {T: [("distance(weight, target)", "distance(target, weight / 2)")]},
        {N: [("Noise(scale).draw(random)", "Noise(scale / 2).draw(random)")]},
    ],
}


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    "A laboratory with committed evidence; every test takes a copy of it."
    lab = Lab(tmp_path_factory.mktemp("lab") / "films")
    lab.publish()
    lab.commit("evidence")
    assert lab.problems() == ""
    return lab


@pytest.fixture
def lab(published, tmp_path):
    return copied(published, tmp_path / "films")


def copied(lab, place):
    shutil.copytree(lab.root, place, symlinks=True)
    other = object.__new__(Lab)
    other.__dict__.update(lab.__dict__, root=place)
    settings = lab.settings
    moved = {k: place / getattr(settings, k).relative_to(lab.root) for k in ("data", "results", "runs", "cache")}
    other.settings = replace(settings, root=place, **moved)
    other.file = place / lab.file.relative_to(lab.root)
    return other


def changed(lab, edit):
    for name, pairs in edit.items():
        if pairs is None:
            (lab.root / name).unlink()
        elif isinstance(pairs, str):
            lab.write({name: pairs})
        else:
            lab.edit(name, *pairs)
    lab.commit("an edit")


def outcome(published, place, edit):
    "Commit an edit in a copy of the laboratory; return (whether it expired, the attempt to renew it, the file after)."
    lab = copied(published, place)
    changed(lab, edit)
    before, found = lab.file.read_bytes(), lab.problems()
    attempt = renew(lab.file, lab.settings, package="toylab") if found else None
    if attempt is None or not attempt.renewed:
        assert lab.file.read_bytes() == before, "an attempt that failed changed the file"
    else:
        assert lab.problems() == "" and json.loads(lab.file.read_text())["renewals"]
    shutil.rmtree(place)
    return bool(found), attempt


def listed(edits):
    return [pytest.param(edit, id=f"{kind}-{i}") for kind, some in edits.items() for i, edit in enumerate(some)]


@pytest.mark.parametrize("edit", listed(HARMLESS))
def test_harmless_edits_expire_nothing_or_are_renewed(published, tmp_path, edit):
    gone, attempt = outcome(published, tmp_path / "films", edit)
    assert not gone or attempt.renewed, attempt.why


def test_looks_and_places_need_no_witness(published, tmp_path):
    for kind in ("message", "docstring", "annotation", "rename", "move", "reordering"):
        for i, edit in enumerate(HARMLESS[kind]):
            gone, _ = outcome(published, tmp_path / f"{kind}{i}", edit)
            assert not gone, (kind, i)


@pytest.mark.parametrize("edit", listed(HARMFUL))
def test_harmful_edits_are_never_renewed(published, tmp_path, edit):
    gone, attempt = outcome(published, tmp_path / "films", edit)
    assert gone and not attempt.renewed, "an edit that changes numbers was renewed" if gone else "it did not expire"


def test_there_are_forty_of_each():
    assert sum(map(len, HARMLESS.values())) == 44 and sum(map(len, HARMFUL.values())) == 43


# --- what the messages say -------------------------------------------------------------------------------------------


def attempt(lab, **more):
    return renew(lab.file, lab.settings, package="toylab", **more)


def test_a_difference_names_arm_number_and_definition(lab):
    changed(lab, {B: [("BIAS = 0.25", "BIAS = 0.26")]})
    said = attempt(lab).why
    assert "arm 'film', seed 10, distance:" in said and "toylab.tables:BIAS" in said


def test_a_change_that_never_ran_leaves_the_verdict(lab):
    changed(lab, {T: [("from .noise import drawn", "from .noise import drawn\n\nUNUSED = 3")]})
    assert lab.problems() == "" and "current already" in attempt(lab).why


def test_a_line_that_the_witness_never_runs_is_not_vouched_for(lab):
    lab.write({"nbs/experiments/params/films/witness.yml": "seeds: [10]\nextra: 0\n"})
    changed(lab, {T: [("        return 100.0\n", "        return 200.0\n")]})
    said = attempt(lab)
    assert not said.renewed and "does not execute the changed lines" in said.why and "--long" in said.why
    # the first seed at full length does not run it either, so the verdict never rested on it
    assert attempt(lab, long=True).renewed


def test_a_renewal_says_so_and_can_be_renewed_again(lab):
    run = json.loads(lab.file.read_text())["commit"]
    changed(lab, HARMLESS["helper"][0])
    assert attempt(lab).renewed
    lab.commit("renewed")
    changed(lab, HARMLESS["helper"][4])
    assert attempt(lab).renewed
    evidence = json.loads(lab.file.read_text())
    assert evidence["commit"] == run == evidence["renewals"][0]["before"]
    assert evidence["renewals"][0]["commit"] == evidence["renewals"][1]["before"]
    assert lab.problems() == "" and evidence["renewals"][1]["seeds"] == [10] and evidence["renewals"][1]["arms"] == 4


# --- bad input -------------------------------------------------------------------------------------------------------


def refused(lab, *words, **more):
    before = lab.file.read_bytes()
    said = attempt(lab, **more)
    assert not said.renewed and lab.file.read_bytes() == before
    for word in words:
        assert word in said.why, said.why


def test_dirty_tree(lab):
    lab.edit(T, ("STEPS = 12", "STEPS = 10 + 2"))
    refused(lab, "toylab/train.py not committed", "commit first")


def test_void_evidence(lab):
    changed(lab, HARMLESS["helper"][0])
    text = json.loads(lab.file.read_text())
    text["decisions"][0]["effect"] += 1
    lab.file.write_text(json.dumps(text))
    refused(lab, "void evidence cannot be renewed")


def test_old_format_and_broken_files(lab):
    text = json.loads(lab.file.read_text())
    lab.file.write_text(json.dumps({**text, "schema": 2}))
    refused(lab, "written in schema 2", "pvlit run films --params evidence")
    lab.file.write_text(lab.file.read_text()[:-30])
    refused(lab, "not JSON", "git checkout")


def test_commit_that_is_not_there(lab, tmp_path):
    changed(lab, HARMLESS["helper"][0])
    shallow = tmp_path / "shallow"
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{lab.root}", shallow], check=True)
    other = copied(lab, tmp_path / "copy")
    shutil.rmtree(other.root)
    shutil.copytree(shallow, other.root)
    refused(other, "is not known here", "git fetch --unshallow")


def test_old_commit_that_does_not_run(published, tmp_path):
    lab = copied(published, tmp_path / "films")
    evidence = json.loads(lab.file.read_text())
    lab.write({"toylab/noise.py": FILES[N].replace("class Noise", "import no_such_library\n\n\nclass Noise")})
    broken = lab.commit("a library that is gone")
    lab.write({"toylab/noise.py": FILES[N].replace("first + 0.01", "0.01 * second + first if first else first + 0.01")})
    lab.commit("mended")
    graph = code_graph("nbs/experiments/films.ipynb", Committed(broken, lab.root, "toylab")).plain()
    kept = {k: v for k, v in evidence.items() if k != "seal"} | dict(
        commit=broken, code_commit=broken, code=graph, made_by=shape(graph)
    )
    kept["libraries"] = {"no_such_library": "1.0"}
    save_evidence(sealed(kept), lab.file)
    refused(lab, "the witness failed with the code of commit", "No module named 'no_such_library'")


def test_two_at_once(lab):
    changed(lab, HARMLESS["helper"][0])
    fcntl = pytest.importorskip("fcntl")
    lock = lab.settings.cache / "ledger" / "films-evidence.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        refused(lab, "another process is renewing it")
    assert attempt(lab).renewed


def test_stopped_half_way(lab):
    "The process that renews is killed while its witnesses run: nothing is written, and the next attempt renews."
    changed(lab, {**HARMLESS["helper"][0], "nbs/experiments/films.ipynb": notebook(ROWS + "\nimport time")})
    slow = "import time; time.sleep(60)\n"
    lab.edit(
        "nbs/experiments/films.ipynb", ("from toylab.train import run", "import os\\nfrom toylab.train import run")
    )
    lab.commit("x")
    code = (
        "from pathlib import Path; import pvlit.ledger.renew as r; from pvlit.core.settings import load_settings; "
        f"r.PROGRAM = {slow!r} + r.PROGRAM; "
        f"r.renew(Path({str(lab.file)!r}), load_settings({str(lab.root)!r}), package='toylab')"
    )
    before = lab.file.read_bytes()
    child = subprocess.Popen(
        [sys.executable, "-c", code], cwd=lab.root, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    )
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and not list((lab.settings.cache / "ledger").glob("*.lock")):
        time.sleep(0.1)
    time.sleep(1)
    child.kill()
    child.wait()
    assert lab.file.read_bytes() == before and not list(lab.file.parent.glob("*.tmp"))
    assert attempt(lab).renewed


def test_all_goes_on_after_a_stop(lab):
    second = lab.file.with_name("other.json")
    lab.write(
        {
            "nbs/experiments/params/films/other.yml": FILES["nbs/experiments/params/films/evidence.yml"].replace(
                "evidence", "other"
            )
        }
    )
    text = {k: v for k, v in json.loads(lab.file.read_text()).items() if k != "seal"}
    text |= dict(variant="other", params={**text["params"], "variant": "other"})
    save_evidence(sealed(text), second)
    lab.commit("two")
    changed(lab, HARMLESS["helper"][0])
    assert expired(lab.settings, "toylab") == [lab.file, second]

    def stop(renewal):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        renew_all(expired(lab.settings, "toylab"), lab.settings, workers=1, told=stop, package="toylab")
    threads = [t for t in threading.enumerate() if "ThreadPool" in t.name]
    for thread in threads:
        thread.join(60)
    left = expired(lab.settings, "toylab")
    assert len(left) < 2
    done = []
    renew_all(left, lab.settings, told=done.append, package="toylab")
    assert all(r.renewed for r in done) and expired(lab.settings, "toylab") == []
