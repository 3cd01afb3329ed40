"What a run survives: kill -9, Ctrl-C, a dying kernel, a full disk. Each needs processes of its own."

import json
import os
import resource
import shlex
import signal
import time
from pathlib import Path
import psutil
import pytest
from counting import call, make_repository, start, wait_until
from patience import patient

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def root(tmp_path):
    return make_repository(tmp_path)


def record(folder):
    return json.loads((folder / "run.json").read_text())


def attempts(folder):
    return (folder / "attempts.txt").read_text().split() if (folder / "attempts.txt").exists() else []


def gone(pid):
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def waiting(root):
    "A run that has started and waits in its second code cell."
    folder = root / "run"
    process = start(root, "run", "counting", "-p", "wait=true", "-p", "steps=7", "--out", folder)
    try:
        wait_until(lambda: attempts(folder) or process.poll() is not None)
        assert process.poll() is None, process.communicate()[1]
        yield folder, process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_killed_run_reads_as_stopped_and_resumes(root, waiting):
    folder, process = waiting
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert record(folder)["status"] == "running"  # nobody was left to write another word
    (root / "runs" / "counting").mkdir(parents=True)
    folder = folder.rename(root / "runs" / "counting" / "run")  # where status looks
    assert "counting/run  stopped" in call(root, "status").stdout
    wait_until(lambda: gone(int(attempts(folder)[0])))  # the kernel does not outlive its run

    (folder / "go").touch()
    ended = call(root, "run", "counting", "--out", folder)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith("It counts to 7.\n")  # with the parameters of the record
    assert len(attempts(folder)) == 2 and (record(folder)["status"], record(folder)["attempts"]) == ("done", 2)
    assert "counting/run  done" in call(root, "status").stdout


def test_running_run_is_left_alone_and_ctrl_c_stops_it(root, waiting):
    folder, process = waiting
    second = call(root, "run", "counting", "--out", folder)
    assert second.returncode == 2 and f"running now, in process {process.pid}" in second.stderr

    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=patient(60))
    assert process.returncode == 130 and "Traceback" not in err
    assert record(folder)["status"] == "stopped" and gone(int(attempts(folder)[0]))
    assert (folder / "notebook.partial.ipynb").exists() and "working with 'plain' 0.5" in (
        folder / "log.txt"
    ).read_text()

    command = shlex.split(err.partition("to go on: pvlit ")[2].splitlines()[0])  # what the message says to do
    (folder / "go").touch()
    assert call(root, *command).returncode == 0
    assert record(folder)["status"] == "done" and not (folder / "notebook.partial.ipynb").exists()


@pytest.mark.parametrize("how, name", [("fail", "RuntimeError"), ("die", "DeadKernelError")])
def test_failed_run_keeps_what_it_has_and_resumes(root, how, name):
    folder = root / "run"
    ended = call(root, "run", "counting", "-p", f"{how}=true", "--out", folder)
    assert ended.returncode == 1 and name in ended.stderr and "Traceback" not in ended.stderr
    assert record(folder)["status"] == "failed" and record(folder)["error"]["name"] == name
    assert name in (folder / "log.txt").read_text()
    assert record(folder)["error"]["cell"] == 4 and "in cell 4" in ended.stderr
    assert how == "fail" or "ran out of memory" in ended.stderr
    assert (folder / "notebook.partial.ipynb").exists() and not (folder / "notebook.ipynb").exists()

    other = call(root, "run", "counting", "-p", "steps=4", "--out", folder)
    assert other.returncode == 2 and "steps = 3 there, 4 now" in other.stderr
    (folder / "go").touch()
    assert (
        call(root, "run", "counting", "-p", f"{how}=true", "--out", folder).returncode == 0
    )  # the same parameters, given again


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_scheduler_or_a_closed_terminal_ends_the_run_and_all_it_started(root, waiting, number):
    folder, process = waiting
    kernel = int(attempts(folder)[0])
    wait_until(lambda: (folder / "workers.txt").exists())
    workers = [int(pid) for pid in (folder / "workers.txt").read_text().split()]
    wait_until(lambda: not any(gone(pid) for pid in workers))
    time.sleep(patient(1.5))  # the launcher looks once a second
    process.send_signal(number)
    _, err = process.communicate(timeout=patient(60))
    assert process.returncode == 130 and "to go on: pvlit run counting" in err
    assert record(folder)["status"] == "stopped"
    wait_until(lambda: all(map(gone, [kernel, *workers])))


def test_of_two_launchers_in_one_folder_one_is_refused(root):
    folder = root / "run"
    both = [start(root, "run", "counting", "-p", "wait=true", "--out", folder) for _ in range(2)]
    try:
        wait_until(lambda: any(p.poll() is not None for p in both))
        refused = next(p for p in both if p.poll() is not None)
        winner = next(p for p in both if p is not refused)
        assert refused.returncode == 2 and str(folder) in refused.communicate()[1]
        (folder / "go").touch()
        winner.communicate(timeout=patient(120))
        assert winner.returncode == 0 and len(attempts(folder)) == 1 and record(folder)["status"] == "done"
    finally:
        for process in both:
            process.kill()
            process.communicate()


def test_what_cannot_end_well_is_refused_before_a_kernel_starts(root):
    (root / "pictures").mkdir()
    sub = root / "sub"
    sub.mkdir()
    for pair, said in {
        "place=nowhere": f"place: there is no {sub / 'nowhere'}",
        "place=~/certainly not here": "certainly not here",
        "seeds=[1, 2, 1]": "seeds: got 1 twice",
        "seeds=[-1]": "seeds: got -1",
        "data=digitz": "unknown data set 'digitz'",
        "data=folder:none": f"data: there is no folder {sub / 'none'}",
        "data=folder:../pictures": "got 0 pictures",
        "device=cuda:99": "device: got 'cuda:99'",
        "precision=fp16": "precision: got 'fp16'",
        "precision=half": "precision: got 'half'",
    }.items():
        ended = call(sub, "run", "counting", "-p", pair)
        assert ended.returncode == 2 and said in ended.stderr and "Traceback" not in ended.stderr, pair
    assert not list((root / "runs" / "counting").glob("*/run.json"))
    ended = call(sub, "run", "counting", "-p", "place=../pictures", "--out", "here")
    assert ended.returncode == 0, ended.stderr
    assert record(sub / "here")["params"]["place"] == str(root / "pictures")


def test_a_recipe_refuses_missing_lists_and_clips_before_a_kernel_starts(tmp_path):
    def said(*pairs):
        given = ("device=cpu", "precision=fp32", "batch=1", *pairs)
        words = [word for pair in given for word in ("-p", pair)]
        ended = call(
            ROOT, "run", "motion_coherence_videos", "--params", "tsm_something_v1", *words, "--out", tmp_path / "o"
        )
        assert ended.returncode == 2 and "Traceback" not in ended.stderr and not (tmp_path / "o").exists()
        return ended.stderr

    assert "needs the folder of something_v1" in said()
    assert "no list of something_v1" in said(f"root={tmp_path}")
    for split in ("train", "val"):
        (tmp_path / f"{split}_videofolder.txt").write_text("v/1 40 3\n")
    assert "v/1: there is no such folder" in said(f"root={tmp_path}")
    assert "expected one of tsm_something_v1" in said("recipe=tsm_something")


def test_full_disk_leaves_a_readable_record(root):
    folder = root / "run"
    limit = lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (3000, 3000)
    )  # no file may grow beyond: run.json fits, the notebook does not
    ended = call(root, "run", "counting", "--out", folder, preexec_fn=limit)
    assert ended.returncode == 1 and "File too large" in ended.stderr and "Traceback" not in ended.stderr
    assert record(folder)["status"] == "failed" and not (folder / "notebook.ipynb").exists()
    assert [p.name for p in folder.iterdir() if p.name.startswith(".")] == []  # no temporary files
    assert call(root, "run", "counting", "--out", folder).returncode == 0
