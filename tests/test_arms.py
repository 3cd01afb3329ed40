"""What a stopped run loses, and that its workers end with it."""

import json
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from pvlit.lab.arms import run_all

PROGRAM = """
    import os, signal, sys, time
    from pathlib import Path
    from pvlit.lab.arms import run_all

    def slow(arm, seed, path):
        (path.parent / f"{arm}-{seed}-{os.getpid()}.begun").write_text("")
        time.sleep(0.2 if seed < 3 else 600)
        return {"value": seed / 3}

    if __name__ == "__main__":
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
        run_all(slow, ["a"], [1, 2, 3, 4], sys.argv[1], cost=lambda arm: 1, workers=2)
"""


def wait_for(condition, seconds=240):
    "Wait until something holds; a busy machine only makes it longer."
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def alive(process):
    "Whether a process runs; one that has ended and that nobody has asked after does not."
    try:
        state = Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks at processes through /proc")
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_run_keeps_its_finished_rows_and_leaves_no_worker(tmp_path, how):
    program = tmp_path / "program.py"
    program.write_text(textwrap.dedent(PROGRAM))
    rows = tmp_path / "run/rows"
    process = subprocess.Popen([sys.executable, program, tmp_path / "run"], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: len(list(rows.glob("*.begun"))) == 4)
        workers = {int(path.stem.split("-")[-1]) for path in rows.glob("*.begun")}
        assert all(map(alive, workers)) and process.pid not in workers
        process.send_signal(how)
        process.wait(240)
        wait_for(lambda: not any(map(alive, workers)))
    finally:
        process.kill()
    finished = [json.loads(path.read_text()) for path in rows.glob("a-*-*.json") if ".ran." not in path.name]
    assert sorted(row["seed"] for row in finished) == [1, 2]
    assert not list(rows.glob(".*.tmp"))
    again = []

    def quick(arm, seed, path):
        again.append(seed)
        return {"value": seed / 3}

    run_all(quick, ["a"], [1, 2, 3, 4], tmp_path / "run", workers=1)
    assert again == [3, 4]


def test_rows_made_beside_each_other_are_those_made_alone(tmp_path):
    alone = run_all(_noisy, ["a", "b"], [1, 2], tmp_path / "alone", workers=1)
    among = run_all(_noisy, ["a", "b"], [1, 2], tmp_path / "among", workers=2)
    assert alone == among


def _noisy(arm, seed):
    import torch

    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(200, 200, generator=generator)
    return {"mean": float((x @ x).mean()), "threads": torch.get_num_threads()}
