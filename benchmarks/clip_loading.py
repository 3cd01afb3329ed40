"""How long a training loop waits for its clips: JPEG folders and MP4 files, with 0, 1 and 2 worker processes.

    python benchmarks/clip_loading.py            # 64 videos; writes benchmarks/results/clip_loading.json
    python benchmarks/clip_loading.py --quick    # 24 small videos, one round, writes nothing: does it run?

The loop is a real one: batches of 8 clips of 8 frames, 112 x 112, with random segments and TSM's multi-scale crops,
forward, backward and AdamW step of `tiny_tsm` on one thread. What is measured is the share of the loop's time between
asking for a batch and having it, after the first batch of an epoch, whose workers are still starting. All arrangements
take turns, so that a slow minute of the machine hits all of them; the numbers are medians over the rounds. The floor is
the same loop with one batch that is already there.

The videos are written to a temporary folder first: 48 frames of 128 x 170, textured and moving, JPEG quality 90 and
H.264 with a key frame every 12. They stay in the operating system's cache, so this is the time of decoding, not of a
slow disk.

The second table has no training step: what one clip of 8 frames costs, opened, decoded and handed over as bytes, on one
thread, beside peers that give the same frames: PyAV alone, decoding from the start, and decord and torchcodec where
they are installed (pip install --no-deps decord torchcodec). Long videos have 250 frames of 256 x 340 and a key frame
every 250, as x264 makes them when nothing is asked for.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from _report import at_most, publish
from pvlit.motion_coherence.video.reader import ClipLoader, Framing, VideoFile, VideoList
from pvlit.motion_coherence.video.formats import Sampling, Video
from pvlit.motion_coherence.backbones.tsm import tiny_tsm

CLASSES, FRAMES, BATCH, WORKERS = 6, 8, 8, (0, 1, 2)
KINDS = {"JPEG folders": "{:05d}.jpg", "MP4 files": None}


def textured(frames, height, width, seed):
    "Give a texture that moves by whole pixels, with some noise, uint8 (T, H, W, 3)."
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((1, 3, height // 8, width // 8), dtype=np.float32))
    picture = F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)[0].permute(1, 2, 0).numpy()
    dy, dx = rng.integers(-3, 4, 2)
    clip = np.stack([np.roll(picture, (t * dy, t * dx), (0, 1)) for t in range(frames)])
    return (255 * np.clip(clip + rng.normal(0, 0.03, clip.shape), 0, 1)).astype(np.uint8)


def write(folder, name, clip, key=12, folders=True):
    "Write one video as a folder of JPEG files and as an MP4 file."
    if folders:
        (folder / name).mkdir()
        for i, frame in enumerate(clip, 1):
            Image.fromarray(frame).save(folder / name / KINDS["JPEG folders"].format(i), quality=90)
    with av.open(str(folder / f"{name}.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"g": str(key), "crf": "20", "preset": "veryfast"})
        stream.height, stream.width, stream.pix_fmt = clip.shape[1], clip.shape[2], "yuv420p"
        for frame in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())


def loaders(folder, count, frames, size):
    "Name every arrangement with its loader."
    found = {}
    for kind, template in KINDS.items():
        videos = [Video(f"{i:03d}" if template else f"{i:03d}.mp4", i % CLASSES, frames) for i in range(count)]
        data = VideoList(videos, folder, Sampling(FRAMES, random=True), Framing(size, "multiscale"), template)
        for workers in WORKERS:
            found[kind, workers] = ClipLoader(data, BATCH, shuffle=True, drop_last=True, workers=workers, fault_share=0)
    return found


def trainer():
    "Give a function that makes one training step."
    model = tiny_tsm(CLASSES, seed=0).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)

    def step(clips, labels):
        optimizer.zero_grad()
        F.cross_entropy(model(clips), labels).backward()
        optimizer.step()

    return step


def epoch(batches, step):
    "Train for one pass; give milliseconds of waiting and of stepping for each batch but the first."
    waits, steps, clock, batches = [], [], time.perf_counter, iter(batches)
    while True:
        start = clock()
        batch = next(batches, None)
        if batch is None:
            return waits[1:], steps[1:]
        middle = clock()
        step(batch.clips, batch.labels)
        waits.append(1e3 * (middle - start))
        steps.append(1e3 * (clock() - middle))


def measure(folder, count, frames, size, rounds):
    "Let all arrangements take turns; give one row for each."
    found, step = loaders(folder, count, frames, size), trainer()
    shares, wait, work = ({key: [] for key in (*found, ("already there", 0))} for _ in range(3))
    resident = next(iter(found["JPEG folders", 0]))
    for turn in range(rounds + 1):  # the first is not counted
        for key in shares:
            waits, steps = epoch(found.get(key, [resident] * (count // BATCH)), step)
            if not turn:
                continue
            shares[key].append(sum(waits) / (sum(waits) + sum(steps)))
            wait[key].append(sum(waits) / len(waits))
            work[key].append(sum(steps) / len(steps))
    middle = statistics.median
    return [
        dict(
            source=kind,
            workers=workers,
            waiting_share=round(middle(shares[kind, workers]), 4),
            wait_ms=round(middle(wait[kind, workers]), 2),
            step_ms=round(middle(work[kind, workers]), 2),
            clips_per_second=round(1e3 * BATCH / (middle(wait[kind, workers]) + middle(work[kind, workers])), 1),
        )
        for kind, workers in shares
    ]


def by_pvlit(file, numbers):
    "Read frames with pvlit."
    with VideoFile(file) as video:
        return video.read(numbers).numpy()


def by_pyav(file, numbers):
    "Read frames with PyAV alone, as its documentation does: decode, count, convert what is wanted."
    wanted, found = set(numbers), {}
    with av.open(str(file)) as container:
        container.streams.video[0].thread_count = 1
        for n, frame in enumerate(container.decode(video=0)):
            if n in wanted:
                found[n] = frame.to_ndarray(format="rgb24")
            if n >= max(numbers):
                break
    return np.stack([found[n] for n in numbers])


def by_decord(file, numbers):
    "Read frames with decord."
    import decord

    return decord.VideoReader(str(file), num_threads=1).get_batch(numbers).asnumpy()


def by_torchcodec(file, numbers):
    "Read frames with torchcodec."
    from torchcodec.decoders import VideoDecoder

    decoder = VideoDecoder(str(file), num_ffmpeg_threads=1, dimension_order="NHWC")
    return decoder.get_frames_at(numbers).data.numpy()


PEERS = {"pvlit": by_pvlit, "PyAV alone": by_pyav, "decord": by_decord, "torchcodec": by_torchcodec}


def able(files):
    "Give the peers that are here and work, and say which are not; what they read must be what pvlit reads."
    found, wanted = {}, by_pvlit(files[0], [1, 9, 10])
    for name, read in PEERS.items():
        try:
            distance = np.abs(read(files[0], [1, 9, 10]).astype(float) - wanted).mean()
        except Exception as error:  # whatever a missing or ill-fitting library brings about
            print(
                f"{name} is left out: {type(error).__name__}: {str(error).splitlines()[0][:90] if str(error) else ''}"
            )
            continue
        assert distance < 3, f"{name} reads other frames: {distance:.1f} levels apart"  # rounding of colors
        found[name] = read
    return found


def clips(kinds, rounds):
    "Let all peers take turns on every file; give milliseconds of a clip, and how many times pvlit's they are."
    rows, sampling, middle = [], Sampling(FRAMES, random=True), statistics.median
    for kind, (files, frames) in kinds.items():
        peers, times = able(files), {}
        for turn in range(rounds + 1):
            for i, file in enumerate(files):
                numbers = sampling(frames, turn * len(files) + i).flatten().tolist()
                for name, read in peers.items():
                    start = time.perf_counter()
                    read(file, numbers)
                    times.setdefault(name, [])
                    times[name] += [1e3 * (time.perf_counter() - start)] * (turn > 0)
        for name in peers:
            ratio = middle(a / b for a, b in zip(times[name], times["pvlit"]))
            rows.append(dict(source=kind, peer=name, clip_ms=round(middle(times[name]), 2), to_pvlit=round(ratio, 3)))
    return rows


def targets(rows, read):
    "Say what one worker is for: the step should hardly wait; and pvlit should read a clip no slower than its peers."
    share = {(r["source"], r["workers"]): r["waiting_share"] for r in rows}
    checked = []
    for kind in KINDS:
        checked.append(
            at_most(
                f"{kind}: share of waiting with one worker, relative to none",
                0.5,
                round(share[kind, 1] / max(share[kind, 0], 1e-9), 3),
            )
        )
        checked.append(at_most(f"{kind}: share of waiting with one worker", 0.25, share[kind, 1]))
    for row in read:
        if row["peer"] != "pvlit":
            name = f"{row['source']}: time of a clip, relative to {row['peer']}"
            checked.append(at_most(name, 1.0, round(1 / row["to_pvlit"], 3)))
    return checked


def table(rows):
    print(f"{'source':14} {'workers':>7} {'waiting':>8} {'wait ms':>8} {'step ms':>8} {'clips/s':>8}")
    for r in rows:
        print(
            f"{r['source']:14} {r['workers']:7} {r['waiting_share']:8.1%} "
            f"{r['wait_ms']:8.1f} {r['step_ms']:8.1f} {r['clips_per_second']:8.1f}"
        )


def table_of_clips(rows):
    print(f"\n{'source':22} {'peer':12} {'ms a clip':>10} {'times pvlit':>12}")
    for r in rows:
        print(f"{r['source']:22} {r['peer']:12} {r['clip_ms']:10.2f} {r['to_pvlit']:12.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few small videos, one round, writes nothing")
    parser.add_argument("--rounds", type=int, default=7, help="measured epochs of each arrangement")
    args = parser.parse_args()
    torch.set_num_threads(1)
    count, frames, height, width, size, rounds = (
        (24, 16, 48, 64, 32, 1) if args.quick else (64, 48, 128, 170, 112, args.rounds)
    )
    with tempfile.TemporaryDirectory() as place:
        for i in range(count):
            write(Path(place), f"{i:03d}", textured(frames, height, width, i))
        rows = measure(Path(place), count, frames, size, rounds)
        table(rows)
        long, some = (60, 2) if args.quick else (250, 8)
        for i in range(some):
            write(Path(place), f"long{i}", textured(long, 2 * height, 2 * width, i), key=250, folders=False)
        kinds = {
            "short MP4 files": ([Path(place) / f"{i:03d}.mp4" for i in range(8 * some)], frames),
            "long MP4 files": ([Path(place) / f"long{i}.mp4" for i in range(some)], long),
        }
        read = clips(kinds, rounds)
    table_of_clips(read)
    if args.quick:
        return
    publish("clip_loading", [*rows, *read], targets(rows, read))


if __name__ == "__main__":
    main()
