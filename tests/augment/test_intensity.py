"""Changing values: shape kept, replayed exactly, and each part does what it says."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage
from torch import Tensor

from autoseg.augment.intensity import BandJitter, Blur, Brightness, Contrast, Gamma, LowResolution, Noise, around_one
from autoseg.errors import BadPlan
from autoseg.parts import AUGMENTATIONS
from autoseg.records import Part

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 10**6)
LEAST = {"channel_dropout": 2}  # channels without which a part does nothing
PARTS = [name for name in AUGMENTATIONS if hasattr(AUGMENTATIONS.build(name, dims=3), "act")]
every = pytest.mark.parametrize("name", PARTS)


def images(*shape: int, seed: int = 0) -> Tensor:
    return 5 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def certain(name: str, dims: int, **options: Any) -> Any:
    return AUGMENTATIONS.build(Part(name=name, options={"probability": 1.0, **options}), dims=dims)


def drawn(part: Any, seed: int, channels: int) -> dict[str, Any]:
    """What the first draw that does something does."""
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = next(d for d in iter(lambda: part.draw(rng, channels), 0) if d is not None)
    return found


# -- the contract --------------------------------------------------------------------------------------


def test_every_augmentation_does_one_thing() -> None:
    """Moves voxels, changes values, pastes objects or distorts an earlier stage's label."""
    for name in AUGMENTATIONS:
        for dims in (2, 3):
            part = AUGMENTATIONS.build(name, dims=dims)
            assert sum(hasattr(part, what) for what in ("matrix", "act", "pasted", "distort")) == 1
            assert hasattr(part, "draw") == (hasattr(part, "act") or hasattr(part, "distort"))
            if hasattr(part, "matrix"):
                matrix = part.matrix(np.random.default_rng(0), (8,) * dims)
                assert matrix.shape == (dims, dims) and np.isfinite(matrix).all()


@every
@few
@given(seeds, st.integers(1, 3), st.sampled_from([(9, 7), (1, 8), (5, 6, 7), (1, 4, 9)]))
def test_shape_is_kept_values_are_finite_and_the_drawn_is_replayed(
    name: str, seed: int, channels: int, shape: tuple[int, ...]
) -> None:
    channels = max(channels, LEAST.get(name, 1))
    part, batch = certain(name, len(shape)), images(2, channels, *shape, seed=seed)
    plan = [drawn(part, seed + n, channels) for n in range(2)]
    before = batch.clone()
    out = part.act(batch, plan)
    assert out.shape == batch.shape and out.dtype == batch.dtype and out.isfinite().all()
    assert torch.equal(batch, before)
    replayed = json.loads(json.dumps(plan))
    assert replayed == plan
    assert torch.equal(certain(name, len(shape)).act(batch, replayed), out)
    alone = torch.cat([part.act(batch[n : n + 1], plan[n : n + 1]) for n in range(2)])
    assert torch.allclose(alone, out, atol=0.05)  # the width of the batch's blur is that of its widest


@every
@pytest.mark.parametrize("value", [0.0, -3.0, 1e4])
def test_a_constant_image_stays_finite(name: str, value: float) -> None:
    part = certain(name, 3)
    out = part.act(torch.full((1, 2, 4, 5, 6), value), [drawn(part, 0, 2)])
    assert out.isfinite().all()
    if name not in ("noise", "brightness", "band_jitter", "cutout", "channel_dropout"):
        assert torch.allclose(out, torch.full_like(out, value), rtol=1e-5, atol=1e-5)


@every
def test_the_draw_depends_on_the_generator_and_the_probability(name: str) -> None:
    part = certain(name, 2)
    assert drawn(part, 1, 9) == drawn(part, 1, 9) != drawn(part, 2, 9)
    rng = np.random.default_rng(0)
    assert all(certain(name, 2, probability=0.0).draw(rng, 2) is None for _ in range(50))
    half = certain(name, 2, probability=0.5)
    share = sum(half.draw(rng, 20) is not None for _ in range(2000)) / 2000
    assert share == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(
    ("name", "option"),
    [("blur", "sigma"), ("brightness", "factor"), ("contrast", "factor"), ("low_resolution", "zoom"),
     ("gamma", "power"), ("band_jitter", "gain"), ("cutout", "size"), ("affine", "scale")],
)  # fmt: skip
def test_a_plan_says_a_range_as_a_list_and_two_ascending_numbers_are_one(name: str, option: str) -> None:
    assert getattr(AUGMENTATIONS.build(Part(name=name, options={option: [0.5, 1]}), dims=3), option) == (0.5, 1)
    for wrong in ([0.5], [0.9, 0.8], [-1.0, 0.5], [0.1, 0.2, 0.3]):
        with pytest.raises(BadPlan, match=f"{option} is .*, not two ascending numbers"):
            AUGMENTATIONS.build(Part(name=name, options={option: wrong}), dims=3)


# -- each one ------------------------------------------------------------------------------------------


def test_around_one_is_as_often_below_as_above() -> None:
    rng = np.random.default_rng(0)
    values = np.array([around_one(rng, 0.5, 4.0) for _ in range(2000)])
    assert values.min() >= 0.5 and values.max() <= 4
    assert (values < 1).mean() == pytest.approx(0.5, abs=0.05)


def test_noise_has_the_drawn_spread_and_no_mean() -> None:
    x = images(2, 1, 64, 64)
    difference = Noise(2).act(x, [{"sd": 0.5, "seed": 1}, {"sd": 0.01, "seed": 2}]) - x
    assert float(difference[0].std()) == pytest.approx(0.5, rel=0.05)
    assert float(difference[1].std()) == pytest.approx(0.01, rel=0.05)
    assert abs(float(difference[0].mean())) < 0.04
    correlation = np.corrcoef(difference[0].flatten(), difference[1].flatten())[0, 1]
    assert abs(correlation) < 0.1


@pytest.mark.parametrize("shape", [(12, 15), (9, 10, 11)])
def test_blur_equals_scipy_per_sample_and_channel(shape: tuple[int, ...]) -> None:
    x = images(2, 2, *shape)
    sigmas = [[0.5, 1.0], [0.0, 0.8]]
    out = Blur(len(shape)).act(x, [{"sigma": sigma} for sigma in sigmas])
    for n in range(2):
        for c in range(2):
            expected = ndimage.gaussian_filter(x[n, c].numpy(), sigmas[n][c], mode="nearest", radius=3)
            assert np.allclose(out[n, c], expected if sigmas[n][c] else x[n, c], atol=1e-4)
    assert torch.equal(out[1, 0], x[1, 0])


def test_brightness_multiplies() -> None:
    x = images(2, 3, 4, 4)
    out = Brightness(2).act(x, [{"factor": 0.5}, {"factor": 1.25}])
    assert torch.equal(out[0], x[0] * 0.5) and torch.equal(out[1], x[1] * 1.25)


@few
@given(seeds)
def test_contrast_stays_in_range_and_moves_values_from_the_mean(seed: int) -> None:
    x = images(1, 2, 9, 8, seed=seed)
    out = Contrast(2).act(x, [{"factor": [0.5, 1.5]}])
    low, high, mean = x.amin((2, 3)), x.amax((2, 3)), x.mean((2, 3), keepdim=True)
    assert (out.amin((2, 3)) >= low).all() and (out.amax((2, 3)) <= high).all()
    assert torch.allclose(out[:, 0] - mean[:, 0], (x[:, 0] - mean[:, 0]) / 2, atol=1e-5)
    wider = (x[:, 1] - mean[:, 1]) * 1.5 + mean[:, 1]
    inside = (wider > low[0, 1]) & (wider < high[0, 1])
    assert inside.any() and torch.allclose(out[:, 1][inside], wider[inside], atol=1e-5)


def test_low_resolution_leaves_channels_of_zoom_1_and_loses_detail_in_the_others() -> None:
    x = images(1, 3, 16, 16)
    out = LowResolution(2).act(x, [{"zoom": [1.0, 0.5, 0.99]}])
    assert torch.equal(out[0, 0], x[0, 0]) and torch.equal(out[0, 2], x[0, 2])
    assert float(out[0, 1].diff(dim=0).abs().mean()) < 0.8 * float(x[0, 1].diff(dim=0).abs().mean())
    assert float(out[0, 1].min()) >= float(x[0, 1].min()) and float(out[0, 1].max()) <= float(x[0, 1].max())


def test_planar_low_resolution_keeps_slices_apart() -> None:
    x = images(1, 1, 4, 8, 8)
    changed = x.clone()
    changed[0, 0, 2] += 1
    for planar in (True, False):
        part = LowResolution(3, planar=planar)
        first, second = (part.act(y, [{"zoom": [0.5]}]) for y in (x, changed))
        moved = (first != second).flatten(2).any(0)[0].reshape(4, -1).any(1)
        assert moved.tolist() == ([False, False, True, False] if planar else moved.tolist())
        assert planar or moved.sum() != 1


@few
@given(seeds, st.booleans())
def test_gamma_keeps_mean_and_spread_and_the_order_of_values(seed: int, invert: bool) -> None:
    x = images(2, 2, 9, 8, seed=seed)
    out = Gamma(2, invert=invert).act(x, [{"power": [0.7, 1.5]}, {"power": [1.0, 1.0]}])
    assert torch.allclose(out.mean((2, 3)), x.mean((2, 3)), atol=1e-3)
    assert torch.allclose(out.std((2, 3)), x.std((2, 3)), atol=1e-3)
    assert torch.allclose(out[1], x[1], atol=1e-3)
    assert not torch.allclose(out[0], x[0], atol=1e-2)
    order = x[0].flatten(1).argsort(1)
    assert (out[0].flatten(1).gather(1, order).diff(dim=1) >= -1e-4).all()


def test_gamma_below_1_lifts_the_dark_and_inverted_the_bright() -> None:
    x = torch.linspace(0, 1, 101)[None, None, None]
    for invert, skewed in ((False, 1), (True, -1)):
        out = Gamma(2, invert=invert).act(x, [{"power": [0.5]}])
        steps = out[0, 0, 0].diff()
        assert skewed * float(steps[0] - steps[-1]) > 0


def test_band_jitter_gives_each_channel_its_own_gain_and_offset() -> None:
    x = images(2, 2, 4, 5)
    out = BandJitter(2).act(x, [{"gain": [0.9, 1.1], "offset": [0.0, 0.5]}, {"gain": [1.0, 1.0], "offset": [0.0, 0.0]}])
    assert torch.equal(out[0, 0], x[0, 0] * 0.9) and torch.equal(out[1], x[1])
    assert torch.allclose(out[0, 1], x[0, 1] * 1.1 + 0.5)
    plans = [drawn(BandJitter(2, probability=1.0, gain=(0.8, 1.5), offset=0.1), seed, 4) for seed in range(300)]
    gains, offsets = (np.array([plan[key] for plan in plans]) for key in ("gain", "offset"))
    assert gains.min() >= 0.8 and gains.max() <= 1.5 and (gains < 1).mean() == pytest.approx(0.5, abs=0.05)
    assert offsets.std() == pytest.approx(0.1, rel=0.1) and abs(offsets.mean()) < 0.01
    assert abs(np.corrcoef(gains[:, 0], gains[:, 1])[0, 1]) < 0.2
