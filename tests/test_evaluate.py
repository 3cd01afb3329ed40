"An evaluation that is killed at any moment goes on, and ends in the answers of one that was not."

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from counting import environment
from patience import patient

SCRIPT = """
import sys, time
from dataclasses import replace
import torch
from pvlit.motion_coherence.backbones.tsm import TSM
from pvlit.motion_coherence.video.evaluate import evaluate, prepare
from pvlit.motion_coherence.video.published import PUBLISHED, OfficialSampling, View
from pvlit.motion_coherence.video.reader import Framing

torch.set_num_threads(1)
network = dict(layers=(1, 1), block="basic", width=8)
run = PUBLISHED["tsm_r50_8f_something_v1"]
views = {"1x1": View(OfficialSampling(4), Framing(16, short=20))}
run = replace(run, recipe=replace(run.recipe, dataset="hmdb51", network=network), views=views)
torch.save(TSM(51, seed=7, **network).state_dict(), "weights.pth")
job = prepare("weights.pth", run, "data", out=sys.argv[1], device="cpu", batch=2)
job.model.register_forward_hook(lambda *_: time.sleep(float(sys.argv[2])))
print(evaluate(job, workers=0, progress=False))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "Twenty videos of random frames, one of which is broken, and their list."
    place, rng = tmp_path_factory.mktemp("evaluate"), np.random.default_rng(0)
    for i in range(20):
        (place / f"data/v{i}").mkdir(parents=True)
        for t in range(1, 7):
            picture = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
            Image.fromarray(picture).save(place / f"data/v{i}/image_{t:05d}.jpg")
    (place / "data/v7/image_00004.jpg").write_bytes(b"no picture")
    lines = "".join(f"v{i} 6 {i}\n" for i in range(20))
    (place / "data/hmdb51_val_split_1_rawframes.txt").write_text(lines)
    return place


def start(folder, out, pause):
    "Start an evaluation that rests after each batch."
    command = [sys.executable, "-c", SCRIPT, out, str(pause)]
    return subprocess.Popen(command, cwd=folder, env=environment(), stdout=subprocess.PIPE, text=True)


def test_killed_evaluation_goes_on(folder):
    whole = start(folder, "whole.csv", 0)
    report = whole.communicate(timeout=patient(40))[0]
    assert whole.returncode == 0 and "19 of 20 videos" in report and "v7: frame image_00004.jpg" in report
    killed, answers = start(folder, "killed.csv", 0.5), folder / "killed.csv"
    end = time.monotonic() + patient(40)
    while not answers.exists() or answers.read_bytes().count(b"\n") < 4:
        assert time.monotonic() < end and killed.poll() is None
        time.sleep(0.05)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    before = answers.read_bytes()
    answers.write_bytes(before + b"19,v1")  # a line that the disk got half of
    again = start(folder, "killed.csv", 0)
    assert again.communicate(timeout=patient(40))[0] == report and again.returncode == 0
    assert 4 <= before.count(b"\n") < 21 and answers.read_bytes().startswith(before)
    assert sorted(answers.read_bytes().splitlines()) == sorted((folder / "whole.csv").read_bytes().splitlines())
