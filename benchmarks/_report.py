"""What every benchmark does at its end: count operations, judge targets, name the machine, write the result whole."""

import json
import os
import platform
from datetime import date
from pathlib import Path

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pvlit.core.files import write_whole

RESULTS = Path(__file__).parent / "results"


def at_least(name, wanted, measured):
    return dict(name=name, wanted=f">= {wanted}", measured=measured, met=measured >= wanted)


def at_most(name, wanted, measured):
    return dict(name=name, wanted=f"<= {wanted}", measured=measured, met=measured <= wanted)


def gflop(call):
    "Count the billions of floating-point operations of a call: matrix products and convolutions, forward and backward."
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        call()  # the fused kernel of a CPU would not be counted
    return counter.get_total_flops() / 1e9


def processor():
    "Name the processor, where the system tells."
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def publish(benchmark, rows, targets, threads=None):
    "Print how the targets were met and write results/<benchmark>.json."
    for t in targets:
        print(f"{'met   ' if t['met'] else 'MISSED'} {t['name']}: {t['measured']:.4g} (wanted {t['wanted']})")
    machine = dict(
        cores=os.cpu_count(), cpu=processor(), torch=torch.__version__, threads=threads or torch.get_num_threads()
    )
    report = dict(benchmark=benchmark, date=date.today().isoformat(), machine=machine, rows=rows, targets=targets)
    write_whole(RESULTS / f"{benchmark}.json", json.dumps(report, indent=1) + "\n")
