"""The video U-Net on a GPU: how much of the card a training step uses, and where its time goes.

    python benchmarks/gpu.py            # needs a GPU; writes benchmarks/results/gpu.json
    python benchmarks/gpu.py --tiny     # the same logic on a CPU with small tensors, writes nothing: does it run?

A step is: draw steps and noise, forward, mean squared error, backward, Adam. It runs in bf16, with and without
torch.compile, and in float32. What the card can do is measured first, in this process: the rate of one large matrix
product in bf16. A step's operations (matrix products and convolutions, forward and backward, counted, not estimated)
over its time, as a share of that rate, is the fraction achieved. Memory is the peak that torch held above the model's
own, divided by the frames of the batch. The profile lists the kernels that take most time in the last of three steps.

The noise is drawn on the CPU, as everywhere in pvlit, so that a seed means the same on every machine; a row shows a
step whose noise is drawn on the device instead, which bounds what that costs. Contenders take turns; numbers are
medians over the rounds.
"""

import argparse
import json
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from _report import RESULTS, gflop, processor
from pvlit.core.files import write_whole
from pvlit.pseudo_video.families.diffusion import STEPS, VideoUNet, add_noise, epsilon_loss

EAGER, FP32, COMPILED, ON_DEVICE = "bf16", "fp32", "bf16, torch.compile", "bf16, noise drawn on the device"
FULL = dict(clips=64, frames=8, size=32, width=128, matrix=16384)
TINY = dict(clips=2, frames=2, size=8, width=8, matrix=256)


def device_loss(model, clips, generator):
    "Compute `epsilon_loss` with steps and noise drawn where the clips are."
    t = torch.randint(STEPS, (len(clips),), device=clips.device)
    epsilon = torch.randn_like(clips)
    return F.mse_loss(model(add_noise(2 * clips - 1, t, epsilon), t).float(), epsilon)


class Step:
    "One training step of a fresh network."

    def __init__(self, shape, device, bf16=True, compiled=False, loss=epsilon_loss):
        self.device, self.bf16, self.loss = device, bf16, loss
        self.model = VideoUNet(
            3,
            shape["frames"],
            width=shape["width"],
            size=shape["size"],
            multipliers=(1, 2, 4, 4) if shape["size"] > 8 else (1, 2),
            seed=0,
        ).to(device)
        self.called = torch.compile(self.model) if compiled else self.model
        self.generator, self.clips = (
            torch.Generator().manual_seed(0),
            torch.rand(shape["clips"], shape["frames"], 3, shape["size"], shape["size"], device=device),
        )
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-4, fused=True)

    def __call__(self):
        self.optimizer.zero_grad()
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            loss = self.loss(self.called, self.clips, self.generator)
        loss.backward()
        self.optimizer.step()


def wait(device):
    "Wait until the device has done what it was told."
    if device == "cuda":
        torch.cuda.synchronize()


def seconds(call, device, times=1):
    "Time a call, `times` in a row."
    wait(device)
    start = time.perf_counter()
    for _ in range(times):
        call()
    wait(device)
    return (time.perf_counter() - start) / times


def matrix_rate(size, device):
    "Measure the bf16 rate of a large matrix product, in operations a second: the best of five."
    a, b = (torch.randn(size, size, device=device, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    return 2 * size**3 / min(seconds(lambda: a @ b, device, 3) for _ in range(5))


def bytes_per_frame(step, shape, device):
    """Measure the peak memory of a step above what the model and optimizer keep, for each frame.

    None where the device has no counter.
    """
    if device != "cuda":
        return None
    wait(device)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    wait(device)
    return (torch.cuda.max_memory_allocated() - before) / (shape["clips"] * shape["frames"])


def table_of_time(step, device, rows=15):
    "Profile three steps; give the names and times of what took longest in the last."
    kinds = [ProfilerActivity.CPU] + [ProfilerActivity.CUDA] * (device == "cuda")
    for _ in range(2):
        step()
    with profile(activities=kinds) as seen:
        step()
        wait(device)
    own = lambda e: e.self_device_time_total if device == "cuda" else e.self_cpu_time_total
    there = (
        DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    )  # an operator on the CPU is charged with its kernels, too
    events = sorted((e for e in seen.key_averages() if e.device_type == there), key=own, reverse=True)
    total = sum(map(own, events)) or 1
    return [dict(name=e.key[:80], calls=e.count, ms=own(e) / 1e3, share=own(e) / total) for e in events[:rows]]


def contenders(shape, device, compiled):
    "Name every step."
    found = {
        EAGER: Step(shape, device),
        FP32: Step(shape, device, bf16=False),
        ON_DEVICE: Step(shape, device, loss=device_loss),
    }
    if compiled:
        found[COMPILED] = Step(shape, device, compiled=True)
    return found


def measure(shape, device, rounds, compiled=True):
    "Time all steps in turn; give the matrix rate and one row for each."
    steps, times, warm = contenders(shape, device, compiled), {}, {}
    for name, step in steps.items():
        warm[name] = seconds(step, device)  # compiles, chooses kernels
    for _ in range(rounds):
        for name, step in steps.items():
            times.setdefault(name, []).append(seconds(step, device, 3))
    rate, count, frames = (
        matrix_rate(shape["matrix"], device),
        1e9 * gflop(steps[EAGER]),
        shape["clips"] * shape["frames"],
    )
    rows = []
    for name, step in steps.items():
        middle, memory = statistics.median(times[name]), bytes_per_frame(step, shape, device)
        rows.append(
            dict(
                name=name,
                ms=1e3 * middle,
                ms_min=1e3 * min(times[name]),
                first_ms=1e3 * warm[name],
                frames_per_second=frames / middle,
                tflops=count / middle / 1e12,
                share_of_matrix_rate=count / middle / rate,
                mib_per_frame=memory and memory / 2**20,
            )
        )
    return rate, rows, table_of_time(steps[EAGER], device)


def show(rate, rows, times):
    print(f"one large matrix product in bf16: {rate / 1e12:.2f} TFLOP/s")
    print(f"{'step':34}{'ms':>9}{'least':>9}{'first':>9}{'frames/s':>11}{'TFLOP/s':>9}{'share':>8}{'MiB/frame':>11}")
    for r in rows:
        memory = "" if r["mib_per_frame"] is None else format(r["mib_per_frame"], ".1f")
        print(
            f"{r['name']:34}{r['ms']:9.1f}{r['ms_min']:9.1f}{r['first_ms']:9.0f}{r['frames_per_second']:11.0f}"
            f"{r['tflops']:9.3f}{r['share_of_matrix_rate']:8.1%}{memory:>11}"
        )
    print(f"\n{'where the time of a bf16 step goes':82}{'calls':>6}{'ms':>9}{'share':>8}")
    for r in times:
        print(f"{r['name']:82}{r['calls']:6}{r['ms']:9.2f}{r['share']:8.1%}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="timed rounds of three steps each")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument(
        "--tiny",
        "--quick",
        action="store_true",
        help="small tensors, without torch.compile, on a CPU where there is no GPU; writes nothing",
    )
    options = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu":
        print(
            "no GPU here"
            + (
                ": the logic runs on the CPU; its numbers say nothing about a GPU"
                if options.tiny
                else ": nothing was measured and nothing written (--tiny tries the logic on the CPU)"
            )
        )
    if device == "cpu" and not options.tiny:
        return
    shape = TINY if options.tiny else FULL
    rate, rows, times = measure(
        shape, device, 1 if options.tiny else options.rounds, not (options.tiny or options.no_compile)
    )
    show(rate, rows, times)
    if options.tiny:
        return
    report = dict(
        benchmark="gpu",
        date=time.strftime("%Y-%m-%d"),
        rows=rows,
        profile=times,
        matrix_tflops=rate / 1e12,
        shape=shape,
        targets=[],
        machine=dict(
            gpu=torch.cuda.get_device_name(),
            cpu=processor(),
            torch=torch.__version__,
            cuda=torch.version.cuda,
            threads=torch.get_num_threads(),
        ),
    )
    write_whole(RESULTS / "gpu.json", json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
