"""The ledger of this repository: every verdict follows from its numbers, its rule and the code as it is now."""

import datetime
import json
import random
import shutil
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from pvlit.ledger.claims import decide, declared, load_claims, quoted, seeds_needed
from pvlit.ledger.closure import Sources
from pvlit.ledger.evidence import (
    OTHER_LIBRARIES,
    RESERVED,
    TIERS,
    WORDS,
    check,
    ledger,
    ledger_json,
    load_evidence,
    record,
    why,
)
from pvlit.core.files import digest, sealed
from pvlit.ledger.pages import claim_page
from pvlit.core.settings import load_settings

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = load_settings(ROOT)
EVIDENCE = sorted(SETTINGS.results.glob("*/*.json"))
CLAIM_FILES = sorted((SETTINGS.data / "claims").glob("*.yml"))


# --- the real repository ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", EVIDENCE, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_evidence_stands(path):
    "Each verdict is decided again; a changed function, rule or number fails with the command that runs the experiment again."
    found = check(path, SETTINGS)
    for problem in (p for p in found if p.startswith(OTHER_LIBRARIES)):
        warnings.warn(problem)  # says as much about this machine
    assert not (rest := [p for p in found if not p.startswith(OTHER_LIBRARIES)]), "\n".join(rest)
    assert json.loads(path.read_text(encoding="utf-8"))["experiment"] == path.parent.name


@pytest.mark.parametrize("path", CLAIM_FILES, ids=lambda p: p.stem)
def test_claims_are_declared_with_controls(path):
    for claim in load_claims(path.stem, SETTINGS):
        assert all(isinstance(claim.arms[role], str) for role in ("method", "baseline", "negative_control")), claim.id
        assert isinstance(claim.arms["compute_matched"], str) or claim.arms["compute_matched"]["none"], claim.id
        assert claim.rule["seeds"] >= seeds_needed(claim)
        for page in claim.pages:
            assert (ROOT / "nbs" / f"{page}.ipynb").is_file(), f"{claim.id} is about {page}, which is no page"


CITED = [claim for claim in declared(SETTINGS) if claim.source["paper"] != "ours"]


@pytest.mark.parametrize("claim", CITED, ids=lambda c: c.id)
def test_claims_cite_what_the_paper_says(claim):
    "With the papers' texts at hand (settings.ini, papers) the phrase and the number are looked up; without them the claim says who did, and when."
    date, _, by = claim.source["checked"].partition(", ")
    assert by and datetime.date.fromisoformat(date) <= datetime.date.today()
    assert len(claim.source["quote"].split()) <= 15
    text = SETTINGS.papers / f"{claim.source.get('text')}.txt" if SETTINGS.papers else None
    if not text or not text.is_file():
        pytest.skip(f"no text of {claim.source['paper']} at hand; last checked {claim.source['checked']}")
    assert not quoted(claim.source, text.read_text(encoding="utf-8", errors="replace")), (
        f"{claim.id}: not found in {text.name}"
    )


def test_words_follow_the_tier():
    "Only an exact protocol may use the strong words, on its page, in the terminal and in the ledger."
    rows = ledger(SETTINGS)
    assert all(not RESERVED.search(text) for tier in TIERS[:2] for text in WORDS[tier].values())
    assert RESERVED.search(WORDS["exact protocol"]["supported"])
    for row in rows:
        if row["tier"] == "exact protocol":
            continue
        for text in (
            row["words"],
            row["statement"],
            why(row["claim"], SETTINGS, rows),
            claim_page(row["claim"], rows, SETTINGS),
        ):
            assert not RESERVED.search(text), (row["claim"], RESERVED.search(text))


def test_ledger_json_follows_its_schema():
    schema, table = json.loads((SETTINGS.data / "ledger.schema.json").read_text()), ledger_json(ledger(SETTINGS))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(table, schema)
    assert sum(table["counts"].values()) == len(table["claims"])
    for key in schema["$defs"]["claim"]["properties"]:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(
                {**table, "claims": [{k: v for k, v in table["claims"][0].items() if k != key}]}, schema
            )


def test_ids_are_unique_and_all_claims_are_listed():
    rows = ledger(SETTINGS)
    assert [c.id for c in declared(SETTINGS)] == list(dict.fromkeys(row["claim"] for row in rows))
    assert all(why(row["claim"], SETTINGS, rows) for row in rows)


def test_reading_the_ledger_loads_no_torch():
    code = "import sys; from pvlit.ledger.evidence import ledger; ledger(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- a small laboratory: one claim, one toy package, five seeds -------------------------------------------------------

CLAIM = """
- id: film_beats_image
  statement: A film makes better images than an image.
  source: {paper: ours, place: here, read: all of it, checked: {by: the test, date: 2026-11-20}}
  metric: {name: distance, better: lower}
  arms: {method: film, baseline: image, compute_matched: long, ablation: {none: one part only}, negative_control: strangers}
  rule: {seeds: 5, confidence: 0.95, kind: difference, pilot: invented, pilot_sd: 0.14, smallest_effect: 0.5, all_of: [{compare: [method, baseline]}, {compare: [method, negative_control]}]}
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
    rows = [
        sealed(dict(arm=arm, seed=seed, distance=mean + draw.gauss(0, 0.1)))
        for seed in range(5)
        for arm, mean in level.items()
    ]
    path = record(
        "films",
        "default",
        rows,
        params={},
        inputs={"x": "1"},
        rehash=lambda: {"x": "1"},
        seconds=1,
        functions=["labtoy.used:train"],
        package="labtoy",
        settings=settings,
    )
    return settings, path


def bare(record):
    return {k: v for k, v in record.items() if k != "seal"}


def problems(lab):
    settings, path = lab
    return " | ".join(check(path, settings, Sources("labtoy", settings.root / "labtoy")))


def forge(lab, change, reseal=True):
    "Edit the evidence; with `reseal` the forger also computes the seal again."
    evidence = json.loads(lab[1].read_text())
    change(evidence)
    if reseal:
        evidence["seal"] = digest(bare(evidence))
    lab[1].write_text(json.dumps(evidence))
    return problems(lab)


def test_untouched_evidence_stands(lab):
    assert problems(lab) == ""


@pytest.mark.parametrize("reseal", [True, False])
def test_hand_edited_verdict(lab, reseal):
    def edit(e):
        e["decisions"][0]["verdict"] = "refuted"

    assert "the file says refuted, its rows say supported" in (found := forge(lab, edit, reseal))
    assert ("seal does not match" in found) != reseal


def test_hand_edited_interval(lab):
    def edit(e):
        e["decisions"][0]["comparisons"][1]["low"] -= 0.01

    assert "do not follow from the rows" in forge(lab, edit)


def test_swapped_seeds(lab):
    def edit(e):
        a, b = [r for r in e["rows"] if r["arm"] == "film"][:2]
        a["seed"], b["seed"] = b["seed"], a["seed"]

    assert "rows were edited after they were made" in forge(lab, edit)


def test_swapped_seeds_with_new_seals(lab):
    def edit(e):
        a, b = [r for r in e["rows"] if r["arm"] == "film"][:2]
        a["seed"], b["seed"] = b["seed"], a["seed"]
        e["rows"] = [sealed(bare(r)) for r in e["rows"]]

    assert "do not follow from the rows" in forge(lab, edit)


def test_swapped_seeds_in_an_arm_without_comparison_break_the_seal(lab):
    def edit(e):
        a, b = [r for r in e["rows"] if r["arm"] == "long"][:2]
        a["seed"], b["seed"] = b["seed"], a["seed"]

    assert "seal does not match" in forge(lab, edit, reseal=False)


def test_repeated_seed(lab):
    def edit(e):
        e["rows"].append(e["rows"][0])

    assert "seed 0 appears twice" in forge(lab, edit)


def test_seed_under_another_name(lab):
    def edit(e):
        e["rows"] += [sealed({**bare(r), "seed": 9}) for r in e["rows"] if r["seed"] == 2]

    assert "seeds 2 and 9 gave identical numbers" in forge(lab, edit)


def test_missing_control(lab):
    def edit(e):
        e["rows"] = [r for r in e["rows"] if r["arm"] != "strangers"]

    assert "no rows for 'strangers', the negative_control" in forge(lab, edit)


def test_control_removed_from_the_declaration_too(lab):
    def edit(e):
        e["rows"] = [r for r in e["rows"] if r["arm"] != "strangers"]
        del e["claims"][0]["arms"]["negative_control"]

    assert "a claim without one is not accepted" in forge(lab, edit)


def test_nan_among_the_numbers(lab):
    def edit(e):
        e["rows"][3]["distance"] = float("nan")

    assert "was changed after it was written" in forge(lab, edit, reseal=False)
    with pytest.raises(ValueError, match="expected a finite number"):
        decide(
            load_claims("films", lab[0])[0],
            [
                {**bare(r), "distance": float("nan") if i == 3 else r["distance"]}
                for i, r in enumerate(load_evidence(lab[1])["rows"])
            ],
        )


def test_rule_changed_after_the_run(lab):
    file = lab[0].data / "claims/films.yml"
    file.write_text(CLAIM.replace("smallest_effect: 0.5", "smallest_effect: 0.49"))
    assert "the declaration was changed after the run; rerun: pvlit run films --params default" in problems(lab)


def test_rule_changed_in_both_places(lab):
    def edit(e):
        e["claims"][0]["rule"]["smallest_effect"] = 0.49

    (lab[0].data / "claims/films.yml").write_text(CLAIM.replace("smallest_effect: 0.5", "smallest_effect: 0.49"))
    assert "the rule in the file was edited after the run" in forge(lab, edit)


def test_evidence_of_another_variant_or_commit(lab):
    settings, path = lab
    shutil.copy(path, path.with_name("better.json"))
    with pytest.raises(ValueError, match="evidence cannot be renamed"):
        check(path.with_name("better.json"), settings)

    def edit(e):
        e["closure"]["labtoy.used:helper"] = "0" * 16

    assert "changed: labtoy.used:helper); rerun: pvlit run films --params default" in forge(lab, edit)


@pytest.mark.parametrize(
    "edit, expires",
    [
        (("SCALE = 2.0", "SCALE = 2.1"), "changed: labtoy.used:SCALE"),
        (("+ 1", "+ 2"), "changed: labtoy.used:train"),
        (("return helper(x)", "return x"), "gone: labtoy.used:SCALE, labtoy.used:helper"),
        (("def train", "def fit"), "train is not defined (any more)"),
        (("x - 7", "x - 8"), None),
        (("return x * SCALE", "return (x *\n            SCALE)  # scaled"), None),
        (("def helper(x):", 'def helper(x: float) -> float:\n    "Scale."'), None),
    ],
)
def test_freshness(lab, edit, expires):
    file = lab[0].root / "labtoy/used.py"
    file.write_text(file.read_text().replace(*edit))
    assert (expires in problems(lab)) if expires else problems(lab) == ""


def test_trial_run_leaves_tracked_evidence_alone(lab):
    settings, path = lab
    kept, rows = path.read_bytes(), json.loads(path.read_text())["rows"]
    few = [r for r in rows if r["seed"] < 3]
    given = dict(
        params={},
        inputs={},
        rehash=dict,
        seconds=1,
        functions=["labtoy.used:train"],
        package="labtoy",
        settings=settings,
    )
    with pytest.raises(ValueError, match="the rule asks for 5"):
        record("films", "default", few, **given)
    with pytest.raises(ValueError, match="inputs changed while it ran: y"):
        record("films", "default", rows, **{**given, "inputs": {"y": "1"}})
    record("films", "default", few, **given, folder=settings.root / "runs/films/trial")
    assert path.read_bytes() == kept and problems(lab) == ""


def test_rows_made_by_hand_are_not_evidence(lab):
    settings, path = lab
    rows = [bare(r) for r in json.loads(path.read_text())["rows"]]
    with pytest.raises(ValueError, match="rows that were sealed"):
        record(
            "films",
            "default",
            rows,
            params={},
            inputs={},
            rehash=dict,
            seconds=1,
            functions=["labtoy.used:train"],
            package="labtoy",
            settings=settings,
        )


def test_another_series_of_a_library_expires(lab):
    def edit(e):
        e["libraries"] = {"numpy": "0.9.1"}

    (lab[0].root / "labtoy/used.py").write_text(
        "import numpy as np\n" + USED.replace("return helper(x) + 1", "return np.add(helper(x), 1)") + UNUSED
    )

    def both(e):
        edit(e)
        e["closure"] = {}

    assert "numpy 0.9 -> " in forge(lab, both) and OTHER_LIBRARIES in problems(lab)


# --- with a repository under it ---------------------------------------------------------------------------------------


def git(root, *words):
    return subprocess.run(
        ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()


def test_a_result_from_another_commit(lab):
    "Evidence made in an edited tree is not published; evidence that names a commit with other code is void."
    settings, path = lab
    rows = json.loads(path.read_text())["rows"]
    given = dict(
        params={},
        inputs={},
        rehash=dict,
        seconds=1,
        functions=["labtoy.used:train"],
        package="labtoy",
        settings=settings,
    )
    git(settings.root, "init", "-q")
    git(settings.root, "add", ".")
    git(settings.root, "commit", "-qm", "one")
    record("films", "default", rows, **given)
    assert problems(lab) == ""
    used = settings.root / "labtoy/used.py"
    used.write_text(used.read_text().replace("+ 1", "+ 2"))
    with pytest.raises(ValueError, match=r"the code of this run is not committed \(labtoy.used:train\)"):
        record("films", "default", rows, **given)
    first = git(settings.root, "rev-parse", "HEAD")
    git(settings.root, "commit", "-qam", "two")
    record("films", "default", rows, **given)
    assert problems(lab) == ""

    def edit(e):
        e["commit"] = first

    assert f"the code of commit {first[:7]} is not the code this result was made with" in forge(lab, edit)

    def unknown(e):
        e["commit"] = "0" * 40  # a shallow clone knows only its newest commits: nothing can be said

    assert forge(lab, unknown) == ""
