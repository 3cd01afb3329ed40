"""What a notebook cannot say about `fit`: kill -9 at every step, full disks, Ctrl-C, damaged and hostile files."""

import json
import os
import pickle
import random
import re
import signal
import subprocess
import sys
import threading
import time
import traceback
from pathlib import Path
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset
from pvlit.core import files, training
from pvlit.core.training import DamagedFile, TrainingDiverged, fit, load_state, save_model

STEPS = 24
DATA = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
FINAL = "model.safetensors", "ema.safetensors", "log.csv"


class Jittered(Dataset):
    "Samples with random augmentation."

    def __len__(self):
        return len(DATA)

    def __getitem__(self, i):
        return DATA[i] + 0.1 * torch.randn(4) + 0.1 * random.gauss(0, 1)


def net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(2)
        return nn.Sequential(nn.Linear(4, 16), nn.SiLU(), nn.Dropout(0.2), nn.Linear(16, 4))


def denoise(model, batch, generator):
    noise = torch.randn(batch.shape, generator=generator)
    return nn.functional.mse_loss(model(batch + noise), noise)


def run(folder, at=None, act=None, data=DATA, **changes):
    "Train with dropout, noise, average and clipping; call `act` in step `at`, counted from 1 in this process."
    calls, model = iter(range(1, 10**6)), net()

    def count(*_):
        if next(calls) == at:
            act()

    model.register_forward_pre_hook(count)
    options = dict(
        batch_size=8,
        folder=folder,
        schedule="one_cycle",
        clip=0.5,
        ema=0.9,
        checkpoint_every=5,
        log_every=4,
        device="cpu",
        progress=False,
    )
    return fit(model, denoise, data, **dict(options, steps=STEPS) | changes)


def final(folder):
    return {name: (folder / name).read_bytes() for name in FINAL}


def hidden(folder):
    return [file.name for file in folder.iterdir() if file.name.startswith(".")]


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt():
    os.kill(os.getpid(), signal.SIGINT)


# ---- scenarios: run in one other process that forks a child for every call, so that torch is loaded once


def child(function, *args, kill_after=None, **kwargs):
    "Run function in a forked process and return how it ended: an exit code, or minus the number of the signal."
    pid = os.fork()
    if not pid:
        try:
            function(*args, **kwargs)
        except BaseException:
            os._exit(traceback.print_exc() or 1)
        os._exit(0)
    if kill_after is not None:
        time.sleep(kill_after)
        os.kill(pid, signal.SIGKILL)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at_every_step(root):
    assert child(run, root / "whole") == 0
    for step in range(1, STEPS + 1):
        assert child(run, root / f"{step}", step, die) == -signal.SIGKILL
        assert child(run, root / f"{step}") == 0
        assert final(root / f"{step}") == final(root / "whole"), step


def die_at_call(count):
    "Make the process kill itself before its `count`-th change of the disk, and leave half a file where it writes one."
    calls = iter(range(1, 10**6))

    def guarded(real):
        def call(*args, **kwargs):
            if next(calls) == count:
                die()
            return real(*args, **kwargs)

        return call

    def half(path, mode="r", **kwargs):
        file = open(path, mode, **kwargs)
        if "w" in mode and next(calls) == count:
            file.write(b"half")
            file.flush()
            die()
        return file

    os.fsync, os.replace, Path.unlink = map(guarded, (os.fsync, os.replace, Path.unlink))
    files.open = half


def killed_at_every_write(root):
    def attempt(folder, count):
        die_at_call(count)
        run(folder)

    assert child(run, root / "whole") == 0
    for count in range(1, 1000):
        ended = child(attempt, root / f"{count}", count)
        rest = list((root / f"{count}").glob("checkpoint-*.safetensors"))
        for file in rest:
            training.read_tensors(file)  # a file with a valid name is a complete file
        assert child(run, root / f"{count}") == 0
        assert final(root / f"{count}") == final(root / "whole") and not hidden(root / f"{count}"), count
        if ended == 0:
            break
    return count - 1


def killed_at_random_moments(root):
    assert child(run, root / "whole", steps=400) == 0
    kills, moments = 0, random.Random(0)
    while kills < 12 and child(run, root / "cut", steps=400, kill_after=moments.uniform(0.01, 0.2)) == -signal.SIGKILL:
        kills += 1
    assert child(run, root / "cut", steps=400) == 0
    assert final(root / "cut") == final(root / "whole")
    return kills


def killed_with_loader_processes(root):
    assert child(run, root / "whole", data=Jittered()) == 0
    for step in 7, 13:
        assert child(run, root / "cut", step, die, data=Jittered(), workers=2) == -signal.SIGKILL
    assert child(run, root / "cut", data=Jittered(), workers=2) == 0
    assert final(root / "cut") == final(root / "whole")


def full_disk(root):
    "A real failing write: the system refuses files beyond a size from step 12 on."
    import resource

    def fill():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1500, resource.RLIM_INFINITY))

    assert child(run, root / "whole") == 0

    def attempt():
        try:
            run(root / "full", 12, fill)
        except OSError as error:
            (root / "message").write_text(f"OSError: {error}")

    assert child(attempt) == 0
    assert [f.name for f in sorted((root / "full").glob("checkpoint-*"))] == [
        "checkpoint-00000005.safetensors",
        "checkpoint-00000010.safetensors",
    ]
    assert not hidden(root / "full")
    assert child(run, root / "full") == 0
    assert final(root / "full") == final(root / "whole")
    return (root / "message").read_text()


@pytest.fixture(scope="module")
def scenario():
    "A function (name, folder) -> answer that runs a scenario in a process of its own, one for all of them."
    if not hasattr(os, "fork"):
        pytest.skip("needs fork")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    process = subprocess.Popen(
        [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
    )

    def ask(name, folder):
        process.stdin.write(json.dumps([name, str(folder)]) + "\n")
        process.stdin.flush()
        kind, answer = json.loads(process.stdout.readline())
        assert kind == "done", answer
        return answer

    yield ask
    process.stdin.close()
    process.wait(10)


def serve():
    run(None, steps=1)  # torch loads parts of itself on the first step: once here rather than in every child
    for line in sys.stdin:
        name, folder = json.loads(line)
        try:
            answer = ["done", globals()[name](Path(folder))]
        except BaseException:
            answer = ["failed", traceback.format_exc()]
        print(json.dumps(answer), flush=True)


def test_kill_9_at_every_step_changes_nothing(scenario, tmp_path):
    scenario("killed_at_every_step", tmp_path)


def test_kill_9_at_every_write_changes_nothing(scenario, tmp_path):
    assert scenario("killed_at_every_write", tmp_path) > 20


def test_kill_9_at_random_moments_changes_nothing(scenario, tmp_path):
    assert scenario("killed_at_random_moments", tmp_path) > 0


def test_kill_9_with_loader_processes_changes_nothing(scenario, tmp_path):
    scenario("killed_with_loader_processes", tmp_path)


def test_refused_write_keeps_the_checkpoint_and_says_so(scenario, tmp_path):
    message = scenario("full_disk", tmp_path)
    assert (
        message.startswith("OSError: [Errno 27]")
        and "checkpoint-00000010.safetensors is intact" in message
        and "call fit again" in message
    )


# ---- in this process


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_disk_full_keeps_the_checkpoint_and_the_errno(tmp_path, monkeypatch):
    def full(path, mode="r", **kwargs):
        return open("/dev/full" if "checkpoint-00000010" in str(path) else path, mode, **kwargs)

    monkeypatch.setattr(files, "open", full, raising=False)
    with pytest.raises(OSError, match="checkpoint-00000005.safetensors is intact.*call fit again") as caught:
        run(tmp_path / "full")
    assert caught.value.errno == 28 and caught.value.filename.endswith("checkpoint-00000010.safetensors")
    assert not hidden(tmp_path / "full")
    monkeypatch.undo()
    run(tmp_path / "full")
    run(tmp_path / "whole")
    assert final(tmp_path / "full") == final(tmp_path / "whole")


def test_unwritable_folder_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError):
        run(tmp_path / "file", 1, pytest.fail)


def test_ctrl_c_finishes_the_step_and_can_be_resumed(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 13 of 24; call fit again"):
        run(tmp_path / "cut", 13, interrupt)
    assert signal.getsignal(signal.SIGINT) is before
    assert (tmp_path / "cut" / "checkpoint-00000013.safetensors").exists()
    run(tmp_path / "cut")
    run(tmp_path / "whole")
    assert final(tmp_path / "cut") == final(tmp_path / "whole")


def test_second_ctrl_c_does_not_wait(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 13, lambda: (interrupt(), interrupt()))
    assert [f.name for f in sorted(tmp_path.glob("checkpoint-*"))] == [
        "checkpoint-00000005.safetensors",
        "checkpoint-00000010.safetensors",
    ]


def test_trains_outside_the_main_thread(tmp_path):
    results = []
    thread = threading.Thread(target=lambda: results.append(run(tmp_path).steps))
    thread.start()
    thread.join()
    assert results == [STEPS]


def test_what_others_set_for_accelerate_changes_nothing(tmp_path, monkeypatch):
    expected = run(tmp_path / "plain").model.state_dict()
    for name, value in {
        "MIXED_PRECISION": "bf16",
        "GRADIENT_ACCUMULATION_STEPS": "4",
        "DYNAMO_BACKEND": "INDUCTOR",
        "USE_FSDP": "true",
        "USE_DEEPSPEED": "true",
        "USE_MEGATRON_LM": "true",
        "TORCH_DEVICE": "meta",
        "USE_CPU": "false",
    }.items():
        monkeypatch.setenv(f"ACCELERATE_{name}", value)
        model = run(tmp_path / name).model
        assert os.environ[f"ACCELERATE_{name}"] == value
        for key, tensor in model.state_dict().items():
            assert torch.equal(tensor, expected[key]), (name, key)
        monkeypatch.delenv(f"ACCELERATE_{name}")


def test_rubbish_of_a_killed_run_is_swept_and_nothing_else(tmp_path):
    rubbish, foreign = tmp_path / ".checkpoint-00000003.safetensors.0123abcd.tmp", tmp_path / ".notes.tmp"
    for file in rubbish, foreign:
        file.write_bytes(b"half")
    run(tmp_path)
    assert not rubbish.exists() and foreign.exists()


def test_a_folder_in_use_is_refused(tmp_path):
    def second():
        with pytest.raises(BlockingIOError, match="in use by another fit"):
            run(tmp_path)

    run(tmp_path, 3, second)


def test_nan_never_reaches_a_checkpoint(tmp_path):
    "The weights turn NaN between two rows of the log, after a finite loss."
    model = net()
    calls = iter(range(10**6))

    def loss(module, batch, generator):
        if next(calls) == 11:
            model[0].weight.register_hook(lambda grad: grad * float("nan"))
        return denoise(module, batch, generator)

    with pytest.raises(
        TrainingDiverged,
        match="model.0.weight is not finite at step 12; the last good checkpoint is .*checkpoint-00000009",
    ):
        fit(model, loss, DATA, 30, batch_size=8, folder=tmp_path, checkpoint_every=3, log_every=30, device="cpu")
    for file in tmp_path.glob("checkpoint-*.safetensors"):
        assert all(x.isfinite().all() for x in training.read_tensors(file)[0].values() if x.is_floating_point())


def test_flipped_bits_and_cuts_are_refused(tmp_path):
    run(tmp_path)
    path = tmp_path / f"checkpoint-{STEPS:08d}.safetensors"
    good, draw = path.read_bytes(), random.Random(0)

    def refused(data):
        path.write_bytes(data)
        with pytest.raises(DamagedFile, match=path.name):
            training.read_tensors(path)

    for _ in range(1000):
        bit, changed = draw.randrange(8 * len(good)), bytearray(good)
        changed[bit // 8] ^= 1 << bit % 8
        refused(changed)
    for size in [*range(0, len(good), 512), *range(16), len(good) - 1]:
        refused(good[:size])
    for _ in range(500):  # a few bytes overwritten, the size of the header among them
        changed, at = bytearray(good), draw.choice([draw.randrange(16), draw.randrange(len(good))])
        changed[at : at + 4] = draw.randbytes(4)
        if changed != good:
            refused(changed)


def test_fallback_names_the_damaged_file_and_keeps_it(tmp_path):
    run(tmp_path / "whole")
    run(tmp_path / "cut")
    newest = tmp_path / "cut" / f"checkpoint-{STEPS:08d}.safetensors"
    data = bytearray(newest.read_bytes())
    data[-1] ^= 1
    newest.write_bytes(data)
    with pytest.warns(UserWarning, match=f"{newest.name} is damaged.*Going on from checkpoint-00000020"):
        run(tmp_path / "cut")
    assert final(tmp_path / "cut") == final(tmp_path / "whole")
    assert (tmp_path / "cut" / f"{newest.name}.damaged").read_bytes() == data


class Bomb:
    def __reduce__(self):
        return (os.mkdir, (self.target,))


def test_nothing_is_unpickled(tmp_path):
    source = Path(training.__file__).read_text()
    assert not re.search(r"torch\.load|pickle|joblib|numpy\.load|np\.load|marshal|(?<!\.)\b(eval|exec)\(", source)
    bomb = Bomb()
    bomb.target = str(tmp_path / "exploded")
    folder = tmp_path / "run"
    folder.mkdir()
    for name in ("checkpoint-00000099.pt", "checkpoint-00000099.pkl", "model.pt"):
        (folder / name).write_bytes(pickle.dumps(bomb))
    assert run(folder).steps == STEPS
    (folder / "checkpoint-00000099.safetensors").write_bytes(pickle.dumps(bomb))
    with pytest.warns(UserWarning, match="checkpoint-00000099.safetensors is damaged"):
        run(folder)
    torch.save(net().state_dict(), tmp_path / "old.safetensors")
    with pytest.raises(DamagedFile):
        load_state(tmp_path / "old")
    assert not (tmp_path / "exploded").exists()


def test_failed_save_keeps_the_old_model(tmp_path, monkeypatch):
    save_model(net(), tmp_path / "net", {"version": 1})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        save_model(nn.Linear(2, 2), tmp_path / "net", {"version": 2})
    assert load_state(tmp_path / "net")[1] == {"version": 1} and not hidden(tmp_path)


def test_tied_weights_and_buffers_survive(tmp_path):
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3))
    model[2].weight = model[0].weight
    save_model(model, tmp_path / "tied", {})
    state, _ = load_state(tmp_path / "tied")
    assert state.keys() == model.state_dict().keys()
    assert all(torch.equal(state[k], v) for k, v in model.state_dict().items())


def test_a_run_can_be_prolonged(tmp_path):
    run(tmp_path / "longer", steps=12, schedule="constant")
    run(tmp_path / "longer", schedule="constant")
    run(tmp_path / "whole", schedule="constant")
    assert (tmp_path / "longer" / "model.safetensors").read_bytes() == (
        tmp_path / "whole" / "model.safetensors"
    ).read_bytes()


def test_another_loss_or_start_is_refused_and_the_same_object_goes_on(tmp_path):
    def fitted(model, weight=1.0, steps=12):
        loss = lambda module, batch, generator: weight * denoise(module, batch, generator)
        return fit(model, loss, DATA, steps, batch_size=8, folder=tmp_path, device="cpu", schedule="constant")

    model, other = net(), net()
    nn.init.zeros_(other[0].bias)
    fitted(model)
    with pytest.raises(ValueError, match="loss was .*<lambda> [0-9a-f]{12}, is"):
        fitted(net(), weight=0.5)
    with pytest.raises(ValueError, match="start was [0-9a-f]{12}, is"):
        fitted(other)
    assert (
        fitted(model, steps=16).steps == 16
    )  # the object brings trained weights, and `fit` knows that they are its own
    nn.init.zeros_(model[0].bias)
    with pytest.raises(ValueError, match="start was"):
        fitted(model, steps=20)


def test_fingerprints_agree_between_processes(tmp_path):
    (tmp_path / "losses.py").write_text(
        """
import functools
from dataclasses import dataclass
import torch
@dataclass(frozen=True)
class Recipe:
    frames: int = 4
SCALE = 0.5
def scaled(x):
    return SCALE * x
def make(recipe, names=frozenset("abcdef")):
    return lambda model, batch, generator: scaled(model(batch)).sum() + recipe.frames + ("a" in {"a", "b", "c"})
class Weighted:
    def __init__(self):
        self.weight, self.table = 2.0, {"b": 1, "a": torch.ones(3)}
    def __call__(self, model, batch, generator):
        return self.weight * model(batch).sum()
LOSSES = make(Recipe()), make(Recipe(8)), Weighted(), Weighted().__call__, functools.partial(scaled, x=1)
"""
    )
    code = "from losses import LOSSES; from pvlit.core.training import fingerprint; print(*map(fingerprint, LOSSES))"
    seen = []
    for seed in "12":
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        seen.append(done.stdout.split())
    assert seen[0] == seen[1]
    assert len(set(seen[0])) == 5


if __name__ == "__main__":
    serve()
