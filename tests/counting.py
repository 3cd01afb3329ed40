"A repository with one experiment that can wait, fail and die, and ways to call pvlit in it as a process."

import os
import signal
import subprocess
import sys
import time
import nbformat
from patience import patient

PARAMETERS = '''steps: int = 3 # how far to count
rate = 0.5
label = "plain"
wait = False # wait for a file named go
fail = False
die = False
place = "" # a file or folder (path)
data = "digits" # data set, as in `load_images`
size = 8 # pixels
device = "cpu" # as in `fit`
precision = "fp32" # as in `fit`
seeds = [0]
run_folder = ""'''

WORK = """import os, time
from pathlib import Path
folder = Path(run_folder)
with open(folder/"attempts.txt", "a") as f: f.write(f"{os.getpid()}\\n")
print("working with", repr(label), rate)
if wait and not (folder/"go").exists():
    import subprocess, sys
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    workers = [subprocess.Popen(sleep, start_new_session=True) for _ in range(2)]
    (folder/"workers.txt").write_text(" ".join(str(w.pid) for w in workers))
while wait and not (folder/"go").exists(): time.sleep(0.02)
if fail and not (folder/"go").exists(): raise RuntimeError("told to fail")
if die and not (folder/"go").exists(): os.kill(os.getpid(), 9)"""


def make_repository(root):
    "Write settings, the experiment `counting` and its parameter set `far` into `root`."
    folder = root / "nbs" / "experiments"
    (folder / "params" / "counting").mkdir(parents=True)
    (root / "settings.ini").write_text("[pvlit]\n")
    (folder / "params" / "counting" / "far.yml").write_text("steps: 40\nrate: 1e-3\n")
    code, text = nbformat.v4.new_code_cell, nbformat.v4.new_markdown_cell
    cells = [
        text("# How far does it count?"),
        code(PARAMETERS, metadata={"tags": ["parameters"]}),
        code(WORK),
        code('print(f"It counts to {steps}.")', metadata={"tags": ["verdict"]}),
    ]
    kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel), folder / "counting.ipynb")
    return root


PVLIT = [sys.executable, "-c", "import sys; from pvlit.cli import main; sys.exit(main())"]


def environment(**variables):
    return {k: v for k, v in os.environ.items() if not k.startswith("PVLIT_")} | variables


def call(root, *argv, preexec_fn=None, **variables):
    "Call pvlit in `root` and wait for its end."
    return subprocess.run(
        [*PVLIT, *map(str, argv)],
        cwd=root,
        env=environment(**variables),
        capture_output=True,
        text=True,
        timeout=patient(120),
        preexec_fn=preexec_fn,
    )


def start(root, *argv):
    "Start pvlit in `root`, in a process group of its own and with Ctrl-C in force, as a terminal does."
    return subprocess.Popen(
        [*PVLIT, *map(str, argv)],
        cwd=root,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_until(condition, seconds=60):
    "Wait until `condition()` is true."
    end = time.monotonic() + patient(seconds)
    while not condition():
        assert time.monotonic() < end, f"still not after {patient(seconds):.0f} s"
        time.sleep(0.05)
