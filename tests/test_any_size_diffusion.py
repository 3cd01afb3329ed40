"Moving tiles with a network of diffusers, on a canvas that nothing divides, and on sizes and types of many kinds."

import pytest
import torch

from pvlit.core.nets import initialized_from
from pvlit.papers.generation.any_size_diffusion import AspectBuckets, FieldDenoiser, tile_grid, tiled_sample, worst_seam
from pvlit.worlds.denoisers import linear_alphas_bar

WAYS = {
    "authors": dict(),
    "cycle": dict(mode="implicit_fixed"),
    "cover": dict(border="cover"),
    "wrap": dict(border="wrap"),
    "copy": dict(border="copy"),
    "explicit": dict(mode="explicit"),
    "disjoint": dict(mode="disjoint"),
    "even": dict(blend="even"),
}


@pytest.fixture(scope="module")
def unet():
    diffusers = pytest.importorskip("diffusers")
    with initialized_from(0):
        return diffusers.UNet2DConditionModel(
            sample_size=16,
            in_channels=8,
            out_channels=4,
            layers_per_block=1,
            block_out_channels=(8, 8, 16),
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
            norm_num_groups=4,
            cross_attention_dim=12,
            attention_head_dim=4,
        ).requires_grad_(False)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("way", WAYS)
def test_a_network_of_diffusers_on_a_canvas_that_nothing_divides(unet, way, dtype):
    g = torch.Generator().manual_seed(0)
    z, low, text = (torch.randn(*s, generator=g).to(dtype) for s in ((2, 4, 41, 57), (2, 4, 41, 57), (2, 7, 12)))
    network, schedule = unet.to(dtype), linear_alphas_bar(1000)

    def denoise(tiles, t, low, text):
        return network(torch.cat((tiles, low), 1), t - 1, text).sample

    options = dict(tile=(16, 16), steps=3, context=text, alphas_bar=schedule, generator=3) | WAYS[way]
    out, calls = tiled_sample(denoise, z, low, **options)
    assert out.shape == z.shape and out.dtype == dtype and out.isfinite().all() and calls > 0
    one, _ = tiled_sample(denoise, z[:1], low[:1], **options | dict(context=text[:1], eta=0.0))
    two, _ = tiled_sample(denoise, z, low, **options | dict(eta=0.0))
    assert (one - two[:1]).norm() <= 100 * torch.finfo(dtype).eps * one.norm()


@pytest.mark.parametrize("size", [(16, 16), (16, 17), (31, 33), (40, 56), (135, 240)], ids=str)
@pytest.mark.parametrize("border", ["inside", "cover", "copy"])
def test_every_tile_is_whole_and_inside(size, border):
    for dy in range(-17, 18, 5):
        for dx in range(-17, 18, 3):
            boxes, covered = tile_grid(*size, (16, 16), (dy, dx), border)
            assert all(0 <= y <= size[0] - 16 and 0 <= x <= size[1] - 16 and (h, w) == (16, 16) for y, x, h, w in boxes)
            assert len(set(boxes)) == len(boxes)
            assert covered.all() or border != "cover" and (dy, dx) != (0, 0)


def test_four_tiles_are_nine_with_an_overlap_of_half_a_tile():
    field = FieldDenoiser(16)
    z = torch.randn(1, 1, 16, 16, dtype=torch.float64)
    calls = {m: tiled_sample(field, z, z, (8, 8), m, steps=1)[1] for m in ("disjoint", "implicit", "explicit")}
    assert calls == dict(disjoint=4, implicit=4, explicit=9)


def test_a_network_that_returns_something_else_is_named():
    z, schedule = torch.randn(1, 4, 16, 16), linear_alphas_bar(10)
    with pytest.raises(ValueError, match="denoise: got dict.*return .sample"):
        tiled_sample(lambda x, t, c: {"sample": x}, z, None, (8, 8), steps=1, alphas_bar=schedule)
    with pytest.raises(ValueError, match="denoise"):
        tiled_sample(lambda x, t, c: x[:, :2], z, None, (8, 8), steps=1, alphas_bar=schedule)
    with pytest.raises(ValueError, match="pad the canvas"):
        tiled_sample(lambda x, t, c: x, z, None, alphas_bar=schedule)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
def test_seams_of_large_pictures_in_any_type(dtype):
    flat = torch.full((1, 3, 224, 320), 3.0, dtype=dtype)
    assert worst_seam(flat, (64, 64)).item() == pytest.approx(1)
    flat[..., 64:] = 250.0
    assert worst_seam(flat, (64, 64)).isfinite() and worst_seam(flat, (64, 64)) > 1e3


def test_buckets_take_sizes_and_bytes():
    buckets = AspectBuckets(((512, 512), (384, 640)))
    pictures = [torch.zeros(3, 20, 21, dtype=torch.uint8), torch.zeros(3, 30, 55, dtype=torch.uint8)]
    assert buckets.assign(pictures) == buckets.assign([(20, 21), (30, 55)]) == {0: [0], 1: [1]}


def official(denoise, z, cond, tile, offsets, shares, times, draws):
    "Sample as `p_mean_variance_canvas_accelerate` and DDPM's posterior do, written out; tiles may fall together."
    (h, w), before = tile, None
    away = [(torch.arange(n) - (n - 1) / 2).double() / n for n in tile]
    weights = (-(away[0][:, None] ** 2 + away[1] ** 2) / 0.02).exp()
    for (down, right), t, s in zip(offsets, times, times[1:]):
        total, share = torch.zeros_like(z), torch.zeros_like(z)
        for row in range(-(-z.shape[2] // h)):
            for column in range(-(-z.shape[3] // w)):
                top, left = min(row * h + down, z.shape[2] - h), min(column * w + right, z.shape[3] - w)
                place = (..., slice(top, top + h), slice(left, left + w))
                total[place] += denoise(z[place], t, cond[place]) * weights
                share[place] += weights
        eps = torch.where(share > 0, total / share.clamp_min(1e-30), 0 if before is None else before)
        now, then, before = shares[t], shares[s], eps
        clean, step = (z - (1 - now).sqrt() * eps) / now.sqrt(), now / then
        mean = then.sqrt() * (1 - step) / (1 - now) * clean + step.sqrt() * (1 - then) / (1 - now) * z
        noise = torch.randn(z.shape, generator=draws, dtype=z.dtype)
        z = mean + ((1 - then) / (1 - now) * (1 - step)).sqrt() * noise
    return z


@pytest.mark.parametrize("tile", [(8, 8), (8, 6)], ids=str)
def test_it_is_the_rule_of_the_official_code_where_tiles_divide_the_canvas(tile):
    g, field = torch.Generator().manual_seed(0), FieldDenoiser(24, length=3.0, blur=1.5)
    z, cond = (torch.randn(2, 1, 16, 24, generator=g, dtype=torch.float64) for _ in range(2))
    offsets = torch.randint(0, 3, (12, 2), generator=g)
    offsets[0] = 0
    draws = torch.Generator().manual_seed(4)
    torch.rand(12, 2, generator=draws, dtype=torch.float64)  # the offsets, which are given here
    times = torch.linspace(1000, 0, 13).round().long().tolist()
    slow = official(field, z, cond, tile, offsets.tolist(), field.alphas_bar, times, draws)
    fast, _ = tiled_sample(field, z, cond, tile, steps=12, offsets=offsets, generator=torch.Generator().manual_seed(4))
    assert (fast - slow).abs().max() < 1e-9


def test_a_prediction_of_v_becomes_noise_as_the_page_says():
    x, eps = torch.randn(2, 5, 6, dtype=torch.float64)
    for share in linear_alphas_bar(10)[1:]:
        a, s = share.sqrt(), (1 - share).sqrt()
        assert torch.allclose(a * (a * eps - s * x) + s * (a * x + s * eps), eps)
