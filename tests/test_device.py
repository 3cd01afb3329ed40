"""Whatever computes with tensors is run on a device that is not the CPU, and gives the CPU's numbers bit for bit."""

import copy
import importlib
import os
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from pretend import AVAILABLE, Pretend, Watched, move, pretended
from torch import Tensor, nn

from pvlit.core import metrics, training
from pvlit.core.settings import load_settings
from pvlit.motion_coherence.alignment import MotionCoherentLoss
from pvlit.motion_coherence.appearance import AUGMENTATIONS, CutMix, MixUp
from pvlit.motion_coherence.backbones.slowfast import SlowFast
from pvlit.motion_coherence.backbones.tsm import TSM, parameter_groups, tiny_tsm
from pvlit.motion_coherence.backbones.uniformer import UniFormer
from pvlit.motion_coherence.recognition import predict, reliability, score, temporal_saliency
from pvlit.motion_coherence.swapmix import SwapMix, swapmix, swapmix_pair
from pvlit.motion_coherence.video.recipes import ARMS, RECIPES, NormalizedClassifier, recipe_loss
from pvlit.papers.catalogue import catalog
from pvlit.papers.contract import leaves, same
from pvlit.pseudo_video.clips import ORDERS, Recipe
from pvlit.pseudo_video.clips import SOURCES as CLIP_SOURCES
from pvlit.pseudo_video.corruption import COUPLINGS, blur, pseudo_video
from pvlit.pseudo_video.degradations import CHAINS, DEGRADATIONS, degraded_video
from pvlit.pseudo_video.families.diffusion import UNet, ddim_sample, epsilon_loss
from pvlit.pseudo_video.families.registry import FAMILIES, build_generator, load_generator, save_generator
from pvlit.worlds import events, figures, image_text, points, views
from pvlit.worlds.denoisers import GaussianMixture

PAPERS = catalog(status="works", settings=load_settings(Path(__file__).resolve().parents[1]))


@pytest.fixture
def device():
    "`pretend:0`, a device that is not the CPU."
    if not AVAILABLE:
        pytest.skip(f"torch {torch.__version__} cannot register a device in Python; 2.9 and later can")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # everything here is tiny
    with pretended() as made:
        yield made
    torch.set_num_threads(threads)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def on_cpu(result):
    "Flatten a result and bring its tensors to the CPU."
    return {k: x.detach().cpu() if isinstance(x, Tensor) else x for k, x in leaves(result).items()}


def differences(got, wanted):
    "Name the parts of two results that are not equal to the last bit."
    got, wanted = on_cpu(got), on_cpu(wanted)
    assert got.keys() == wanted.keys()
    return [name for name in wanted if not same(got[name], wanted[name])]


def places(result):
    "Return the devices on which the tensors of a result are."
    return {str(x.device) for x in leaves(result).values() if isinstance(x, Tensor)}


def alike(function, device, *args, where="pretend:0", **given):
    "Call a function with CPU tensors and with the same ones on the device; compare, and look where the results are."
    torch.manual_seed(0)
    wanted = function(*args, **given)
    torch.manual_seed(0)
    got = function(*move(args, device), **move(given, device))
    assert differences(got, wanted) == []
    assert places(got) <= {where}
    return got


def gradients(model):
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def test_the_device_is_as_strict_as_a_gpu(device):
    x, y = torch.ones(2, 3), torch.ones(2, 3).to(device)
    assert (str(y.device), type(y), type(nn.Linear(2, 2).to(device).weight)) == ("pretend:0", Pretend, Pretend)
    assert torch.equal((2 * y + torch.tensor(1.0)).cpu(), 2 * x + 1), "a CPU number without axes is let in"
    assert str((y[torch.tensor([0])] + torch.zeros(3, device=device)).device) == "pretend:0", "and so is a CPU index"
    refused = {
        "sum": lambda: x + y,
        "sum in place": lambda: torch.zeros(()).add_(y.sum()),
        "stacked numbers": lambda: torch.stack([y.sum(), x.sum()]),
        "CPU tensor by index": lambda: x[torch.tensor([0]).to(device)],
        "layer": lambda: nn.Linear(3, 3).to(device)(x),
        "draw": lambda: torch.randn(2, device=device, generator=seeded()),
        "draw in place": lambda: y.normal_(generator=seeded()),
        "NumPy": lambda: y.numpy(),
        "array": lambda: np.asarray(y),
    }
    for name, attempt in refused.items():
        with pytest.raises((RuntimeError, TypeError)):
            attempt()
            pytest.fail(f"{name} was let through")


def test_shapes_follow_operations_in_place(device):
    y = torch.arange(6.0).view(1, 2, 3).to(device)
    y.squeeze_(0).t_()
    assert torch.equal(y.cpu(), torch.arange(6.0).view(2, 3).T)
    assert torch.equal(torch.mm(y, y.T, out=torch.empty(0, device=device)).cpu(), y.cpu() @ y.cpu().T)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="a system without fork")
def test_nothing_of_it_stays_behind(device):
    "Later tests of this process find no accelerator to choose, and processes that fork from it can differentiate."
    torch.ones(2, device=device, requires_grad=True).sum().backward()
    assert torch.accelerator.current_accelerator(check_available=True) is None
    child = os.fork()
    if not child:
        try:
            torch.ones(2, requires_grad=True).sum().backward()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0


# Pictures that become pseudo videos

PICTURES = torch.rand(3, 3, 20, 17, generator=seeded())
WIDE = torch.rand(2, 1, 72, 66, generator=seeded())  # wide enough for blur in blocks
BLUR, NOISE, SCALE = [2.0, 1.0, 0.0], [0.5, 0.2, 0.0], [0.5, 0.8, 1.0]


@pytest.mark.parametrize("pictures", [PICTURES, PICTURES.double()], ids=["float32", "float64"])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_corruption(device, coupling, pictures):
    "A GPU blurs with whole matrices, a CPU in blocks: equal up to rounding where there is blur, else bit for bit."
    for widths in (BLUR, [0.0] * 3):
        wanted = pseudo_video(pictures, widths, NOISE, coupling, SCALE, 1)
        got = pseudo_video(pictures.to(device), widths, NOISE, coupling, SCALE, 1)
        assert str(got.device) == "pretend:0"
        torch.testing.assert_close(got.cpu(), wanted, rtol=0, atol=20 * torch.finfo(pictures.dtype).eps * any(widths))


def test_blur_of_wide_pictures(device):
    for sigma in (0.0, 1.5, 30.0):
        torch.testing.assert_close(blur(WIDE.to(device), sigma).cpu(), blur(WIDE, sigma), rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", DEGRADATIONS)
def test_degradations(device, name):
    exact = name != "blur"
    for coupling in ("star", "shared", *(["chain"] if name in CHAINS else [])):
        call = lambda x: degraded_video(x, name, 3, coupling, 0.1, 1)  # noqa: B023
        got, wanted = call(PICTURES.to(device)).cpu(), call(PICTURES)
        torch.testing.assert_close(got, wanted, rtol=0, atol=0 if exact else 5e-6)


@pytest.mark.parametrize("source", CLIP_SOURCES)
def test_recipes_of_clips(device, source):
    for order in ORDERS:
        for coupling in ("star", "order-1", "order-2"):
            recipe = Recipe(frames=4, coupling=coupling, source=source, order=order)
            alike(lambda x: recipe.make(x, 0.3, 1), device, PICTURES)  # noqa: B023


# Clips and the networks that recognize them

CLIPS = torch.rand(2, 4, 3, 16, 16, generator=seeded())
LABELS = torch.tensor([0, 2])
BACKBONES = {
    "tsm": lambda: TSM(3, (1, 1), "basic", 8, small_input=True, seed=0),
    "tsm-bottleneck": lambda: TSM(3, (1, 1), width=8, seed=0),
    "tiny": lambda: tiny_tsm(3, (4, 8, 8), seed=0),
    "slowfast": lambda: SlowFast(3, (1, 1, 1, 1), width=8, small_input=True, zero_init=False, seed=0),
    "uniformer": lambda: UniFormer(3, (8, 8, 16, 16), (1, 1, 1, 1), 8, patches=(2, 2, 2, 2), seed=0),
}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_augmentations(device, name):
    augment = AUGMENTATIONS[name]()
    for seed in range(4):
        alike(lambda clips: augment(clips, seed), device, CLIPS)  # noqa: B023


@pytest.mark.parametrize("make", [MixUp, CutMix])
def test_augmentations_that_change_labels(device, make):
    for seed in range(3):
        alike(lambda clips, labels: make(3)(clips, labels, seed), device, CLIPS, LABELS)  # noqa: B023


@pytest.mark.parametrize("per_clip", [False, True])
def test_swapmix(device, per_clip):
    for pair in (False, True):
        alike(lambda x: SwapMix(per_clip=per_clip, pair=pair)(x, 1), device, CLIPS)  # noqa: B023
        alike(lambda x: SwapMix(per_clip=per_clip, pair=pair)(x, 1), device, [CLIPS[:, ::4], CLIPS])  # noqa: B023
    lam, order = torch.tensor([0.2, 0.9]), torch.tensor([[1, 2, 0], [2, 1, 0]] if per_clip else [1, 2, 0])
    alike(swapmix, device, CLIPS, lam, order)
    clips, buffer = CLIPS.to(device).requires_grad_(), torch.empty(4, *CLIPS.shape[1:]).to(device)
    swapmix(clips, lam, order).square().sum().backward()
    wanted = CLIPS.clone().requires_grad_()
    swapmix(wanted, lam, order).square().sum().backward()
    assert torch.equal(clips.grad.cpu(), wanted.grad)
    assert swapmix_pair(clips.detach(), lam, order, buffer) is buffer
    assert torch.equal(buffer.cpu(), swapmix_pair(CLIPS, lam, order))
    with pytest.raises(ValueError, match="overlaps the clips"):
        swapmix(buffer[:2], lam, order, buffer[:2])


@pytest.mark.parametrize("batch_norm", ["joint", "split", "clean"])
@pytest.mark.parametrize("name", BACKBONES)
def test_a_step_of_recognition(device, name, batch_norm):
    "Loss, gradients and the weights after one step are the CPU's."
    outcomes = []
    for place in ("cpu", device):
        model, loss = BACKBONES[name]().to(place), MotionCoherentLoss(batch_norm=batch_norm)
        groups = model.parameters() if name in ("slowfast", "uniformer") else parameter_groups(model, 0.1, 1e-3)
        optimizer = torch.optim.SGD(groups, lr=0.1, momentum=0.9)
        clips = model.pathways(CLIPS.to(place)) if hasattr(model, "pathways") else CLIPS.to(place)
        torch.manual_seed(0)
        value = loss(model, clips, LABELS.to(place), 1)
        (value[0] if isinstance(value, tuple) else value).backward()
        grads = on_cpu(gradients(model))
        optimizer.step()
        outcomes.append((value, grads, dict(model.state_dict())))
    assert "pretend:0" in places(outcomes[1][2])
    assert differences(outcomes[1], outcomes[0]) == []


@pytest.mark.parametrize("published", ["tsm_ucf101", "slowfast_something_v1", "uniformer_something_v1", "smoke"])
def test_published_recipes(device, published):
    "Loss and gradients of every arm, with the strong changes, the mixing and the quirks of the recipe."
    recipe, clips = RECIPES[published], torch.rand(4, 4, 3, 16, 16, generator=seeded())
    for arm in ("mca", "augmix", "rand_augment va"):
        loss, values = recipe_loss(replace(recipe, **{**ARMS[arm], "assumed": ()})), []
        for place in ("cpu", device):
            model = NormalizedClassifier(tiny_tsm(recipe.classes, (4, 4, 4), seed=0), recipe).to(place)
            value = loss(model, clips.to(place), torch.arange(4).to(place), seeded())[0]
            value.backward()
            values.append((value, gradients(model)))
        assert differences(*values) == []


def test_scores_of_classifiers(device):
    "The network is there; the clips may be here or there."
    model, labels = tiny_tsm(3, (4, 4, 4), seed=0), torch.tensor([0, 2])
    wanted = score(predict(model, CLIPS), labels), temporal_saliency(model, CLIPS, labels)
    model.to(device)
    for clips, y in ((CLIPS, labels), move((CLIPS, labels), device)):
        assert differences((score(predict(model, clips), y), temporal_saliency(model, clips, y)), wanted) == []
    alike(reliability, device, CLIPS[:, 0, 0, 0, :3], labels)


# Families of generators

MORE = {  # further networks of a family
    "few-step": dict(net="conv", width=8, blocks=1, denoising_steps=3),
    "diffusion": dict(net="unet", width=8, target="v", learned_variance=True, sampler="ancestral"),
    "frame-diffusion": dict(net="unet", width=8, multipliers=(1, 2)),
    "hvae": dict(net="conv", width=8, levels=3),
    "vq": dict(network="conv", codes=8, width=16, tokenizer_width=8),
    "vq-masked": dict(network="transformer", codes=8, width=16, tokenizer_width=8),
}
CASES = {f"{name}-{frames}": (name, frames, 8, {}) for name in FAMILIES for frames in (1, 3)}
CASES |= {f"{name}-{o.get('net') or o['network']}": (name, 3, 16, o) for name, o in MORE.items()}


def sampling(name, options):
    "Return how few steps a sample takes."
    return {"sampling_steps": 3} if name.endswith("diffusion") else {}


@pytest.mark.parametrize("name, frames, side, options", CASES.values(), ids=CASES)
def test_families(device, tmp_path, name, frames, side, options):
    "Every training stage takes a step; terms, samples and a stored copy are the CPU's."
    clips = torch.rand(4, frames, 1, side, side, generator=seeded())
    outcomes = []
    for place in ("cpu", device):
        torch.manual_seed(0)
        model = build_generator(name, (1, side, side), frames, **options, **sampling(name, options)).to(place)
        values = {}
        for stage, loss in model.losses().items():
            optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
            values[stage] = loss(clips.to(place), seeded(1))
            values[stage].backward()
            values |= {f"{stage}.{n}": g.cpu().clone() for n, g in gradients(model).items()}
            optimizer.step()
            model.zero_grad()
        model.eval()
        terms = model.frame_terms(clips.to(place), seeded(2))
        outcomes.append((values, terms, model.sample(2, seeded(3)), dict(model.state_dict())))
    assert (places(outcomes[1][1]), places(outcomes[1][2])) == ({"pretend:0"}, {"cpu"})
    assert differences(outcomes[1], outcomes[0]) == []
    stored = load_generator(save_generator(model, tmp_path / "model", name, 1))
    assert differences(dict(stored.state_dict()), outcomes[0][3]) == []


def test_image_diffusion(device):
    "The U-Net of images and of clips, its loss and its samples."
    for frames in (1, 2):
        shape = (*((frames,) if frames > 1 else ()), 1, 8, 8)
        batch, results = torch.rand(2, *shape, generator=seeded()), []
        for place in ("cpu", device):
            model = UNet(1, 8, (1, 2), frames=frames, size=8, seed=0).to(place)
            loss = epsilon_loss(model, batch.to(place), seeded())
            loss.backward()
            results.append((loss, gradients(model), ddim_sample(model, 2, shape, 3, 1.0, seeded(), clip=1.0)))
        assert differences(*results) == []


# Training


def noisy_loss(model, batch, generator):
    noise = torch.randn(batch.shape, generator=generator).to(batch)
    return F.mse_loss(model(batch + noise), noise), {"size": batch.abs().mean()}


class Lent(SimpleNamespace):
    "What `fit` uses of accelerate, which does not know the device."

    scaler = None
    autocast = staticmethod(nullcontext)
    backward = staticmethod(Tensor.backward)
    clip_grad_norm_ = staticmethod(nn.utils.clip_grad_norm_)


@contextmanager
def lent(device, precision):
    yield Lent(device=torch.device(device))


@pytest.fixture
def fit(device, monkeypatch):
    "`fit` on the device: its choice of a device, accelerate and the device's random numbers are stood in for."
    monkeypatch.setattr(training, "own_accelerator", lent)
    monkeypatch.setattr(training, "choose_device", lambda name, precision: str(name))
    monkeypatch.setattr(training, "_get_random", lambda device: torch.random.get_rng_state())
    monkeypatch.setattr(training, "_set_random", lambda device, state: torch.random.set_rng_state(state))
    return training.fit


def test_fit_with_averages_and_checkpoints(device, fit, tmp_path):
    "A run that is stopped half way and goes on ends in the weights of the CPU."
    data = torch.rand(20, 4, generator=seeded())
    runs = {}
    for place in ("cpu", str(device)):
        for steps in (6, 12) if place != "cpu" else (12,):
            with training.seeded(0):
                model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, 4))
            options = dict(batch_size=8, ema=0.9, clip=0.5, schedule="constant", log_every=2, checkpoint_every=3)
            done = fit(model, noisy_loss, data, steps, folder=tmp_path / place[:4], device=place, **options)
        runs[place] = (dict(done.model.state_dict()), dict(done.ema.state_dict()), done.history)
        if place != "cpu":
            assert places(runs[place]) == {"pretend:0"}
    assert differences(runs[str(device)], runs["cpu"]) == []
    stored = training.load_state(tmp_path / "pret" / "ema.safetensors")[0]
    assert differences(stored, runs["cpu"][1]) == []


# Scores

FEATURES = torch.randn(60, 6, generator=seeded()), 0.5 + torch.randn(50, 6, generator=seeded(1))


@pytest.mark.parametrize("distance", [metrics.frechet_distance, metrics.kernel_distance, metrics.precision_recall])
def test_distances_of_features(device, distance):
    first, second = FEATURES
    wanted = distance(first, second)
    for a, b in ((first.to(device), second.to(device)), (first.to(device), second), (first, second.to(device))):
        assert distance(a, b) == wanted


def test_moments_and_calibration(device):
    first, second = FEATURES
    moments = [metrics.Moments().update(x.to(device)).merge(metrics.Moments().update(x.to(device))) for x in FEATURES]
    wanted = [metrics.Moments().update(x).merge(metrics.Moments().update(x)) for x in FEATURES]
    assert differences([m.cov for m in moments], [m.cov for m in wanted]) == []
    counts = metrics.resample_counts(60, 3)
    alike(lambda x: metrics.resampled_moments(x, counts), device, first)
    assert metrics.split_half_floor(first.to(device), 0, 2) == metrics.split_half_floor(first, 0, 2)
    p, labels = first.softmax(1), torch.arange(60) % 6
    for place in ("cpu", device):
        assert metrics.expected_calibration_error(p.to(device), labels.to(place)) == (
            metrics.expected_calibration_error(p, labels)
        )


def test_scores_of_pictures(device):
    "Pictures and feature net may be here or there."
    with training.seeded(0):
        net = metrics.FeatureNet("made", 1, 8, 4, 6).eval().requires_grad_(False)
    there = copy.deepcopy(net).to(device)
    assert there.fingerprint == net.fingerprint
    a, b, c = (torch.rand(40, 1, 8, 8, generator=seeded(seed)) for seed in range(3))

    def scores(net, a, b, c):
        return {
            "features": metrics.extract_features(net, a),
            "frechet": metrics.feature_frechet(net, a, b),
            "memorization": metrics.memorization(net, a, b, c, 0),
            "pixels": metrics.memorization(None, a, b, c, 0),
            "scores": metrics.Scorer([net, net], b, c, 3)(a, 0),
        }

    wanted = scores(net, a, b, c)
    for where, pictures in ((there, (a, b, c)), (there, move((a, b, c), device)), (net, move((a, b, c), device))):
        assert differences(scores(where, *pictures), wanted) == []


# Worlds


def test_exact_denoiser(device):
    means, spread = torch.randn(3, 1, 2, 2, generator=seeded()), torch.eye(4).expand(3, 4, 4)
    x, t, part = torch.randn(5, 1, 2, 2, generator=seeded(1)), torch.tensor([1, 5, 200, 999, 3]), torch.arange(5) % 3
    for condition in (None, part):
        wanted = GaussianMixture(means, spread)(x, t, condition)
        for mixture in (GaussianMixture(means, spread).to(device), GaussianMixture(*move((means, spread), device))):
            for time, moved in ((t, condition), move((t, condition), device)):
                assert differences(mixture(x.to(device), time, moved), wanted) == []


def test_pictures_and_texts(device):
    attributes = image_text.every_object()[::40]
    pictures, texts = image_text.draw_objects(attributes, 0), image_text.captions(attributes)
    results = []
    for place in ("cpu", device):
        model = image_text.TinyCLIP(seed=0).to(place)
        vectors = model.encode_image(pictures.to(place)), model.encode_text(model.tokenize(texts).to(place))
        loss = image_text.contrastive_loss(*vectors, 10.0)
        loss.backward()
        results.append((loss, gradients(model), image_text.similarities(model, pictures.to(place), texts)))
    assert differences(results[1], results[0]) == []


def test_figures_points_events_and_views(device):
    lengths, angles = figures.subjects(2, 0), figures.random_angles(2, 0)
    yaw, colors = torch.tensor([10.0, 200.0]), figures.palettes(2, 0)

    def rendered(lengths, angles, yaw, colors):
        joints = figures.turn(figures.pose_joints(lengths, angles), yaw)
        return figures.render_figures(joints, yaw, colors, 24, 18), figures.draw_sticks(figures.project(joints), 24, 24)

    alike(rendered, device, lengths, angles, yaw, colors)
    boxes, direction = points.furniture("chair", 2, 0)[0], torch.tensor([[1.0, 0, 0], [0, 1, 0]])

    def seen(boxes, direction):
        cloud, normals = (x.flatten(1, 2) for x in points.sample_boxes(boxes, 8, 0))
        return points.unit_ball(cloud), points.facing(normals, direction), points.partial_view(cloud, direction, 9)

    alike(seen, device, boxes, direction)
    video = torch.rand(2, 4, 1, 6, 6, generator=seeded())
    alike(lambda video: events.video_to_events(video, 0, spread=0.1, noise=0.1), device, video)
    cameras, crowd = views.random_cameras((2, 2), 0), views.random_crowd(2, (2, 4), 0, pillars=1)

    def drawn(cameras, crowd):
        return views.draw_views(cameras, crowd, 0), views.field_of_view(cameras, (8, 8)), crowd.ground_map((8, 8))

    alike(drawn, device, cameras, crowd)


# Papers


def moved_call(example, place):
    "Call an example with everything on a place; return the result and the gradients."
    given = move(example.inputs(seeded()), place)
    for name in example.differentiable:
        given[name] = given[name].detach().requires_grad_()
    target = move(example.build(), place) if example.build else example.target
    torch.manual_seed(0)
    with Watched() if place == "cpu" else nullcontext():
        result = target(**given)
        floats = [x for x in leaves(result).values() if isinstance(x, Tensor) and x.requires_grad]
        if floats:
            sum(x.sum() for x in floats).backward()
    found = {name: given[name].grad for name in example.differentiable}
    return result, found, gradients(target) if isinstance(target, nn.Module) else {}


@pytest.mark.parametrize("paper", PAPERS, ids=lambda paper: paper.slug)
def test_examples_of_papers(device, paper):
    wrong = []
    for example in importlib.import_module(paper.module).EXAMPLES:
        try:
            parts = differences(moved_call(example, device), moved_call(example, "cpu"))
            wrong += [f"{example.name}: another {part or 'result'}" for part in parts]
        except RuntimeError as error:
            wrong.append(f"{example.name}: {str(error).splitlines()[0]}")
    assert wrong == []
