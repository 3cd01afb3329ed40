"""Run notebooks as tests, several at a time: `python tools/run_notebooks.py [notebook or folder ...]`.

Each notebook runs in a process of its own, forked from one that has the heavy libraries loaded: it starts at once, sees
nothing of the others, and gives back its memory. A cell that raises fails its notebook. The notebooks that took longest
in the last run start first. The ten slowest are listed at the end, whether or not something failed.
"""

import json
import os
import signal
import sys
import tempfile
import time
import traceback
import warnings
from importlib import import_module
from pathlib import Path

from fastcore.script import call_parse

ROOT = Path(__file__).resolve().parent.parent
LOADED = "numpy scipy.stats sklearn.datasets PIL.Image matplotlib.pyplot ipywidgets IPython nbdev.test torch".split()
SECONDS = 900  # after which a notebook that has not ended is stopped
FLAGS = ["slow", "gpu"]  # cells that need another machine


def find_notebooks(paths, root=ROOT):
    "The notebooks of `root` at or below `paths` whose name and folders begin with neither a dot nor an underscore."
    found = []
    for path in map(Path, paths):
        inside = [path] if path.is_file() else sorted(path.resolve().rglob("*.ipynb"))
        for notebook in inside:
            parts = notebook.resolve().relative_to(root / "nbs").parts
            if not any(part.startswith((".", "_")) for part in parts):
                found.append(notebook.resolve())
    return list(dict.fromkeys(found))


def start(notebook, log, root):
    "Fork a process that runs one notebook, writes what it prints into the file `log`, and exits with 0 or 1."
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        os.setsid()
        for stream in (1, 2):
            os.dup2(log.fileno(), stream)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.__stderr__ = sys.stderr = os.fdopen(2, "w", buffering=1, closefd=False)
        from nbdev.test import test_nb

        passed, _ = test_nb(notebook, skip_flags=FLAGS, basepath=root, cell_timeout=None)
        code = int(not passed)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(code)


def end(child):
    "Stop a process and what it has started."
    try:
        os.killpg(child, signal.SIGKILL)
    except ProcessLookupError:
        pass


def run(notebooks, workers, limit, root=ROOT):
    "Run `notebooks` and give (notebook, passed, seconds, processor seconds, what it printed) of each as it ends."
    waiting, running = list(notebooks), {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                notebook, log = waiting.pop(0), tempfile.TemporaryFile("w+", errors="replace")
                running[start(notebook, log, root)] = notebook, log, time.monotonic()
            for child, (_, log, began) in running.items():
                if time.monotonic() - began > limit:
                    print(f"not ended after {limit:.0f} s (PATIENCE multiplies this limit)", file=log)
                    end(child)
            child, status, used = os.wait4(-1, os.WNOHANG)
            if not child:
                time.sleep(0.02)
                continue
            end(child)  # nothing that a notebook has started outlives it
            notebook, log, began = running.pop(child)
            log.seek(0)
            words = log.read()
            if os.WIFSIGNALED(status):
                words += f"stopped by signal {os.WTERMSIG(status)}\n"
            log.close()
            yield notebook, status == 0, time.monotonic() - began, used.ru_utime + used.ru_stime, words
    finally:
        for child in running:
            end(child)


@call_parse
def main(
    *paths: str,  # notebooks or folders; by default all of nbs/ but the experiments
    workers: int = 2,  # notebooks at a time
    root: Path = ROOT,  # repository
):
    "Run notebooks as tests and name the ten slowest."
    root = root.resolve()
    kept = root / ".cache" / "notebook_seconds.json"
    notebooks = find_notebooks(paths or [root / "nbs"], root)
    if not paths:
        notebooks = [n for n in notebooks if "experiments" not in n.parts]
    known = json.loads(kept.read_text()) if kept.exists() else {}
    name = {n: n.relative_to(root / "nbs").as_posix() for n in notebooks}
    notebooks.sort(key=lambda n: known.get(name[n], n.stat().st_size / 10_000), reverse=True)
    for module in LOADED:
        import_module(module)
    # The only other threads are idle workers of the numerical libraries, which know how to be forked.
    warnings.filterwarnings("ignore", "This process .* is multi-threaded", DeprecationWarning)
    took, failed, limit = {}, [], SECONDS * float(os.environ.get("PATIENCE", "1"))
    for notebook, passed, seconds, used, words in run(notebooks, workers, limit, root):
        took[name[notebook]] = seconds, used
        known[name[notebook]] = round(used, 1)
        if not passed:
            failed.append(name[notebook])
            print(f"-- nbs/{name[notebook]} failed:\n{words}", flush=True)
    kept.parent.mkdir(exist_ok=True)
    kept.write_text(json.dumps(known, indent=1, sort_keys=True))
    print("slowest notebooks (seconds, of them on a processor):")
    for notebook, (seconds, used) in sorted(took.items(), key=lambda item: -item[1][0])[:10]:
        print(f"{seconds:7.1f} {used:7.1f}  {notebook}")
    print(f"notebooks: {len(took) - len(failed)} passed, {len(failed)} failed")
    sys.exit(int(bool(failed)))
