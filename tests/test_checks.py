"The checks themselves: a notebook that fails, dies or hangs is seen, and a part chosen by a seed can be chosen again."

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from patience import patient

ROOT = Path(__file__).resolve().parent.parent


def load(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / f"tools/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


check = load("check")

NOTEBOOKS = {
    "good": "assert sum(map(abs, [-1, 2])) == 3",
    "bad": "print('some words')\nassert 1 + 1 == 3, 'not three'",
    "killed": "import os\nos.kill(os.getpid(), 9)",
    "hanging": "import time\ntime.sleep(10_000)",
    "_draft": "1 / 0",
}


@pytest.fixture
def repository(tmp_path):
    "A repository with notebooks that end in every way a notebook can end."
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, source in NOTEBOOKS.items():
        cell = dict(cell_type="code", id=name, metadata={}, source=source, outputs=[], execution_count=None)
        kernel = dict(kernelspec=dict(name="python3", display_name="python3", language="python"))
        path = tmp_path / "nbs" / f"{name}.ipynb"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(dict(nbformat=4, nbformat_minor=5, metadata=kernel, cells=[cell])))
    return tmp_path


def test_a_notebook_that_fails_or_dies_is_seen(repository):
    (repository / "nbs/hanging.ipynb").unlink()
    command = [sys.executable, ROOT / "tools/run_notebooks.py", "--root", repository]
    done = subprocess.run(command, capture_output=True, text=True, timeout=patient(200))
    assert done.returncode == 1, done.stdout + done.stderr
    assert set(re.findall(r"^-- nbs/(\w+).ipynb failed", done.stdout, re.M)) == {"bad", "killed"}
    for words in ("not three", "stopped by signal 9", "1 passed, 2 failed"):
        assert words in done.stdout, done.stdout
    assert all(re.search(rf"\d  {name}.ipynb$", done.stdout, re.M) for name in ("good", "bad", "killed"))


def test_a_notebook_that_hangs_is_stopped(repository):
    code = f"""import sys; sys.path.insert(0, {str(ROOT / "tools")!r})
from pathlib import Path
from run_notebooks import run
print(*[row for row in run([Path("nbs/hanging.ipynb").resolve()], 1, 1, Path.cwd())])"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, timeout=patient(200))
    assert "False" in done.stdout and "not ended after 1 s" in done.stdout, done.stdout + done.stderr


def test_a_seed_chooses_the_same_part_again_and_all_seeds_together_everything():
    names = [f"nbs/{i}.ipynb" for i in range(100)]
    parts = [{n for n in names if check.chosen(n, f"seed {i}", 8)} for i in range(60)]
    assert parts == [{n for n in names if check.chosen(n, f"seed {i}", 8)} for i in range(60)]
    assert set.union(*parts) == set(names) and all(1 <= len(part) <= 40 for part in parts)


@pytest.mark.skipif(check.platform.machine() not in ("x86_64", "AMD64"), reason="disguises are known for x86 only")
@pytest.mark.parametrize("name", ["no AVX, one thread", "AVX2, two threads"])
def test_a_disguise_reaches_torch(name):
    code = "import torch; print(torch.backends.cpu.get_cpu_capability(), torch.get_num_threads())"
    variables = check.DISGUISES[name]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={**os.environ, **variables})
    kernels, threads = done.stdout.split()
    assert kernels == {"default": "DEFAULT", "avx2": "AVX2"}[variables["ATEN_CPU_CAPABILITY"]]
    assert int(threads) <= int(variables["OMP_NUM_THREADS"])
