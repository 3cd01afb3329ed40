"Claims asked about and run again, as a process."

import json
import pytest
from counting import call, make_repository

CLAIM = """
- id: counts_far
  statement: Counting goes on for longer with patience.
  source: {paper: ours, place: here, read: all of it, checked: {by: the test, date: 2026-11-20}}
  metric: {name: steps, better: higher}
  arms:
    method: patient
    baseline: hasty
    compute_matched: {none: counting is free}
    ablation: {none: one part only}
    negative_control: asleep
  rule:
    seeds: 5
    confidence: 0.95
    kind: difference
    pilot: invented
    pilot_sd: 0.1
    smallest_effect: 1.0
    compare: [method, baseline]
  tier: toy
  changes_mind: an asleep arm that counts
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = make_repository(tmp_path_factory.mktemp("repository"))
    (root / "data/claims").mkdir(parents=True)
    (root / "data/claims/counting.yml").write_text(CLAIM)
    return root


def test_why_tells_rule_controls_and_command(root):
    shown = call(root, "claims", "why", "counts_far")
    assert shown.returncode == 0, shown.stderr
    for part in (
        "5 paired seeds",
        "negative_control: asleep",
        "untested",
        "What would change it: an asleep arm",
        "pvlit claims rerun counts_far",
    ):
        assert part in shown.stdout


def test_rerun_takes_the_defaults_then_the_set_made_for_it_then_the_arms_of_the_claim(root):
    first = call(root, "claims", "rerun", "counts_far")
    assert (
        first.returncode == 0
        and "It counts to 3." in first.stdout
        and "recorded as untested" in first.stdout
        and "a smoke form decides nothing" in first.stdout
    )
    params = root / "nbs/experiments/params/counting/rerun.yml"
    params.write_text("steps: 7\n")
    assert "It counts to 7." in call(root, "claims", "rerun", "counts_far").stdout
    notebook = root / "nbs/experiments/counting.ipynb"
    notebook.write_text(
        notebook.read_text()
        .replace("wait = False #", 'claim = \\"\\"\\nwait = False #')
        .replace("It counts to {steps}.", "It counts to {steps} for {claim}.")
    )
    assert "It counts to 7 for counts_far." in call(root, "claims", "rerun", "counts_far").stdout


def test_full_needs_the_evidence_set_and_failure_is_told(root):
    missing = call(root, "claims", "rerun", "counts_far", "--full")
    assert missing.returncode == 2 and "parameter set of counting: evidence" in missing.stderr.replace("unknown ", "")
    (root / "nbs/experiments/params/counting/rerun.yml").write_text("fail: true\n")
    failed = call(root, "claims", "rerun", "counts_far")
    assert failed.returncode == 1 and "told to fail" in failed.stderr and "to go on:" in failed.stderr


def test_nothing_stale(root):
    shown = call(root, "claims", "rerun", "--stale")
    assert shown.returncode == 0 and "nothing is stale" in shown.stdout


def test_json_and_check(root):
    table = json.loads(call(root, "claims", "--json").stdout)
    assert table["counts"]["untested"] == 1 and table["claims"][0]["claim"] == "counts_far"
    assert call(root, "claims", "--check").returncode == 0
    (root / "data/results/counting").mkdir(parents=True)
    (root / "data/results/counting/evidence.json").write_text("{")
    torn = call(root, "claims", "--check")
    assert torn.returncode == 1 and "not JSON" in torn.stderr
