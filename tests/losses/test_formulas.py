"""Each loss against its paper's formula written out in numpy, and against others' where they have it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoseg.errors import BadPlan
from autoseg.image import IGNORE, Array
from autoseg.losses import (
    binary_cross_entropy,
    boundary,
    build,
    cross_entropy,
    edge,
    focal,
    focal_tversky,
    frequency_weights,
    soft_dice,
    top_k,
    tversky,
    weighted_cross_entropy,
)

few = settings(max_examples=8, deadline=None)
seeds = st.integers(0, 10**6)
kinds = pytest.mark.parametrize("kind", ["classes", "regions"])
flat_and_deep = pytest.mark.parametrize("size", [(7, 6), (4, 5, 6)])


def example(seed: int, *size: int, kind: str = "classes", ignored: float = 0.0) -> tuple[Tensor, Tensor]:
    """Logits (2, 4, *size) and a target of that kind, a share of it ignored."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, *size, generator=generator) * 3
    shape, values = ((2, 4, *size), 2) if kind == "regions" else ((2, *size), 4)
    target = torch.randint(values, shape, generator=generator)
    hidden = torch.rand(shape, generator=generator) < ignored
    return logits, torch.where(hidden, IGNORE, target).to(torch.uint8)


def written_out(logits: Tensor, target: Tensor) -> tuple[Array, Array, Array]:
    """Probabilities, truth and what counts, each (B, K, *S)."""
    z, t = logits.double().numpy(), target.numpy()
    if target.ndim == logits.ndim:
        return 1 / (1 + np.exp(-z)), t == 1, t != IGNORE
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    return p, np.stack([t == k for k in range(z.shape[1])], 1), np.stack([t != IGNORE] * z.shape[1], 1)


def surprises(logits: Tensor, target: Tensor) -> tuple[Array, Array]:
    """Cross-entropy and class of every value of the target that counts, in one row."""
    p, true, counts = written_out(logits, target)
    k = np.broadcast_to(np.arange(p.shape[1]).reshape(1, -1, *[1] * (p.ndim - 2)), p.shape)
    if target.ndim == logits.ndim:
        return -np.log(np.where(true, p, 1 - p))[counts], k[counts]
    return -np.log(p[true]), k[true]


# -- means over voxels ---------------------------------------------------------------------------------


@kinds
@few
@given(seeds)
def test_the_cross_entropies_by_hand(kind: str, seed: int) -> None:
    logits, target = example(seed, 3, 4, kind=kind, ignored=0.3)
    nats, classes = surprises(logits, target)
    assert float(cross_entropy(1)(logits, target)) == pytest.approx(nats.mean(), rel=1e-4)
    weights = np.array([0.2, 1.0, 3.0, 0.5])
    expected = np.average(nats, weights=weights[classes])
    assert float(weighted_cross_entropy(1, tuple(weights))(logits, target)) == pytest.approx(expected, rel=1e-4)
    expected = ((1 - np.exp(-nats)) ** 2 * nats).mean()
    assert float(focal(1)(logits, target)) == pytest.approx(expected, rel=1e-4, abs=1e-6)
    hardest = np.sort(nats)[::-1][: max(1, round(0.3 * len(nats)))]
    assert float(top_k(1, share=0.3)(logits, target)) == pytest.approx(hardest.mean(), rel=1e-4)


@flat_and_deep
def test_the_cross_entropies_equal_torch(size: tuple[int, ...]) -> None:
    logits, target = example(0, *size, ignored=0.2)
    theirs = torch.nn.functional.cross_entropy
    assert torch.allclose(cross_entropy(1)(logits, target), theirs(logits, target.long(), ignore_index=IGNORE))
    weights = (0.2, 1.0, 3.0, 0.5)
    expected = theirs(logits, target.long(), torch.tensor(weights), ignore_index=IGNORE)
    assert torch.allclose(weighted_cross_entropy(1, weights)(logits, target), expected)
    equal = weighted_cross_entropy(1, (0.7,) * 4)(logits, target)
    assert torch.allclose(equal, cross_entropy(1)(logits, target))


@kinds
@few
@given(seeds)
def test_binary_cross_entropy_takes_every_class_against_the_rest(kind: str, seed: int) -> None:
    logits, target = example(seed, 3, 4, kind=kind, ignored=0.3)
    _, true, counts = written_out(logits, target)
    p = 1 / (1 + np.exp(-logits.double().numpy()))
    expected = -np.log(np.where(true, p, 1 - p))[counts].mean()
    assert float(binary_cross_entropy(1)(logits, target)) == pytest.approx(expected, rel=1e-4)
    if kind == "regions":
        assert torch.equal(binary_cross_entropy(1)(logits, target), cross_entropy(0)(logits, target))


@pytest.mark.parametrize("weights", [None, (1.0, 0.0), (1.0, -1.0), (1.0, math.nan), (1.0, math.inf)])
def test_weights_that_weigh_nothing_are_refused(weights: Any) -> None:
    with pytest.raises(BadPlan, match=r"loss 'wce': .*class weights"):
        build("dice+wce", 1, weights)


def test_weights_want_one_per_output() -> None:
    with pytest.raises(BadPlan, match="3 class weights for 4 outputs"):
        build("wce", 1, (1.0, 2.0, 3.0))(*example(0, 3, 4))


@pytest.mark.parametrize("gamma", [1.0, 2.0, 3.5])
def test_focal_equals_monai(gamma: float) -> None:
    from monai.losses import FocalLoss

    logits, target = example(1, 4, 5)
    theirs = FocalLoss(to_onehot_y=True, use_softmax=True, gamma=gamma)
    expected = 4 * theirs(logits, target[:, None].long())  # their mean runs over the 4 classes as well
    assert torch.allclose(focal(1, gamma)(logits, target), expected, rtol=1e-4)
    logits, target = example(1, 4, 5, kind="regions")
    assert torch.allclose(focal(0, gamma)(logits, target), FocalLoss(gamma=gamma)(logits, target.float()), rtol=1e-4)


@kinds
@few
@given(seeds)
def test_focal_of_gamma_0_is_cross_entropy_and_more_gamma_costs_less(kind: str, seed: int) -> None:
    logits, target = example(seed, 4, 5, kind=kind, ignored=0.3)
    assert torch.allclose(focal(1, gamma=0.0)(logits, target), cross_entropy(1)(logits, target))
    costs = [float(focal(1, gamma=gamma)(logits, target)) for gamma in (0.0, 0.5, 2.0, 5.0)]
    assert costs == sorted(costs, reverse=True)


@kinds
@few
@given(seeds)
def test_the_hardest_of_all_are_all_and_of_fewer_cost_more(kind: str, seed: int) -> None:
    logits, target = example(seed, 4, 5, kind=kind, ignored=0.3)
    assert torch.allclose(top_k(1, share=1.0)(logits, target), cross_entropy(1)(logits, target))
    costs = [float(top_k(1, share=share)(logits, target)) for share in (1.0, 0.5, 0.1, 0.001)]
    assert costs == sorted(costs) and costs[-1] == pytest.approx(surprises(logits, target)[0].max(), rel=1e-4)


# -- class weights -------------------------------------------------------------------------------------

numbers = st.lists(st.floats(1, 1e9), min_size=1, max_size=6)


@few
@given(numbers, st.floats(1, 100), st.floats(1e-3, 1e3))
def test_frequency_weights(counts: list[float], cap: float, scale: float) -> None:
    weights = frequency_weights(counts, cap)
    assert sum(weights) == pytest.approx(len(counts))
    assert max(weights) <= cap * min(weights) * (1 + 1e-9)
    by_count = [weight for _, weight in sorted(zip(counts, weights, strict=True))]
    assert by_count == sorted(by_count, reverse=True)
    assert frequency_weights([count * scale for count in counts], cap) == pytest.approx(weights)
    assert frequency_weights(counts[::-1], cap) == pytest.approx(weights[::-1])


@few
@given(numbers)
def test_without_a_cap_they_are_those_of_median_frequency_balancing(counts: list[float]) -> None:
    balanced = np.median(counts) / np.array(counts)
    assert frequency_weights(counts, cap=1e10) == pytest.approx(balanced / balanced.mean())


def test_a_class_that_was_never_seen_gets_the_cap() -> None:
    assert frequency_weights([900, 300, 0], cap=5) == pytest.approx((1 / 3, 3 / 3, 5 / 3))
    assert frequency_weights([0, 0]) == (1, 1)
    for counts, cap in (([], 10.0), ([-1, 2], 10.0), ([math.nan], 10.0), ([1, 2], 0.5), ([1, 2], math.inf)):
        with pytest.raises(ValueError, match=r"counts|cap"):
            frequency_weights(counts, cap)


# -- overlap -------------------------------------------------------------------------------------------


def index(logits: Tensor, target: Tensor, first: int, axes: tuple[int, ...], alpha: float, beta: float) -> Array:
    """Tversky's, per class from `first` on, with 1e-5 added above and below."""
    p, true, counts = (x[:, first:] for x in written_out(logits, target))
    hit, false, missed = ((x * counts).sum(axes) for x in (p * true, p * ~true, (1 - p) * true))
    return (hit + 1e-5) / (hit + alpha * false + beta * missed + 1e-5)


@kinds
@pytest.mark.parametrize("over", ["batch", "sample"])
@pytest.mark.parametrize("background", [False, True])
@few
@given(seeds)
def test_the_losses_of_overlap_by_hand(kind: str, over: str, background: bool, seed: int) -> None:
    logits, target = example(seed, 3, 4, kind=kind, ignored=0.3)
    where: dict[str, Any] = {"over": over, "background": background}
    axes, first = ((0, 2, 3) if over == "batch" else (2, 3)), (0 if background else 1)
    expected = 1 - index(logits, target, first, axes, 0.5, 0.5).mean()
    assert float(soft_dice(1, smooth=2e-5, **where)(logits, target)) == pytest.approx(expected, abs=1e-5)
    shortfall = 1 - index(logits, target, first, axes, 0.3, 0.7)
    assert float(tversky(1, **where)(logits, target)) == pytest.approx(shortfall.mean(), abs=1e-5)
    expected = (shortfall**0.75).mean()
    assert float(focal_tversky(1, **where)(logits, target)) == pytest.approx(expected, abs=1e-5)
    expected = (shortfall**0.5).mean()
    assert float(focal_tversky(1, gamma=2.0, **where)(logits, target)) == pytest.approx(expected, abs=1e-5)


@flat_and_deep
@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_the_losses_of_overlap_equal_monai(size: tuple[int, ...], batch: bool, background: bool) -> None:
    from monai.losses import DiceLoss, TverskyLoss

    over = "batch" if batch else "sample"
    theirs = {"batch": batch, "include_background": background, "smooth_nr": 1e-5, "smooth_dr": 1e-5}
    logits, target = example(2, *size)
    classes, known = target[:, None].long(), {"to_onehot_y": True, "softmax": True, **theirs}
    expected = DiceLoss(**known)(logits, classes)
    assert torch.allclose(soft_dice(1, over=over, background=background)(logits, target), expected, atol=1e-6)
    expected = TverskyLoss(alpha=0.2, beta=0.9, **known)(logits, classes)
    found = tversky(1, alpha=0.2, beta=0.9, over=over, background=background)(logits, target)
    assert torch.allclose(found, expected, atol=1e-6)
    logits, target = example(2, *size, kind="regions")
    expected = DiceLoss(sigmoid=True, **theirs)(logits, target.float())
    assert torch.allclose(soft_dice(1, over=over, background=background)(logits, target), expected, atol=1e-6)


@flat_and_deep
def test_dice_and_ce_equal_monai(size: tuple[int, ...]) -> None:
    from monai.losses import DiceCELoss

    theirs = DiceCELoss(
        to_onehot_y=True, softmax=True, batch=True, include_background=False, smooth_nr=1e-5, smooth_dr=1e-5
    )
    for seed in range(5):
        logits, target = example(seed, *size)
        expected = theirs(logits, target[:, None].long())
        assert torch.allclose(build("dice+ce", first=1)(logits, target), expected, atol=1e-5)


def test_tversky_with_halves_is_dice_and_without_gamma_its_focal_form_is_itself() -> None:
    logits, target = example(3, 4, 5, ignored=0.2)
    halves = tversky(1, alpha=0.5, beta=0.5, smooth=1e-5)(logits, target)
    assert torch.equal(halves, soft_dice(1, smooth=2e-5)(logits, target))
    assert torch.allclose(focal_tversky(1, gamma=1.0)(logits, target), tversky(1)(logits, target))


@few
@given(seeds)
def test_alpha_weighs_what_is_predicted_too_much_and_beta_what_is_missed(seed: int) -> None:
    _, target = example(seed, 6, 6)
    target = target.clamp(max=1)
    much = torch.stack([torch.zeros(target.shape), torch.full(target.shape, 9.0)], 1)  # foreground everywhere
    little = much.flip(1)
    mild, severe = tversky(1, alpha=0.3, beta=0.7), tversky(1, alpha=0.7, beta=0.3)
    assert mild(much, target) < severe(much, target)
    assert mild(little, target) > severe(little, target)


# -- boundaries ----------------------------------------------------------------------------------------


def rim(maps: Array) -> Array:
    """|m − the largest of the 3-wide neighbourhood|, voxel by voxel."""
    out = np.zeros_like(maps, float)
    for place in np.ndindex(maps.shape[2:]):
        near = tuple(slice(max(0, i - 1), i + 2) for i in place)
        largest = maps[(slice(None), slice(None), *near)].max(tuple(range(2, maps.ndim)))
        out[(slice(None), slice(None), *place)] = abs(maps[(slice(None), slice(None), *place)] - largest)
    return out


@flat_and_deep
def test_edges_by_hand(size: tuple[int, ...]) -> None:
    maps, _ = example(4, *size)
    assert np.allclose(edge(maps).numpy(), rim(maps.numpy()))
    disc = torch.zeros(1, 1, 5, 5)
    disc[..., 2, 2] = 1
    around = torch.zeros(5, 5)
    around[1:4, 1:4] = 1
    assert torch.equal(edge(disc)[0, 0], around - disc[0, 0])


@kinds
@flat_and_deep
def test_the_boundary_loss_by_hand(kind: str, size: tuple[int, ...]) -> None:
    logits, target = example(5, *size, kind=kind, ignored=0.2)
    p, true, counts = written_out(logits, target)
    apart = rim(np.where(counts, p, -np.inf))[counts] - rim(np.where(counts, true, -np.inf))[counts]
    assert float(boundary(1)(logits, target)) == pytest.approx((apart**2).mean(), rel=1e-4)
