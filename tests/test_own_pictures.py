"A folder of one's own pictures or videos, named in every wrong way: one sentence, before anything is computed."

import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image

from pvlit.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "A hundred pictures of one's own, a damaged one among them."
    place = tmp_path_factory.mktemp("own") / "pictures"
    place.mkdir()
    draw = np.random.RandomState(0)
    for number in range(100):
        pixels = draw.randint(0, 256, (8, 8, 3)).astype("uint8")
        Image.fromarray(pixels).save(place / f"{number:03d}.png")
    (place / "torn.png").write_bytes((place / "000.png").read_bytes()[:60])
    return place


@pytest.fixture(scope="module")
def model(folder):
    "A generator after one step."
    file = folder.parent / "model.safetensors"
    if not file.exists():
        assert main(["train", str(folder), "--size", "4", "--steps", "1", "--out", str(file)]) == 0
    return file


@pytest.mark.parametrize(
    "words, says",
    [
        ("--steps 0", "--steps 0: expected at least 1"),
        ("--steps -5", "--steps -5: expected at least 1"),
        ("--frames 0", "--frames 0: expected at least 1"),
        ("--size 0", "--size 0: expected at least 1"),
        ("--seed -1", "--seed -1: expected at least 0"),
        ("--out new/", "expected a file, such as new/model.safetensors"),
        ("--out /proc/model", "cannot write in /proc"),
        ("--out pictures/000.png/model", "cannot write in"),
    ],
)
def test_a_training_that_cannot_end_well_does_not_begin(folder, capsys, monkeypatch, words, says):
    if "/proc" in words and not os.path.isdir("/proc"):
        pytest.skip("no /proc here")
    monkeypatch.chdir(folder.parent)
    assert main(["train", "pictures", "--out", "no", *words.split()]) == 2
    assert says in capsys.readouterr().err and not os.path.exists("no.safetensors")


@pytest.mark.parametrize(
    "name, says",
    [
        ("", "there is no folder ''"),
        ("nowhere", "there is no folder nowhere, and no data set of that name; known: celeba"),
        ("pictures.zip", "is a file; expected a folder of pictures: unpack an archive"),
        ("pictures/000.png", "is a file; expected a folder of pictures"),
    ],
)
def test_what_is_no_folder_of_pictures_is_told_apart(folder, capsys, monkeypatch, name, says):
    monkeypatch.chdir(folder.parent)
    shutil.make_archive("pictures", "zip", folder)
    assert main(["train", name, "--out", "no"]) == 2 and says in capsys.readouterr().err


def test_damaged_pictures_are_named_without_a_line_of_code(folder, capsys, tmp_path):
    assert main(["train", str(folder), "--size", "4", "--steps", "1", "--out", str(tmp_path / "m")]) == 0
    told = capsys.readouterr().err
    assert "pvlit: skipped 1 unreadable files" in told and "UserWarning" not in told and "load_images" not in told


def test_a_diverged_training_says_so_in_a_line(folder, capsys, tmp_path):
    words = ["train", str(folder), "--size", "4", "--steps", "3", "--rate", "1e30", "--out", str(tmp_path / "m")]
    assert main(words) == 1 and "try a --rate below 1e+30" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "out, says",
    [
        ("nowhere/grid.png", "there is no folder nowhere"),
        ("grid.foo", "ends in one of"),
        ("pictures", "expected a file"),
    ],
)
def test_a_picture_that_cannot_be_written_is_not_drawn(model, capsys, monkeypatch, out, says):
    monkeypatch.chdir(model.parent)
    assert main(["generate", "model", "--n", "2", "--out", out]) == 2
    told = capsys.readouterr().err
    assert says in told and "frame/s" not in told


def test_the_file_that_was_written_is_the_file_that_is_named(model, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", str(model), "--n", "2", "--out", "grid"]) == 0
    assert "written: grid.png\n" in capsys.readouterr().out and (tmp_path / "grid.png").is_file()


def test_options_of_a_run_are_not_ignored_beside_a_file(model, capsys):
    assert main(["generate", str(model), "--arm", "image"]) == 2
    assert "--arm chooses from a run" in capsys.readouterr().err
    assert main(["generate", str(model), "--seed", "3"]) == 2 and "see --draw" in capsys.readouterr().err


def test_a_generator_that_is_not_there_is_named(capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    assert main(["generate", "nope"]) == 2 and "there is no file nope.safetensors" in capsys.readouterr().err


def test_memory_that_runs_out_is_one_line(capsys, monkeypatch):
    monkeypatch.setattr("pvlit.cli.runs", lambda: torch.empty(2**60))
    assert main(["status"]) == 1 and "the memory is not enough" in capsys.readouterr().err


@pytest.mark.parametrize(
    "pair, says",
    [
        ("steps=0", "steps: got 0, expected at least 1"),
        ("samples=0", "samples: got 0"),
        ("batch_size=0", "batch_size: got 0"),
        ("rates=[]", "rates: got none"),
        ("seeds=[]", "seeds: got none"),
    ],
)
def test_an_experiment_with_nothing_to_run_does_not_start(folder, capsys, tmp_path, pair, says):
    out = tmp_path / "run"
    words = ["-p", f"data=folder:{folder}", "-p", pair, "--out", str(out)]
    assert main(["run", "pseudo_video_families", "--params", "own", *words]) == 2
    assert says in capsys.readouterr().err and not out.exists()


def test_a_folder_without_its_prefix_is_told_the_prefix(folder, capsys):
    assert main(["run", "pseudo_video_families", "--params", "own", "-p", f"data={folder}"]) == 2
    assert f"write data=folder:{folder}" in capsys.readouterr().err


def test_links_in_a_circle_end(capsys, tmp_path):
    for name in "ab":
        (tmp_path / name).symlink_to(".")
    (tmp_path / "self").symlink_to("self")
    assert main(["clips", "check", str(tmp_path)]) == 2 and "without videos" in capsys.readouterr().err


def test_frames_of_no_size_are_refused(capsys, tmp_path):
    pytest.importorskip("av")
    words = ["clips", "frames", str(tmp_path), "--out", str(tmp_path / "out")]
    for option in "short", "quality":
        assert main([*words, f"--{option}", "0"]) == 2 and f"{option}: got 0" in capsys.readouterr().err


def test_frames_are_finished_where_only_broken_videos_are_left(capsys, tmp_path):
    pytest.importorskip("av")
    (tmp_path / "in").mkdir()
    (tmp_path / "out" / "good.mp4").mkdir(parents=True)
    for name in "good.mp4", "torn.mp4":
        (tmp_path / "in" / name).touch()
    words = ["clips", "frames", str(tmp_path / "in"), "--out", str(tmp_path / "out"), "--workers", "0"]
    assert main(words) == 1 and "torn.mp4: is empty" in capsys.readouterr().err
