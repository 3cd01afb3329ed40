"Claims asked about, run again with fresh seeds and renewed, as a process."

import json

import pytest
from counting import call
from toy import Lab, git, notebook

from pvlit.ledger.table import ledger

ROWS = """from pvlit.lab.arms import run_all
from pvlit.ledger.experiment import Experiment
from toylab.train import run
experiment = Experiment("films", globals(), lambda: {"none": "0"}, package="toylab")
arms = [arm for arm in ("film", "image", "long", "strangers") if experiment.needs(arm)]
rows = run_all(run, arms, seeds, experiment.folder, workers=1)
experiment.conclude(rows);"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "The toy laboratory with a notebook that concludes, and published evidence."
    lab = Lab(tmp_path_factory.mktemp("lab"))
    lab.write({"nbs/experiments/films.ipynb": notebook(ROWS)})
    lab.commit("a notebook that concludes")
    lab.publish()
    lab.commit("evidence")
    return lab


def pvlit(lab, *words):
    return call(lab.root, *words, PYTHONPATH=str(lab.root))


def test_why_tells_rule_controls_and_command(lab):
    shown = pvlit(lab, "claims", "why", "film_beats_image")
    assert shown.returncode == 0, shown.stderr
    for part in (
        "5 paired seeds",
        "negative control: strangers",
        "half a point can be seen",
        "What would change it: a longer training",
        "pvlit claims rerun film_beats_image",
    ):
        assert part in shown.stdout


def test_rerun_takes_fresh_seeds_and_leaves_the_evidence_alone(lab):
    before = lab.file.read_bytes()
    first = pvlit(lab, "claims", "rerun", "film_beats_image")
    assert first.returncode == 0, first.stderr
    assert "recorded as" in first.stdout and "with seeds 1010 to 1014: clearly supported" in first.stdout
    lab.write({"nbs/experiments/params/films/rerun.yml": "seeds: [10, 11, 12]\n"})
    second = pvlit(lab, "claims", "rerun", "film_beats_image")
    assert "with seeds 2010 to 2012" in second.stdout
    whole = pvlit(lab, "claims", "rerun", "film_beats_image", "--full")
    assert "with seeds 3010 to 3014" in whole.stdout
    assert lab.file.read_bytes() == before
    kept = sorted((lab.root / "data/replications/film_beats_image").glob("*.json"))
    assert len(kept) == 3 and json.loads(kept[0].read_text())["claim"] == "film_beats_image"
    rows = ledger(lab.settings, package="toylab")
    row = next(r for r in rows if r["claim"] == "film_beats_image")
    assert row["verdict"] == "supported" and len(row["replications"]) == 3


def test_a_rerun_that_fails_is_told(lab):
    broken = notebook(ROWS.replace("experiment = Exp", "raise RuntimeError('told to fail')\nexperiment = Exp"))
    lab.write({"nbs/experiments/films.ipynb": broken})
    failed = pvlit(lab, "claims", "rerun", "film_beats_image")
    assert failed.returncode == 1 and "told to fail" in failed.stderr and "to go on:" in failed.stderr
    git(lab.root, "checkout", "-q", "nbs/experiments/films.ipynb")


def test_renew_and_what_belongs_to_it(lab):
    shown = pvlit(lab, "claims", "renew", "--all")
    assert shown.returncode == 0 and "nothing has expired" in shown.stdout
    odd = pvlit(lab, "claims", "rerun", "film_beats_image", "--all")
    assert odd.returncode == 2 and "--all does not belong to pvlit claims rerun" in odd.stderr
    unknown = pvlit(lab, "claims", "why", "film_beats_images")
    assert unknown.returncode == 2 and "did you mean film_beats_image" in unknown.stderr


def test_json_and_check(lab):
    table = json.loads(pvlit(lab, "claims", "--json").stdout)
    assert len(table["claims"]) == 2 and table["claims"][0]["claim"] == "film_beats_image"
    kept = lab.file.read_text()
    lab.file.write_text("{")
    torn = pvlit(lab, "claims", "--check")
    lab.file.write_text(kept)
    assert torn.returncode == 1 and "not JSON" in torn.stderr


def test_outside_a_clone(lab, tmp_path):
    away = call(tmp_path, "claims")
    assert away.returncode == 2 and "work inside a clone of the repository" in away.stderr
