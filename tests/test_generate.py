"New pictures from a finished run: what a person types after training."

from pathlib import Path
import pytest
from PIL import Image
from counting import call

ROOT = Path(__file__).resolve().parents[1]


def pvlit(*words):
    return call(ROOT, *words, OMP_NUM_THREADS="1")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    "A finished run of two arms, a moment of training each."
    folder = tmp_path_factory.mktemp("runs")
    result = pvlit(
        "run",
        "pseudo_video_families",
        "--out",
        folder / "families",
        "-p",
        'only=["image", "star 4"]',
        "-p",
        "steps=3",
        "-p",
        "samples=50",
        "-p",
        "sizes=[]",
        "-p",
        "counts=[]",
    )
    assert result.returncode == 0, result.stderr
    return folder / "families"


def test_pictures_are_the_last_frames_that_load_and_sample_give(run, tmp_path):
    import torch
    from pvlit.core.plots import show_images
    from pvlit.pseudo_video import load

    out, expected = tmp_path / "grid.png", tmp_path / "expected.png"
    result = pvlit("generate", run, "--arm", "star 4", "--n", 6, "--out", out, "--draw", 3)
    assert result.returncode == 0 and f"written: {out}" in result.stdout, result.stderr
    drawn = Image.open(out)
    path = next((run / "rows").glob("star_4-10-*.weights.safetensors"))
    assert str(path.name) in result.stdout
    clips = load(path).sample(6, torch.Generator().manual_seed(3))
    assert clips.shape == (6, 4, 1, 8, 8) and clips.std() > 0
    show_images(clips[:, -1].clamp(0, 1), columns=6, pixels=32).figure.savefig(expected, dpi=80)
    assert drawn.tobytes() == Image.open(expected).tobytes()
    result = pvlit("generate", run, "--arm", "star 4", "--n", 6, "--out", out, "--film")
    assert result.returncode == 0 and Image.open(out).size[1] > drawn.size[1], "six films stand one below the other"


@pytest.mark.parametrize(
    "words, says",
    [
        (["--arm", "stra 4"], "did you mean star 4"),
        ([], "there is: image, star 4"),
        (["--arm", "image", "--seed", 99], "this run has 10, 11"),
        (["--arm", "image", "--n", 0], "at least 1"),
    ],
)
def test_wrong_calls_say_what_there_is(run, tmp_path, words, says):
    result = pvlit("generate", run, *words, "--out", tmp_path / "no.png")
    assert result.returncode == 2 and says in result.stderr and not (tmp_path / "no.png").exists()


def test_weights_that_were_changed_are_refused(run, tmp_path):
    path = next((run / "rows").glob("image-11-*.weights.safetensors"))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    result = pvlit("generate", run, "--arm", "image", "--seed", 11, "--out", tmp_path / "no.png")
    path.write_bytes(whole)
    assert result.returncode == 2 and "Traceback" not in result.stderr and not (tmp_path / "no.png").exists()
