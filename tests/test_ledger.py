"""The ledger of this repository: every verdict follows from its numbers, its rule and the code as it is now."""
import copy
import json
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from pvlit.core.claims import Sources, check, closure, declared, digest, ledger, load_claims, record, why
from pvlit.core.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = load_settings(ROOT)
EVIDENCE = sorted(SETTINGS.results.glob("*/*.json"))
CLAIM_FILES = sorted((SETTINGS.data / "claims").glob("*.yml"))


# --- the real repository ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize("path", EVIDENCE, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_evidence_stands(path):
    "Each verdict is decided again; a changed function, rule or number fails with the command that runs the experiment again."
    problems = check(path, SETTINGS)
    assert not problems, "\n".join(problems)
    assert json.loads(path.read_text(encoding="utf-8"))["experiment"] == path.parent.name


@pytest.mark.parametrize("path", CLAIM_FILES, ids=lambda p: p.stem)
def test_claims_are_declared_with_controls(path):
    for claim in load_claims(path.stem, SETTINGS):
        assert all(isinstance(claim.arms[role], str) for role in ("method", "baseline", "negative_control")), claim.id
        assert isinstance(claim.arms["compute_matched"], str) or claim.arms["compute_matched"]["none"], claim.id
        assert claim.rule["seeds"] >= 3


def test_ids_are_unique_and_all_claims_are_listed():
    rows = ledger(SETTINGS)
    assert [c.id for c in declared(SETTINGS)] == list(dict.fromkeys(row["claim"] for row in rows))
    assert all(why(row["claim"], SETTINGS) for row in rows)


def test_reading_the_ledger_loads_no_torch():
    code = "import sys; from pvlit.core.claims import ledger; ledger(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- a small laboratory: one claim, one toy package, five seeds -------------------------------------------------------

CLAIM = """
- id: film_beats_image
  statement: A film makes better images than an image.
  source: {paper: ours, place: this test, read: all of it}
  metric: {name: distance, better: lower}
  arms: {method: film, baseline: image, compute_matched: long, ablation: {none: one part only}, negative_control: strangers}
  rule: {seeds: 5, confidence: 0.95, interval: t, kind: difference, smallest_effect: 0.5, all_of: [{compare: [method, baseline]}, {compare: [method, negative_control]}]}
  tier: toy
  changes_mind: a longer training of the image model
"""
USED = "SCALE = 2.0\ndef helper(x):\n    return x * SCALE\ndef train(x):\n    return helper(x) + 1\n"
UNUSED = "def other(x):\n    return x - 7\n"


@pytest.fixture
def lab(tmp_path, monkeypatch):
    (tmp_path / "data/claims").mkdir(parents=True)
    (tmp_path / "data/claims/films.yml").write_text(CLAIM)
    package = tmp_path / "labtoy"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "used.py").write_text(USED + UNUSED)
    monkeypatch.syspath_prepend(str(tmp_path))
    settings = replace(SETTINGS, root=tmp_path, data=tmp_path / "data", results=tmp_path / "data/results")
    draw, level = random.Random(0), dict(film=9.0, image=10.0, long=9.1, strangers=18.0)
    rows = [dict(arm=arm, seed=seed, distance=mean + draw.gauss(0, 0.1)) for seed in range(5) for arm, mean in level.items()]
    path = record("films", "default", rows, params={}, inputs={"x": "1"}, rehash=lambda: {"x": "1"}, seconds=1,
                  functions=["labtoy.used:train"], package="labtoy", settings=settings)
    return settings, path


def problems(lab):
    settings, path = lab
    return " | ".join(check(path, settings, Sources("labtoy", settings.root / "labtoy")))


def forge(lab, change, reseal=True):
    "Edit the evidence; with `reseal` the forger also computes the seal again."
    evidence = json.loads(lab[1].read_text())
    change(evidence)
    if reseal: evidence["seal"] = digest({k: v for k, v in evidence.items() if k != "seal"})
    lab[1].write_text(json.dumps(evidence))
    return problems(lab)


def test_untouched_evidence_stands(lab):
    assert problems(lab) == ""


@pytest.mark.parametrize("reseal", [True, False])
def test_hand_edited_verdict(lab, reseal):
    def edit(e): e["decisions"][0]["verdict"] = "refuted"
    assert "the file says refuted, its rows say supported" in (found := forge(lab, edit, reseal))
    assert ("seal does not match" in found) != reseal


def test_hand_edited_interval(lab):
    def edit(e): e["decisions"][0]["comparisons"][1]["low"] -= 0.01
    assert "do not follow from the rows" in forge(lab, edit)


def test_swapped_seeds(lab):
    def edit(e):
        a, b = [r for r in e["rows"] if r["arm"] == "film"][:2]
        a["seed"], b["seed"] = b["seed"], a["seed"]
    assert "do not follow from the rows" in forge(lab, edit)


def test_swapped_seeds_in_an_arm_without_comparison_break_the_seal(lab):
    def edit(e):
        a, b = [r for r in e["rows"] if r["arm"] == "long"][:2]
        a["seed"], b["seed"] = b["seed"], a["seed"]
    assert "seal does not match" in forge(lab, edit, reseal=False)


def test_repeated_seed(lab):
    def edit(e): e["rows"].append(e["rows"][0])
    assert "seed 0 appears twice" in forge(lab, edit)


def test_seed_under_another_name(lab):
    def edit(e): e["rows"] += [{**r, "seed": 9} for r in e["rows"] if r["seed"] == 2]
    assert "seeds 2 and 9 gave identical numbers" in forge(lab, edit)


def test_missing_control(lab):
    def edit(e): e["rows"] = [r for r in e["rows"] if r["arm"] != "strangers"]
    assert "no rows for 'strangers', the negative_control" in forge(lab, edit)


def test_control_removed_from_the_declaration_too(lab):
    def edit(e):
        e["rows"] = [r for r in e["rows"] if r["arm"] != "strangers"]
        del e["claims"][0]["arms"]["negative_control"]
    assert "a claim without one is not accepted" in forge(lab, edit)


def test_nan_among_the_numbers(lab):
    def edit(e): e["rows"][3]["distance"] = float("nan")
    assert "expected a finite number" in forge(lab, edit, reseal=False)


def test_rule_changed_after_the_run(lab):
    file = lab[0].data / "claims/films.yml"
    file.write_text(CLAIM.replace("smallest_effect: 0.5", "smallest_effect: 0.49"))
    assert "the declaration was changed after the run; rerun: pvlit run films --params default" in problems(lab)


def test_rule_changed_in_both_places(lab):
    def edit(e): e["claims"][0]["rule"]["smallest_effect"] = 0.49
    (lab[0].data / "claims/films.yml").write_text(CLAIM.replace("smallest_effect: 0.5", "smallest_effect: 0.49"))
    assert "the rule in the file was edited after the run" in forge(lab, edit)


def test_evidence_of_another_variant_or_commit(lab):
    settings, path = lab
    shutil.copy(path, path.with_name("better.json"))
    with pytest.raises(ValueError, match="evidence cannot be renamed"): check(path.with_name("better.json"), settings)
    def edit(e): e["closure"]["labtoy.used:helper"] = "0" * 16
    assert "changed: labtoy.used:helper); rerun: pvlit run films --params default" in forge(lab, edit)


@pytest.mark.parametrize("edit, expires", [
    (("SCALE = 2.0", "SCALE = 2.1"), "changed: labtoy.used:SCALE"), (("+ 1", "+ 2"), "changed: labtoy.used:train"),
    (("return helper(x)", "return x"), "gone: labtoy.used:SCALE, labtoy.used:helper"), (("def train", "def fit"), "train is not defined (any more)"),
    (("x - 7", "x - 8"), None), (("return x * SCALE", "return (x *\n            SCALE)  # scaled"), None), (("def helper(x):", 'def helper(x: float) -> float:\n    "Scale."'), None)])
def test_freshness(lab, edit, expires):
    file = lab[0].root / "labtoy/used.py"
    file.write_text(file.read_text().replace(*edit))
    assert (expires in problems(lab)) if expires else problems(lab) == ""


def test_trial_run_leaves_tracked_evidence_alone(lab):
    settings, path = lab
    kept, rows = path.read_bytes(), json.loads(path.read_text())["rows"]
    few = [r for r in rows if r["seed"] < 3]
    given = dict(params={}, inputs={}, rehash=dict, seconds=1, functions=["labtoy.used:train"], package="labtoy", settings=settings)
    with pytest.raises(ValueError, match="the rule asks for 5"): record("films", "default", few, **given)
    with pytest.raises(ValueError, match="inputs changed while it ran: y"): record("films", "default", rows, **{**given, "inputs": {"y": "1"}})
    record("films", "default", few, **given, folder=settings.root / "runs/films/trial")
    assert path.read_bytes() == kept and problems(lab) == ""


# --- mutations of the real package ------------------------------------------------------------------------------------

def test_a_mutation_of_the_package_expires_exactly_its_dependents(tmp_path):
    "Numbers are changed in copies of pvlit/core/claims.py and settings.py; the definition they stand in, and nothing else, gets another hash."
    import ast
    roots = ["pvlit.core.claims:decide", "pvlit.core.claims:ledger"]
    package = tmp_path / "pvlit"
    shutil.copytree(ROOT / "pvlit", package, ignore=shutil.ignore_patterns("__pycache__"))
    before = closure(*roots, sources=Sources("pvlit", package))
    file, draw, hits = package / "core/claims.py", random.Random(0), 0
    text = file.read_text(encoding="utf-8")
    tree = ast.parse(text)
    places = [(d.name, n) for d in tree.body if isinstance(d, (ast.FunctionDef, ast.ClassDef)) for n in ast.walk(d)
              if isinstance(n, ast.Constant) and type(n.value) is int and n.lineno == n.end_lineno and "f\"" not in text.splitlines()[n.lineno - 1]]
    for name, node in draw.sample(places, 20):
        lines = text.splitlines(keepends=True)
        old = lines[node.lineno - 1].encode()
        lines[node.lineno - 1] = (old[:node.col_offset] + str(node.value + 1).encode() + old[node.end_col_offset:]).decode()
        file.write_text("".join(lines), encoding="utf-8")
        after = closure(*roots, sources=Sources("pvlit", package))
        changed = {k for k in before if after.get(k) != before[k]}
        assert changed == ({f"pvlit.core.claims:{name}"} & set(before)), (name, node.lineno)
        hits += bool(changed)
    assert hits >= 10
