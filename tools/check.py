"""The stages of `make test`, each timed; all of them run even when one fails, so that one call tells everything.

    python tools/check.py                     clean export lint style readme notebooks docs pytest nbval
    python tools/check.py lint pytest         only these
    python tools/check.py portable            a part of the checks, the processor disguised as another one
    python tools/check.py portable --all      all notebooks and tests under each disguise
    python tools/check.py portable --all --disguise "AVX2, two threads"

A disguise asks the libraries for the kernels of an older processor. What it is and which part is checked follow from
`--seed`, so that a failure can be repeated.
"""

import hashlib
import os
import platform
import re
import subprocess
import sys
import time
from pathlib import Path

from fastcore.script import call_parse

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
COUNTED = re.compile(r"(\d+) (passed|failed|error|skipped)")
PYTEST = [sys.executable, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", "--durations=10"]
NBVAL = [*PYTEST, "--nbval-lax", "--nbval-current-env"]
CELL_SECONDS = 600  # for one cell of an experiment
OLD = dict(
    ATEN_CPU_CAPABILITY="default",
    ONEDNN_MAX_CPU_ISA="SSE41",
    MKL_ENABLE_INSTRUCTIONS="SSE4_2",
    OPENBLAS_CORETYPE="Sandybridge",
)
NEWER = dict(
    ATEN_CPU_CAPABILITY="avx2",
    ONEDNN_MAX_CPU_ISA="AVX2",
    MKL_ENABLE_INSTRUCTIONS="AVX2",
    OPENBLAS_CORETYPE="Haswell",
)
ONE = dict(OMP_NUM_THREADS="1")
TWO = dict(OMP_NUM_THREADS="2", OMP_WAIT_POLICY="PASSIVE")  # two processes at once: who waits must not hold a core
DISGUISES = {  # one thread and two, since the order of additions follows their number
    "no AVX, one thread": OLD | ONE,
    "AVX2, one thread": NEWER | ONE,
    "no AVX, two threads": OLD | TWO,
    "AVX2, two threads": NEWER | TWO,
    "old torch and new BLAS, two threads": OLD | TWO | dict(OPENBLAS_CORETYPE="Haswell"),
}
PART = 8  # without --all, one notebook in so many
NUMERIC = ["test_training", "test_data", "test_generate", "test_papers"]  # tests whose numbers pass through kernels
counts = dict(passed=0, failed=0, skipped=0)  # notebooks and tests, over all stages


def shell(*command, **environment) -> bool:
    "Run one command from the top of the repository, show what it prints, and add up the tests that it counts."
    variables = {"OMP_NUM_THREADS": "1", **os.environ, **environment}
    variables["PATH"] = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen([str(c) for c in command], cwd=ROOT, env=variables, stdout=subprocess.PIPE)
    printed = bytearray()
    while part := os.read(process.stdout.fileno(), 65536):
        sys.stdout.buffer.write(part)
        sys.stdout.flush()
        printed += part
    last = printed.decode(errors="replace").rstrip().rpartition("\n")[2]
    for number, kind in COUNTED.findall(last):
        counts[kind.replace("error", "failed")] += int(number)
    return process.wait() == 0


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


def style() -> bool:
    "The layout of the code, notebooks included, and what ruff finds without running it."
    laid_out = shell(BIN / "ruff", "format", "--check", ".")
    if not laid_out:
        print("run `ruff format .` and commit the result")
    return shell(BIN / "ruff", "check", "--output-format", "concise", ".") and laid_out


def notebooks(*paths, **environment) -> bool:
    "Run every notebook but the experiments, which nbval runs in a kernel."
    return shell(sys.executable, "tools/run_notebooks.py", *paths, **environment)


def docs() -> bool:
    "Build the site into `_docs/`; the tests that open its pages read it instead of building their own."
    os.environ["DOCS_SITE"] = str(ROOT / "_docs")
    return shell(sys.executable, "tools/docs.py", "--out", os.environ["DOCS_SITE"])


def experiments(*paths, **environment) -> bool:
    "Run the experiments with the parameters they carry, each in a kernel of its own as JupyterLab would."
    limit = CELL_SECONDS * float(os.environ.get("PATIENCE", "1"))
    return shell(*NBVAL, f"--nbval-cell-timeout={limit:.0f}", *(paths or ["nbs/experiments"]), **environment)


def chosen(name: str, seed: str, parts: int) -> bool:
    "Whether `name` belongs to the part that `seed` asks for, one of `parts` of about the same size."
    return int(hashlib.sha256(f"{seed} {name}".encode()).hexdigest(), 16) % parts == 0


def portable(everything: bool, disguise: str, seed: str) -> bool:
    "Run notebooks, tests and experiments disguised as other processors, or as the one that `disguise` names."
    if platform.machine().lower() not in ("x86_64", "amd64"):
        print("disguises are known for x86 processors only: nothing was checked")
        return True
    sys.path.insert(0, str(ROOT / "tools"))
    from run_notebooks import find_notebooks

    found = [path.relative_to(ROOT).as_posix() for path in find_notebooks([ROOT / "nbs"])]
    disguises, tests = list(DISGUISES), ["tests"]
    if not everything:
        number = int(hashlib.sha256(seed.encode()).hexdigest(), 16)
        disguises = [disguises[number % len(disguises)]]
        tests = [f"tests/{name}.py" for name in NUMERIC]
        found = [name for name in found if chosen(name, seed, PART)]
    passed = True
    for name in [disguise] if disguise else disguises:
        variables = DISGUISES[name]
        print(f"\n-- as a processor with {name}: {' '.join(f'{k}={v}' for k, v in variables.items())}", flush=True)
        in_kernels = [path for path in found if path.startswith("nbs/experiments/")]
        alone = [path for path in found if path not in in_kernels]
        results = [
            not alone or notebooks(*alone, **variables),
            not in_kernels or experiments(*in_kernels, **variables),
            shell(*PYTEST, *tests, **variables),
        ]
        print(f"-- {name}: {'passed' if all(results) else f'FAILED, seed {seed}'}")
        passed = passed and all(results)
    return passed


STAGES = {
    "clean": lambda: changes_nothing("nbdev-clean"),
    "export": lambda: changes_nothing("nbdev-export"),
    "lint": lambda: shell(sys.executable, "tools/lint.py"),
    "style": style,
    "readme": lambda: shell(sys.executable, "tools/readme.py", "--check"),
    "notebooks": notebooks,
    "docs": docs,
    "pytest": lambda: shell(*PYTEST, "tests"),
    "nbval": experiments,
}


@call_parse
def main(
    *stages: str,  # stages to run; all of them by default, but for `portable`
    all: bool = False,  # portable: every notebook and test under every disguise
    disguise: str = "",  # portable: this one, by its name
    seed: str = "",  # portable: chooses disguise and part; by default the hash of the commit
):
    "Run the project's checks: clean export lint style readme notebooks docs pytest nbval, or portable."
    seed = seed or subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
    known = STAGES | {"portable": lambda: portable(all, disguise, seed)}
    unknown = [s for s in stages if s not in known]
    if unknown:
        sys.exit(f"unknown stage {', '.join(unknown)}; there are: {', '.join(known)}")
    if disguise and disguise not in DISGUISES:
        sys.exit(f"unknown disguise {disguise!r}; there are: {'; '.join(DISGUISES)}")
    results = {}
    for name in stages or STAGES:
        print(f"\n== {name}", flush=True)
        start, before = time.perf_counter(), sum(os.times()[2:4])
        tests = sum(counts.values())
        passed = known[name]()
        if sum(counts.values()) == tests:  # a stage without tests of its own counts as one
            counts["passed" if passed else "failed"] += 1
        results[name] = passed, time.perf_counter() - start, sum(os.times()[2:4]) - before
    print("\nstage      seconds  processor")
    for name, (passed, seconds, used) in results.items():
        print(f"{name:<10} {seconds:7.1f} {used:10.1f}  {'passed' if passed else 'FAILED'}")
    print(f"total      {sum(s for _, s, _ in results.values()):7.1f} {sum(u for _, _, u in results.values()):10.1f}")
    failed = sum(not passed for passed, _, _ in results.values())
    print(f"stages: {len(results) - failed} passed, {failed} failed")
    print(", ".join(f"{number} {kind}" for kind, number in counts.items()))
    sys.exit(1 if failed else 0)
