"""One training step of the video U-Net beside lucidrains' Unet3D and beside the image U-Net on the same pixels.

    python benchmarks/video_unet.py            # writes benchmarks/results/video_unet.json
    python benchmarks/video_unet.py --quick    # small tensors, one round, writes nothing: does it run?

A step is: draw steps and noise, forward, mean squared error, backward, Adam. All contenders live in one process and take
turns, so that a slow minute of the machine hits all of them; the numbers are medians over the rounds, and targets are ratios.
The floor is the image U-Net on as many single images: what the video model would cost if frames did not have to talk.
The peers are installed by: pip install --no-deps -r benchmarks/requirements.txt
"""
import argparse, contextlib, resource, statistics, subprocess, sys, time, types

import torch
from torch import nn

from _report import at_least, at_most, publish
from pvlit.pseudo_video.diffusion import UNet, VideoUNet, epsilon_loss

CLIPS, FRAMES, SIZE, WIDTH = 8, 8, 32, 32
OURS, PEER, FLOOR = "pvlit VideoUNet", "lucidrains Unet3D", "pvlit UNet, frames as images"


@contextlib.contextmanager
def torchvision_stub():
    """Stand in for torchvision while the peer is imported.

    Its module imports torchvision for loading files, which a step never does; beside a CPU build of torch the real package
    fails to import, and its mere presence breaks diffusers. The stub is gone again before anything else is imported."""
    names = "torchvision", "torchvision.transforms", "torchvision.utils"
    kept = {name: sys.modules.get(name) for name in names}
    for name in names: sys.modules[name] = types.ModuleType(name)
    sys.modules["torchvision"].transforms, sys.modules["torchvision"].utils = (sys.modules[n] for n in names[1:])
    sys.modules["torchvision.transforms"].ToTensor = object  # a default argument of the peer's file loader
    try: yield
    finally:
        for name, module in kept.items():
            if module is None: del sys.modules[name]
            else: sys.modules[name] = module


class Peer(nn.Module):
    "lucidrains' Unet3D with the axes of pvlit: (B, T, C, H, W)."
    def __init__(self, width):
        super().__init__()
        with torchvision_stub(): from video_diffusion_pytorch import Unet3D
        self.net = Unet3D(dim=width, dim_mults=(1, 2, 4, 8))

    def forward(self, x, t): return self.net(x.transpose(1, 2), t).transpose(1, 2)


def contenders(quick):
    "Name every row with its model and its batch shape."
    clips, frames, size, width = (2, 4, 16, 16) if quick else (CLIPS, FRAMES, SIZE, WIDTH)
    def ours(T, S): return lambda: VideoUNet(3, T, size=S, width=width, seed=0), (clips, T, 3, S, S)
    rows = {
        OURS: ours(frames, size),
        PEER: (lambda: Peer(width), (clips, frames, 3, size, size)),
        FLOOR: (lambda: UNet(3, size=size, width=width, seed=0), (clips * frames, 3, size, size)),
    }
    if not quick: rows[f"{OURS}, attention to 16 px"] = (lambda: VideoUNet(3, frames, size=size, width=width, attention=16, seed=0), rows[OURS][1])
    for T in (1, 2) if quick else (1, 2, 4, 16): rows[f"{OURS}, {T} frames"] = ours(T, size)
    for S in (8,) if quick else (16, 64): rows[f"{OURS}, {S} px"] = ours(frames, S)
    return rows


class Step:
    "One training step of a fresh model, ready to be timed."
    def __init__(self, make, shape):
        self.model, self.generator = make(), torch.Generator().manual_seed(0)
        self.batch = torch.rand(shape, generator=self.generator)
        self.optimizer = torch.optim.Adam(self.model.parameters(), 1e-4, fused=True)

    def __call__(self):
        start = time.perf_counter()
        loss = epsilon_loss(self.model, self.batch, self.generator)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return time.perf_counter() - start


def peak_mib(name, quick, threads):
    "Return how far two steps raise the resident memory of a process of their own above its imports, in MiB."
    command = [sys.executable, __file__, "--memory", name, "--threads", str(threads), *["--quick"] * quick]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def resident_mib():
    "Return the greatest resident memory of this process so far. (Linux' ru_maxrss would start from the parent's.)"
    with contextlib.suppress(OSError):
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2 ** 20 if sys.platform == "darwin" else 1024)


def measure_memory(name, quick):
    make, shape = contenders(quick)[name]
    make()  # so that what it imports does not count
    before, step = resident_mib(), Step(make, shape)
    for _ in range(2): step()
    print(resident_mib() - before)


def measure(rounds, quick, threads):
    "Time all contenders in turn, after one untimed step each."
    table = contenders(quick)
    steps = {name: Step(*spec) for name, spec in table.items()}
    times = {name: [] for name in steps}
    for round in range(rounds + 1):
        for name, step in steps.items():
            seconds = step()
            if round: times[name].append(seconds)
        print(f"round {round} of {rounds}", file=sys.stderr)
    floor = statistics.median(times[FLOOR])
    return [{"name": name, "shape": list(table[name][1]), "parameters": sum(p.numel() for p in step.model.parameters()),
             "median_ms": 1e3 * statistics.median(times[name]), "min_ms": 1e3 * min(times[name]), "max_ms": 1e3 * max(times[name]),
             "rounds": rounds, "x_floor": statistics.median(times[name]) / floor,
             "peak_mib": peak_mib(name, quick, threads)} for name, step in steps.items()]


def targets(rows):
    row = {r["name"]: r for r in rows}
    ratio = row[PEER]["median_ms"] / row[OURS]["median_ms"]
    return [at_least("times faster than lucidrains Unet3D", 4, ratio), at_most("parameters, at most those of Unet3D", row[PEER]["parameters"], row[OURS]["parameters"])]


def show(rows):
    print(f"{'':34}{'batch':>18}{'M params':>10}{'ms':>9}{'min':>9}{'max':>9}{'x floor':>9}{'MiB':>7}")
    for r in rows:
        print(f"{r['name']:34}{'x'.join(map(str, r['shape'])):>18}{r['parameters'] / 1e6:10.2f}{r['median_ms']:9.1f}"
              f"{r['min_ms']:9.1f}{r['max_ms']:9.1f}{r['x_floor']:9.2f}{r['peak_mib']:7.0f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds, 3 or more for a result")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--quick", action="store_true", help="small tensors, one round, no result file, targets not judged")
    parser.add_argument("--memory", metavar="NAME", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.rounds < 3 and not options.quick: parser.error("a result needs at least 3 rounds (or use --quick)")
    torch.set_num_threads(options.threads)
    if options.memory: return measure_memory(options.memory, options.quick)
    rows = measure(1 if options.quick else options.rounds, options.quick, options.threads)
    show(rows)
    if not options.quick: publish("video_unet", rows, targets(rows))


if __name__ == "__main__": main()
