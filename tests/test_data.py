"""What the notebooks core/data and core/metrics cannot say.

The README's checksums, the real `datasets` package, several processes, several thread counts."""

import hashlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from patience import patient
from PIL import Image

from pvlit.core.data import SOURCES, load_images
from pvlit.core.metrics import feature_net, train_feature_net
from pvlit.core.settings import load_settings


README = Path(__file__).parents[1] / "data" / "README.md"


def test_checksums_of_the_readme_are_those_of_the_data():
    from sklearn.datasets import load_digits

    digits, text = load_digits(), README.read_text(encoding="utf-8")
    sums = [hashlib.sha256(a.astype("uint8").tobytes()).hexdigest() for a in (digits.images, digits.target)]
    for value in sums + [load_images("digits", split).fingerprint for split in ("train", "test")]:
        assert f"`{value}`" in text
    for name, source in SOURCES.items():
        assert f"| `{name}` | `{source.hub}` |" in text


@pytest.mark.parametrize("name", ["fashion_mnist", "mnist", "cifar10", "celeba"])
def test_hub_through_the_real_datasets_package(name, tmp_path, monkeypatch):
    "Rows that went through Arrow and PNG come back as the very bytes, with the columns that each hub set uses."
    datasets = pytest.importorskip("datasets")
    source = SOURCES[name]
    size, bands = {"celeba": (20, 3), "cifar10": (32, 3)}.get(name, (28, 1))
    pixels = np.random.RandomState(0).randint(0, 256, (7, size, size, bands)).astype(np.uint8)
    labels = [True, False] * 3 + [True] if name == "celeba" else [0, 1, 2, 3, 9, 8, 7]
    rows = datasets.Dataset.from_dict(
        {source.image: [Image.fromarray(p.squeeze()) for p in pixels], source.label: labels},
        features=datasets.Features(
            {source.image: datasets.Image(), source.label: datasets.Value("bool" if name == "celeba" else "int64")}
        ),
    )
    rows.save_to_disk(tmp_path / "rows")
    monkeypatch.setattr(datasets, "load_dataset", lambda hub, split: datasets.load_from_disk(tmp_path / "rows"))
    images = load_images(name, settings=replace(load_settings(), images={}), size=size)
    assert torch.equal((images.x * 255).round().byte(), torch.from_numpy(pixels).permute(0, 3, 1, 2))
    assert images.y.tolist() == [int(v) for v in labels]
    assert images.source.endswith(source.hub) and images.classes == source.classes


def test_processes_that_start_with_an_empty_cache_agree(tmp_path):
    "Two processes race for one cache file; both get the same network and one intact file remains."
    code = (
        "import sys; from dataclasses import replace; from pathlib import Path; "
        "from pvlit.core.metrics import feature_net; from pvlit.core.settings import load_settings; "
        "own = dict(cache=Path(sys.argv[1]), data=Path(sys.argv[1]) / 'none', device='cpu', images={}); "
        "print(feature_net('digits', replace(load_settings(), **own)).fingerprint)"
    )
    racers = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-W", "ignore:training a feature network", "-c", code, str(tmp_path)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    names = {racer.communicate(timeout=patient(300))[0].strip() for racer in racers}
    assert [racer.returncode for racer in racers] == [0, 0] and len(names) == 1
    files = list(tmp_path.rglob("*.*"))
    assert [f.suffix for f in files] == [".safetensors"]
    settings = replace(load_settings(), cache=tmp_path, data=tmp_path / "none", device="cpu", images={})
    assert {feature_net("digits", settings).fingerprint} == names


def test_the_digits_network_does_not_depend_on_the_number_of_threads():
    train, test = load_images("digits")[:256], load_images("digits", "test")
    before, names = torch.get_num_threads(), []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            names.append(train_feature_net(train, test).fingerprint)
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert names[0] == names[1]


def test_a_full_disk_leaves_no_half_network(tmp_path, monkeypatch):
    "When writing stops in the middle, the network is still returned, with a warning, and nothing half-written stays."
    settings = replace(load_settings(), cache=tmp_path, data=tmp_path / "none", device="cpu", images={})
    train, test = load_images("digits"), load_images("digits", "test")
    net = train_feature_net(train[:256], test)
    monkeypatch.setattr("pvlit.core.metrics.train_feature_net", lambda *_: net)

    def stop(path, mode):
        return open("/dev/full" if path.suffix == ".tmp" else path, mode)

    with monkeypatch.context() as full:
        full.setattr("pvlit.core.files.open", stop, raising=False)
        with pytest.warns(UserWarning, match="No space left"):
            assert feature_net("digits", settings) is net
    assert not [f for f in tmp_path.rglob("*") if f.is_file()]
