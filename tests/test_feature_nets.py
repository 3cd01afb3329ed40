"""The shipped feature networks: every file is what the index says, says how it was made, and is small."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT / "data" / "feature_nets"
INDEX = json.loads((FOLDER / "index.json").read_text())


def test_every_file_is_what_the_index_says():
    looked = subprocess.run(
        [sys.executable, ROOT / "tools" / "feature_nets.py", "--check"], cwd=ROOT, capture_output=True, text=True
    )
    assert looked.returncode == 0, looked.stdout + looked.stderr


@pytest.mark.parametrize("entry", INDEX, ids=lambda entry: entry["name"])
def test_a_file_says_how_it_was_made(entry):
    from safetensors import safe_open

    assert list(entry["nets"]) == ["0", "1", "2", "3", "4"]
    for seed, listed in entry["nets"].items():
        with safe_open(FOLDER / listed["file"], framework="np") as file:
            record = json.loads(file.metadata()["pvlit"])
        assert {key: record[key] for key in ("net", "accuracy")} == {key: listed[key] for key in ("net", "accuracy")}
        assert (record["data"], record["seed"]) == (entry["data"], int(seed))
        assert all(record["made"][key] for key in ("command", "commit", "torch", "processor", "capability", "threads"))


def test_the_networks_are_small():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 6e6


def test_the_networks_that_stored_results_name_are_shipped():
    "Results that name the network of their scores can be made again on another machine."
    files = [file for folder in ("data/results", "benchmarks/results") for file in (ROOT / folder).rglob("*.json")]
    fingerprint = re.compile(r'"([a-z_]+-\d+x\d+x\d+-\d+-[0-9a-f]{12})"')
    named = {name for file in files for name in fingerprint.findall(file.read_text(encoding="utf-8"))}
    assert named and named <= {listed["net"] for entry in INDEX for listed in entry["nets"].values()}
