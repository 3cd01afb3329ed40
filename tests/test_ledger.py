"""The ledger of this repository, and attacks on a small one.

Every verdict follows from its numbers, its rule and the code as it is now, and forged evidence is found out."""

import datetime
import json
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from toy import CLAIM, Lab

from pvlit.core.files import digest, sealed
from pvlit.core.settings import load_settings
from pvlit.ledger.claims import TIERS, declared, load_claims, quoted, seeds_needed
from pvlit.ledger.closure import Kept, Sources, code_graph, git
from pvlit.ledger.evidence import OTHER_LIBRARIES, Commits, check, load_evidence
from pvlit.ledger.pages import claim_page
from pvlit.ledger.table import RESERVED, WHERE, ledger, ledger_json, spoken, why

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = load_settings(ROOT)
EVIDENCE = sorted(SETTINGS.results.glob("*/*.json"))
CLAIM_FILES = sorted((SETTINGS.data / "claims").glob("*.yml"))


# --- the real repository ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sources():
    return Sources(kept=Kept(SETTINGS.cache / "ledger"))


@pytest.fixture(scope="module")
def commits(sources):
    found = Commits(ROOT, sources.kept, SETTINGS.cache / "ledger")
    yield found
    found.save()
    sources.kept.save()


@pytest.fixture(scope="module")
def rows():
    return ledger(SETTINGS)


@pytest.mark.parametrize("path", EVIDENCE, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_evidence_stands(path, sources, commits):
    "Each verdict is decided again; a changed function, rule or number fails with the command that mends it."
    found = check(path, SETTINGS, sources, commits)
    assert not found, "\n".join(found)
    assert load_evidence(path)["experiment"] == path.parent.name


def test_the_ledger_asks_for_the_pinned_libraries_not_the_installed_ones(sources, monkeypatch):
    path = next(p for p in EVIDENCE if load_evidence(p)["libraries"].get("numpy"))
    before = check(path, SETTINGS, sources)
    monkeypatch.setattr("pvlit.ledger.evidence.installed", lambda name: "0.1")
    assert check(path, SETTINGS, sources) == before
    monkeypatch.setattr("pvlit.ledger.evidence.pinned", lambda settings: {"numpy": "1.0.0"})
    assert any(p.startswith(OTHER_LIBRARIES) and "-> 1.0" in p for p in check(path, SETTINGS, sources))


def test_nothing_is_supported_below_its_smallest_effect(rows):
    for row in rows:
        if row["verdict"] != "supported":
            continue
        evidence = load_evidence(SETTINGS.results / row["experiment"] / f"{row['variant']}.json")
        decision = next(d for d in evidence["decisions"] if d["claim"] == row["claim"])
        for part in decision["comparisons"]:
            if part["shows"] == "superiority":
                assert part["low"] > 0 and part["effect"] >= part["smallest_effect"], row["claim"]
        assert all(not c["failed"] for c in decision["controls"]), row["claim"]


@pytest.mark.parametrize("path", CLAIM_FILES, ids=lambda p: p.stem)
def test_claims_are_declared_with_controls(path):
    for claim in load_claims(path.stem, SETTINGS):
        assert all(isinstance(claim.arms[role], str) for role in ("method", "baseline", "negative_control")), claim.id
        assert isinstance(claim.arms["compute_matched"], str) or claim.arms["compute_matched"]["none"], claim.id
        assert claim.rule["seeds"] >= seeds_needed(claim) or claim.cannot_be_tested_here
        for page in claim.pages:
            assert (ROOT / "nbs" / f"{page}.ipynb").is_file(), f"{claim.id} is about {page}, which is no page"


CITED = [claim for claim in declared(SETTINGS) if claim.source["paper"] != "ours"]


@pytest.mark.parametrize("claim", CITED, ids=lambda c: c.id)
def test_claims_cite_what_the_paper_says(claim):
    """The phrase and the number are looked up where the papers' texts are at hand (settings.ini, papers).

    Elsewhere the claim says who looked them up, and when."""
    date, _, by = claim.source["checked"].partition(", ")
    assert by and datetime.date.fromisoformat(date) <= datetime.date.today()
    assert len(claim.source["quote"].split()) <= 15
    text = SETTINGS.papers / f"{claim.source.get('text')}.txt" if SETTINGS.papers else None
    if not text or not text.is_file():
        pytest.skip(f"no text of {claim.source['paper']} at hand; last checked {claim.source['checked']}")
    found = quoted(claim.source, text.read_text(encoding="utf-8", errors="replace"))
    assert not found, f"{claim.id}: not found in {text.name}"


def test_words_follow_the_tier(rows):
    "Only an exact protocol may use the strong words, on its page, in the terminal and in the ledger."
    assert set(WHERE) == set(TIERS) and RESERVED.search(spoken("supported", "supported", "exact protocol"))
    for row in rows:
        if row["tier"] != "exact protocol":
            for text in (row["words"], row["statement"], claim_page(row["claim"], rows, SETTINGS)):
                assert not RESERVED.search(text), (row["claim"], RESERVED.search(text))


def test_ledger_json_follows_its_schema(rows):
    schema, table = json.loads((SETTINGS.data / "ledger.schema.json").read_text()), ledger_json(rows)
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(table, schema)
    assert sum(table["counts"].values()) == len(table["claims"])
    small = {**table, "claims": table["claims"][:1]}
    for key in schema["$defs"]["claim"]["properties"]:
        less = {k: v for k, v in small["claims"][0].items() if k != key}
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**small, "claims": [less]}, schema)


def test_ids_are_unique_and_all_claims_are_listed(rows):
    assert [c.id for c in declared(SETTINGS)] == list(dict.fromkeys(row["claim"] for row in rows))
    assert all(why(row["claim"], SETTINGS, rows) for row in rows[:: max(1, len(rows) // 8)])


def test_reading_the_ledger_loads_no_torch():
    code = "import sys; from pvlit.ledger.table import ledger; ledger(deep=False); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


# --- a small laboratory: two claims, one toy package, five seeds ------------------------------------------------------


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    lab = Lab(tmp_path_factory.mktemp("lab"))
    lab.publish()
    lab.other = lab.commit("evidence")
    return lab


@pytest.fixture
def lab(published):
    "The laboratory, put back after each test."
    yield published
    for words in (["checkout", "-q", "main"], ["reset", "-q", "--hard", published.other], ["clean", "-qfd"]):
        git(published.root, *words)


def forge(lab, change, reseal=True):
    "Edit the evidence; with `reseal` the forger also computes the seal again."
    evidence = {k: v for k, v in json.loads(lab.file.read_text()).items() if k != "seal"}
    change(evidence)
    evidence["seal"] = digest(evidence) if reseal else "0" * 16
    lab.file.write_text(json.dumps(evidence))
    return lab.problems()


def resealed(e):
    e["rows"] = [sealed({k: v for k, v in row.items() if k != "seal"}) for row in e["rows"]]


def test_untouched_evidence_stands(lab):
    assert lab.problems() == ""


# Each attack edits the evidence or the tree of the laboratory. It stands with the words that must be found, or with
# None where nothing is found; the page of evidence says why.
def decision(key, value, which=0):
    def attack(lab, e):
        e["decisions"][which][key] = value

    return attack


def part(key, value):
    def attack(lab, e):
        e["decisions"][0]["comparisons"][0][key] = value

    return attack


def top(key, value):
    def attack(lab, e):
        e[key] = value

    return attack


def relabel(seeds):
    def attack(lab, e):
        for row in e["rows"]:
            row["seed"] = seeds[row["seed"] - 10]
        resealed(e)

    return attack


def shift_one(lab, e):
    e["rows"][0]["distance"] += 1e-3
    resealed(e)


def swap_seeds(lab, e):
    a, b = [r for r in e["rows"] if r["arm"] == "film"][:2]
    a["seed"], b["seed"] = b["seed"], a["seed"]


def swap_and_seal(lab, e):
    swap_seeds(lab, e)
    resealed(e)


def drop_seed(lab, e):
    e["rows"] = [r for r in e["rows"] if r["seed"] != 14]


def repeat_seed(lab, e):
    e["rows"].append(e["rows"][0])


def copied_seed(lab, e):
    e["rows"] += [
        sealed({**{k: v for k, v in r.items() if k != "seal"}, "seed": 15}) for r in e["rows"] if r["seed"] == 10
    ]


def drop_control(lab, e):
    e["rows"] = [r for r in e["rows"] if r["arm"] != "strangers"]


def drop_control_everywhere(lab, e):
    drop_control(lab, e)
    for claim in e["claims"]:
        del claim["arms"]["negative_control"]


def control_is_baseline(lab, e):
    image = {r["seed"]: r["distance"] for r in e["rows"] if r["arm"] == "image"}
    for r in e["rows"]:
        if r["arm"] == "strangers":
            r["distance"] = image[r["seed"]]
    resealed(e)


def control_is_constant(lab, e):
    for r in e["rows"]:
        if r["arm"] == "strangers":
            r["distance"] = 20.0
    resealed(e)


def rule(key, value):
    def attack(lab, e):
        e["claims"][0]["rule"][key] = value

    return attack


def rule_in_both(lab, e):
    e["claims"][0]["rule"]["smallest_effect"] = 0.4
    lab.edit(
        "data/claims/films.yml",
        (
            "smallest_effect: 0.5,\n     why: half a point can be seen, all_of",
            "smallest_effect: 0.4,\n     why: half a point can be seen, all_of",
        ),
    )


def forget_claim(lab, e):
    e["claims"], e["decisions"] = e["claims"][:1], e["decisions"][:1]


def smaller_family(lab, e):
    for claim in e["claims"]:
        claim["family"] = 1


def metric_turned(lab, e):
    e["claims"][0]["metric"]["better"] = "higher"


def rename_claim(lab, e):
    e["claims"][0]["id"] = e["decisions"][0]["claim"] = "other_claim"


def reworded(lab, e):
    e["claims"][0]["statement"] = "Films always win."


def stable_code(lab, e):
    first = e["code"]["nodes"][0]
    e["code"] = {**e["code"], "nodes": [[*first[:2], [], *first[3:]]], "roots": [0]}


def code_of_now(lab, e):
    "Change the code, commit, and write its graph into the evidence."
    changed_code(lab)
    e["code"]["nodes"][3][1] = "0" * 16


def code_and_commit_of_now(lab, e):
    changed_code(lab)
    e["code"] = code_graph("nbs/experiments/films.ipynb", lab.sources()).plain()
    e["code_commit"] = lab.commit("changed")


def forged_renewal(lab, e):
    code_and_commit_of_now(lab, e)
    renewal = dict(commit=e["code_commit"], before="0" * 40, date="2026-11-30", machine="here", seconds=1.0)
    e["renewals"] = [renewal | dict(seeds=[10], arms=4)]


def commit_of_other_code(lab, e):
    changed_code(lab)
    e["commit"] = e["code_commit"] = lab.commit("changed")


def changed_code(lab):
    lab.edit("toylab/tables.py", ("BIAS = 0.25", "BIAS = 0.5"))


def never_ran(lab, e):
    for node in e["code"]["nodes"][1:]:
        node[3] = 0
    changed_code(lab)


def patched_parent(lab, e):
    lab.write({"toylab/__init__.py": "from . import train as _t\n_t.distance = lambda a, b: 1.0\n"})


def patched_side_module(lab, e):
    lab.write({"toylab/side.py": "from . import train\ntrain.distance = lambda a, b: 1.0\n"})
    lab.edit("toylab/tables.py", ("from math import sqrt", "from math import sqrt\nfrom . import side as _side"))


def turned_condition(lab, e):
    lab.edit("toylab/tables.py", ("BIAS = 0.25", "BIAS = 0.25\nif True:\n    BIAS = 0.5"))


def other_parameters(lab, e):
    lab.edit("nbs/experiments/params/films/evidence.yml", ("[10, 11, 12, 13, 14]", "[10, 11, 12, 13]"))


def default_of_parameters(lab, e):
    lab.edit("nbs/experiments/films.ipynb", ("extra = 0", "extra = 1"))


def notebook_cell(lab, e):
    lab.edit("nbs/experiments/films.ipynb", ("**run(arm, seed))", "**run(arm, 2 * seed))"))


def lost_set(lab, e):
    (lab.root / "nbs/experiments/params/films/evidence.yml").unlink()


def lost_notebook(lab, e):
    (lab.root / "nbs/experiments/films.ipynb").unlink()


def lost_claims(lab, e):
    lab.write({"data/claims/films.yml": CLAIM.split("- id: image_beats_film")[0]})


def nan(lab, e):
    e["rows"][3]["distance"] = None


ATTACKS = {
    "tier raised": (decision("tier", "exact protocol"), "the file says exact protocol"),
    "tier of the run raised": (top("tier", "exact protocol"), None),
    "reason rewritten": (decision("reason", "It is certain."), "do not follow from the rows"),
    "word rewritten": (decision("word", "clearly supported", 1), "do not follow from the rows"),
    "clearly set": (decision("clearly", True, 1), "do not follow from the rows"),
    "controls removed": (decision("controls", [], 1), "do not follow from the rows"),
    "verdict edited": (decision("verdict", "refuted"), "the file says refuted, its rows say supported"),
    "effect edited": (decision("effect", 9.0), "do not follow from the rows"),
    "low edited": (part("low", 1.0), "do not follow from the rows"),
    "differences edited": (part("differences", [1, 2, 3, 4, 5]), "do not follow from the rows"),
    "planned edited": (decision("planned", False), "do not follow from the rows"),
    "confidence edited": (decision("confidence", 0.5), "do not follow from the rows"),
    "a refuted claim left out": (forget_claim, "image_beats_film: is declared for evidence and missing"),
    "a value nudged": (shift_one, "do not follow from the rows"),
    "seeds swapped": (swap_seeds, "rows were edited after they were made"),
    "seeds swapped and sealed": (swap_and_seal, "do not follow from the rows"),
    "a seed dropped": (drop_seed, "4 seeds, the rule asks for 5"),
    "a seed repeated": (repeat_seed, "seed 10 appears twice"),
    "a seed under another name": (copied_seed, "gave identical numbers"),
    "seeds of the pilot": (relabel([2, 3, 4, 5, 6]), "rows of seeds [2, 3, 4, 5, 6]"),
    "other seeds": (relabel([99, 100, 101, 102, 103]), "rows of seeds [99, 100, 101, 102, 103]"),
    "control without rows": (drop_control, "no rows for 'strangers', the negative_control"),
    "control undeclared": (drop_control_everywhere, "a claim without one is not accepted"),
    "control is the baseline": (control_is_baseline, "have equal values under every seed"),
    "control is constant": (control_is_constant, "has the value 20 under every seed"),
    "a number missing": (nan, "rows were edited after they were made"),
    "smallest effect lowered": (rule("smallest_effect", 0.1), "the rule in the file was edited after the run"),
    "confidence lowered": (rule("confidence", 0.6), "the rule in the file was edited after the run"),
    "fewer seeds asked for": (rule("seeds", 4), "the rule in the file was edited after the run"),
    "another kind": (rule("kind", "log_ratio"), "the rule in the file was edited after the run"),
    "rule changed in both places": (rule_in_both, "the rule in the file was edited after the run"),
    "family made smaller": (smaller_family, "the rule in the file was edited after the run"),
    "direction turned": (metric_turned, "the rule in the file was edited after the run"),
    "claim renamed": (rename_claim, "other_claim: is no longer declared"),
    "statement reworded": (reworded, "the rule in the file was edited after the run"),
    "claim no longer declared": (lost_claims, "image_beats_film: is no longer declared"),
    "commit removed": (top("commit", None), "names no commit"),
    "commit of the code removed": (top("code_commit", None), "names no commit"),
    "commit unknown": (top("commit", "0" * 40), "do not lead from the commit of the run|is not known to git"),
    "both commits unknown": (lambda lab, e: e.update(commit="0" * 40, code_commit="0" * 40), "is not known to git"),
    "commit of other code": (commit_of_other_code, "is not the code this result was made with"),
    "libraries emptied": (top("libraries", {"numpy": "1.0"}), "the libraries of the run are not all recorded"),
    "parameters emptied": (top("params", {}), "the parameters are not those of evidence.yml"),
    "a parameter more": (
        lambda lab, e: e["params"].update(steps=9),
        "the parameters are not those of evidence.yml: steps",
    ),
    "inputs emptied": (top("inputs", {"before": {}, "after": {}}), "were not recorded"),
    "inputs changed": (
        lambda lab, e: e["inputs"].update(after={"none": "1"}),
        "the inputs after the run are not those before it",
    ),
    "code replaced by a stable one": (stable_code, "the code has changed since the run"),
    "code of now, old commit": (code_of_now, "is not the code this result was made with"),
    "code and commit of now": (code_and_commit_of_now, "do not lead from the commit of the run"),
    "a renewal that leads nowhere": (forged_renewal, "do not lead from the commit of the run"),
    "function replaced on import": (patched_parent, "toylab:on import (new)"),
    "function replaced by a side module": (patched_side_module, "toylab.side:on import (new)"),
    "constant set under a condition": (turned_condition, "toylab.tables:BIAS"),
    "parameter set changed": (other_parameters, "the parameters are not those of evidence.yml: seeds"),
    "default of a parameter changed": (default_of_parameters, "the parameters are not those of evidence.yml: extra"),
    "cell of the notebook changed": (notebook_cell, "the notebook's cells"),
    "parameter set lost": (lost_set, "has no parameter set 'evidence'"),
    "notebook lost": (lost_notebook, "films"),
    "experiment renamed": (top("experiment", "images"), "images"),
    "rows of nobody": (top("rows", []), "no rows for"),
    "structure broken": (top("code", []), "malformed"),
    "date": (top("date", "2020-01-01"), None),
    "seconds": (top("seconds", 0.1), None),
    "machine": (top("machine", "a laptop"), None),
    "what ran hidden": (never_ran, None),
}


@pytest.mark.parametrize("name", ATTACKS)
def test_attacks(lab, name):
    attack, expected = ATTACKS[name]
    found = forge(lab, lambda e: attack(lab, e))
    if expected is None:
        assert found == "", f"{name} is found out now ({found}): say so in the table of attacks"
    else:
        assert any(words in found for words in expected.split("|")), found or "nothing was found"


def test_share_of_attacks_found():
    "The page of evidence states the share, and names the others: circumstances, the trace, a tier without effect."
    missed = {name for name, (_, expected) in ATTACKS.items() if expected is None}
    assert missed == {"tier of the run raised", "date", "seconds", "machine", "what ran hidden"}
    page = (ROOT / "nbs/ledger/evidence.ipynb").read_text(encoding="utf-8")
    assert f"tries {len(ATTACKS)} attacks" in page
    assert f"{len(ATTACKS) - len(missed)} of {len(ATTACKS)} are found" in page


def test_a_careless_edit_breaks_the_seal(lab):
    assert "its seal does not match" in forge(lab, lambda e: e.update(machine="a laptop"), reseal=False)


def test_evidence_under_another_name(lab):
    other = lab.file.with_name("better.json")
    other.write_bytes(lab.file.read_bytes())
    with pytest.raises(ValueError, match="evidence cannot be renamed"):
        check(other, lab.settings, lab.sources())


def test_what_git_does_not_know_in_a_shallow_clone_is_not_held_against_evidence(lab, tmp_path):
    lab.write({"x": "x"})
    lab.commit("another")
    subprocess.run(["git", "clone", "-q", "--depth", "1", f"file://{lab.root}", tmp_path / "clone"], check=True)
    settings, sources = load_settings(tmp_path / "clone"), Sources("toylab", tmp_path / "clone/toylab")
    file = settings.results / "films/evidence.json"
    assert check(file, settings, sources, Commits(tmp_path / "clone", sources.kept, package="toylab")) == []


def test_a_ledger_of_the_laboratory(lab):
    table = {row["claim"]: row for row in ledger(lab.settings, package="toylab")}
    assert table["film_beats_image"]["verdict"] == "supported" and table["image_beats_film"]["verdict"] == "refuted"
    assert table["image_beats_film"]["word"] == "refuted: harm that matters"
    changed_code(lab)
    table = {row["claim"]: row for row in ledger(lab.settings, package="toylab")}
    assert table["film_beats_image"]["verdict"] == "expired (was supported)"
    assert "renew it: pvlit claims renew films/evidence" in table["film_beats_image"]["problems"][0]
