"""Reading the ledger: processor time here, first look and second, and on made-up ones of 300 files with 1,000 claims.

    python benchmarks/ledger.py            # writes benchmarks/results/ledger.json
    python benchmarks/ledger.py --quick    # 12 files, writes nothing: does it run?

Made-up repositories repeat the committed evidence under new names, each with its own notebook, parameter set and
claims. Each look is a process of its own, as a person's `pvlit claims` is. Seconds are those of the processor, children
included.
"""

import argparse
import json
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import yaml
from _report import at_most, publish

from pvlit.core.files import sealed
from pvlit.core.settings import load_settings
from pvlit.lab.runs import experiments
from pvlit.ledger.evidence import load_evidence, save_evidence

ROOT = Path(__file__).resolve().parents[1]
LOOK = "from pvlit.ledger.table import ledger; print(len(ledger()))"


def look(root):
    "Read the ledger in a fresh process; give (rows, processor seconds)."
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run([sys.executable, "-c", LOOK], cwd=root, check=True, capture_output=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return int(done.stdout), after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def repeated(root, count):
    "Write a repository with `count` evidence files, which repeat the committed ones under new names."
    settings = load_settings(ROOT)
    shutil.copytree(ROOT / "pvlit", root / "pvlit", ignore=shutil.ignore_patterns("__pycache__"))
    (root / "settings.ini").write_text("[pvlit]\n")
    sources = sorted(settings.results.glob("*/*.json"))
    notebooks = experiments(settings)
    for number in range(count):
        file = sources[number % len(sources)]
        evidence = {k: v for k, v in load_evidence(file).items() if k != "seal"}
        old, name = evidence["experiment"], f"{evidence['experiment']}_{number}"
        place = root / "nbs/experiments" / f"{name}.ipynb"
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(notebooks[old], place)
        params = root / "nbs/experiments/params" / name
        params.mkdir(parents=True)
        shutil.copy(settings.root / f"nbs/experiments/params/{old}/{file.stem}.yml", params)
        claims = yaml.safe_load((settings.data / f"claims/{old}.yml").read_text())
        ids = {c["id"] for c in evidence["claims"]}
        kept = [{**c, "id": f"{c['id']}_{number}"} for c in claims if c["id"] in ids]
        target = root / "data/claims" / f"{name}.yml"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(re.sub(r"date: '(.*?)'", r"date: \1", yaml.safe_dump(kept, sort_keys=False)))
        for claim, decision in zip(evidence["claims"], evidence["decisions"]):
            claim["id"] = decision["claim"] = f"{claim['id']}_{number}"
        save_evidence(sealed({**evidence, "experiment": name}), root / "data/results" / name / file.name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="12 files, writes nothing")
    quick = parser.parse_args().quick
    rows = []
    with tempfile.TemporaryDirectory() as place:
        clone = Path(place) / "clone"
        subprocess.run(["git", "clone", "-q", ROOT, clone], check=True)
        for which in ("first look", "second look"):
            claims, seconds = look(clone)
            files = len(list((clone / "data/results").glob("*/*.json")))
            rows.append(dict(repository="this one", files=files, rows=claims, look=which, seconds=round(seconds, 2)))
        for count in (12,) if quick else (100, 300):
            root = Path(place) / str(count)
            repeated(root, count)
            for which in ("first look", "second look"):
                claims, seconds = look(root)
                rows.append(dict(repository="made up", files=count, rows=claims, look=which, seconds=round(seconds, 2)))
    for row in rows:
        print(json.dumps(row))
    by = {(r["repository"], r["files"], r["look"]): r["seconds"] for r in rows}
    own = next(r["files"] for r in rows)
    targets = [
        at_most("this repository, first look: seconds", 6, by["this one", own, "first look"]),
        at_most("this repository, second look: seconds", 2, by["this one", own, "second look"]),
    ]
    if not quick:
        targets.append(at_most("300 files, first look: seconds", 10, by["made up", 300, "first look"]))
        publish("ledger", rows, targets)


if __name__ == "__main__":
    main()
