"The package as a library: a wheel in an environment that holds its dependencies and nothing else."

import re
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import distribution
from pathlib import Path
import pytest
from patience import patient

ROOT = Path(__file__).resolve().parents[1]
LAB = {"papermill", "IPython", "ipykernel", "nbconvert", "nbformat", "nbdev", "jupyterlab", "ipywidgets", "nbval"}


def call(*command, cwd):
    "Run a command to its end."
    command = [str(word) for word in command]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=patient(240))


def needed(names):
    "The distributions that these need, with all that those need in turn; extras are left out."
    found, left = {}, list(names)
    while left:
        name = re.match(r"[\w.-]+", left.pop()).group().lower().replace("_", "-")
        if name not in found:
            found[name] = distribution(name)
            left += [one for one in found[name].requires or () if "extra ==" not in one and here(one)]
    return found.values()


def here(requirement):
    "Whether a requirement is meant for this interpreter and system."
    from packaging.requirements import Requirement

    marker = Requirement(requirement).marker
    return marker is None or marker.evaluate()


@pytest.fixture(scope="module")
def light(tmp_path_factory):
    "An environment with pvlit's wheel, whose other packages are links to those of this one; its Python, and the wheel."
    folder = tmp_path_factory.mktemp("light")
    tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    for name in filter(None, tracked.split("\0")):
        if name.startswith("pvlit/") or "/" not in name:
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / "source" / name).write_bytes((ROOT / name).read_bytes())
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check"]
    built = call(*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", folder, folder / "source", cwd=folder)
    assert built.returncode == 0, built.stderr
    (wheel,) = folder.glob("pvlit-*.whl")
    venv.create(folder / "env", with_pip=False)
    python = folder / "env" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    site = Path(call(python, "-c", "import site; print(site.getsitepackages()[0])", cwd=folder).stdout.strip())
    with zipfile.ZipFile(wheel) as inside:
        metadata = next(inside.read(name).decode() for name in inside.namelist() if name.endswith("/METADATA"))
    requires = [one for one in re.findall(r"^Requires-Dist: (.*)", metadata, re.M) if "extra ==" not in one]
    for one in needed(requires):
        for top in {
            Path(file).parts[0] for file in one.files or () if Path(file).parts[0] not in ("..", "__pycache__")
        }:
            if not (site / top).exists():
                (site / top).symlink_to(one.locate_file(top))
    installed = call(*pip, f"--python={python}", "install", "--no-deps", "--no-index", wheel, cwd=folder)
    assert installed.returncode == 0, installed.stderr
    return python, folder


def test_the_wheel_does_without_notebooks(light):
    python, folder = light
    seen = call(python, "-c", "import importlib.util as u; print(*[n for n in %r if u.find_spec(n)])" % LAB, cwd=folder)
    assert seen.stdout.strip() == "", "what only notebooks need is among the dependencies"
    modules = sorted(p.relative_to(ROOT).with_suffix("").as_posix() for p in ROOT.glob("pvlit/**/*.py"))
    names = [m.replace("/", ".").removesuffix(".__init__") for m in modules if not m.endswith("_modidx")]
    named = f"import importlib, pvlit; [importlib.import_module(n) for n in {names!r}]; print(pvlit.__file__)"
    loaded = call(python, "-c", named, cwd=folder)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.strip().startswith(str(folder.resolve())), "another copy of the package was imported"


USE = """
import torch
from pvlit.core.data import load_images
from pvlit.core.plots import show_film
from pvlit.pseudo_video import load
from pvlit.pseudo_video.clips import Recipe
images = load_images("digits").x
clips = Recipe(frames=4).make(images[:8], images.std().item(), generator=0)
assert clips.shape == (8, 4, 1, 8, 8)
show_film(list(clips[:2]))
from pvlit.motion_coherence.swapmix import SwapMix
from pvlit.papers.vision_language.amad import amad_loss
"""


def test_it_is_used_from_an_empty_folder(light):
    python, folder = light
    (folder / "work").mkdir()
    used = call(python, "-c", USE, cwd=folder / "work")
    assert used.returncode == 0, used.stderr
    pvlit = python.with_name("pvlit")
    trained = call(pvlit, "train", "digits", "--size", 8, "--steps", 3, cwd=folder / "work")
    assert trained.returncode == 0, trained.stderr
    drawn = call(pvlit, "generate", "model.safetensors", "--n", 4, cwd=folder / "work")
    assert drawn.returncode == 0 and (folder / "work" / "samples.png").exists(), drawn.stderr
    for command in (["list"], ["run", "pseudo_video_digits"], ["claims"], ["claims", "why", "x"], ["papers"]):
        ended = call(pvlit, *command, cwd=folder / "work")
        assert ended.returncode == 2 and "inside a clone" in ended.stderr and "Traceback" not in ended.stderr, command
    assert call(pvlit, "--version", cwd=folder).stdout.startswith("pvlit ")


def test_a_clone_without_the_lab_says_what_is_missing(light):
    from counting import make_repository

    python, folder = light
    root = make_repository(folder / "clone")
    ended = call(python.with_name("pvlit"), "run", "counting", cwd=root)
    assert ended.returncode == 2 and "pip install 'pvlit[lab]'" in ended.stderr, ended.stderr
    assert call(python.with_name("pvlit"), "list", cwd=root).returncode == 0
