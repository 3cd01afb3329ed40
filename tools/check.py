"""The stages of `make test`, each timed; all of them run even when one fails, so that one call tells everything."""

import hashlib
import os
import re
import subprocess
import sys
import time
from pathlib import Path

from fastcore.script import call_parse

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


def shell(*command) -> bool:
    "Run one command from the top of the repository."
    environment = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
    }
    return subprocess.run([str(c) for c in command], cwd=ROOT, env=environment).returncode == 0


def digests() -> dict:
    "Hash every notebook and every exported module."
    files = [
        f
        for pattern in ("nbs/**/*.ipynb", "pvlit/**/*.py")
        for f in ROOT.glob(pattern)
        if ".ipynb_checkpoints" not in f.parts
    ]
    return {f.relative_to(ROOT): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def changes_nothing(command: str) -> bool:
    "Run an nbdev command that must leave every notebook and module as it found it."
    before = digests()
    passed, after = shell(BIN / command), digests()
    changed = sorted(f for f in before.keys() | after.keys() if before.get(f) != after.get(f))
    for f in changed:
        print(f"{command} changed {f}: run `{command}` and commit the result")
    return passed and not changed


def notebooks() -> bool:
    "Run every notebook but the experiments, which nbval runs, and name the ten slowest."
    run = subprocess.run(
        [BIN / "nbdev-test", "--n-workers", "2", "--timing", "--skip-folder-re", "^[_.]|^experiments$"],
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        env=os.environ | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"},
    )
    timed = re.findall(r"^(\S+\.ipynb): (\d+) secs$", run.stdout, re.M)
    print(re.sub(r"^\S+\.ipynb: \d+ secs\n", "", run.stdout, flags=re.M), end="")
    print("slowest notebooks: " + ", ".join(f"{name} {seconds} s" for name, seconds in timed[:10]))
    return run.returncode == 0


def docs() -> bool:
    "Build the site into `_docs/`; the tests that open its pages read it instead of building their own."
    os.environ["DOCS_SITE"] = str(ROOT / "_docs")
    return shell(sys.executable, "tools/docs.py", "--out", os.environ["DOCS_SITE"])


STAGES = {
    "clean": lambda: changes_nothing("nbdev-clean"),
    "export": lambda: changes_nothing("nbdev-export"),
    "lint": lambda: shell(sys.executable, "tools/lint.py"),
    "readme": lambda: shell(sys.executable, "tools/readme.py", "--check"),
    "notebooks": notebooks,
    "docs": docs,
    "pytest": lambda: shell(
        sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "tests", "--durations=5"
    ),
    "nbval": lambda: shell(
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-n",
        "2",
        "--dist",
        "loadfile",
        "--nbval-lax",
        "--nbval-current-env",
        "--nbval-cell-timeout=600",
        "nbs/experiments",
    ),
}


@call_parse
def main(
    *stages: str,  # stages to run; all of them by default
):
    "Run the project's checks: clean export lint readme notebooks docs pytest nbval"
    unknown = [s for s in stages if s not in STAGES]
    if unknown:
        sys.exit(f"unknown stage {', '.join(unknown)}; there are: {', '.join(STAGES)}")
    results = {}
    for name in stages or STAGES:
        print(f"\n== {name}", flush=True)
        start = time.perf_counter()
        results[name] = STAGES[name](), time.perf_counter() - start
    print("\nstage      seconds")
    for name, (passed, seconds) in results.items():
        print(f"{name:<10} {seconds:7.1f}  {'passed' if passed else 'FAILED'}")
    print(f"total      {sum(s for _, s in results.values()):7.1f}")
    failed = sum(not passed for passed, _ in results.values())
    print(f"stages: {len(results) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
