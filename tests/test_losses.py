"""Losses: finite everywhere, blind to ignored voxels, equal to what others compute."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoseg.errors import BadPlan
from autoseg.image import IGNORE
from autoseg.losses import build, cross_entropy, depth_weights, focal, over_depths, soft_dice
from autoseg.parts import LOSSES
from autoseg.records import Part

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 10**6)
sizes = st.lists(st.integers(1, 5), min_size=2, max_size=3)
every = pytest.mark.parametrize("name", list(LOSSES))


def example(seed: int, *size: int, classes: int = 3, batch: int = 2) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(batch, classes, *size, generator=generator) * 3
    return logits, torch.randint(classes, (batch, *size), generator=generator, dtype=torch.uint8)


def one_hot(target: Tensor, classes: int) -> Tensor:
    return torch.nn.functional.one_hot(target.long(), classes).movedim(-1, 1).float()


# -- the contract of every loss ------------------------------------------------------------------------


@every
@few
@given(seeds, sizes)
def test_a_loss_is_a_finite_scalar_with_a_finite_gradient(name: str, seed: int, size: list[int]) -> None:
    logits, target = example(seed, *size)
    value = LOSSES.build(name, first=1)(logits.requires_grad_(), target)
    value.backward()
    assert value.shape == () and value.isfinite() and value >= 0
    assert logits.grad is not None and logits.grad.isfinite().all()


PERFECT = 100 * one_hot(example(3, 4, 4)[1], 3) - 50
HARD = {
    "perfect": (PERFECT, example(3, 4, 4)[1]),
    "all wrong": (-PERFECT, example(3, 4, 4)[1]),
    "empty classes": (example(3, 4, 4)[0], torch.zeros(2, 4, 4, dtype=torch.uint8)),
    "empty and predicted so": (100 * one_hot(torch.zeros(2, 4, 4), 3) - 50, torch.zeros(2, 4, 4, dtype=torch.uint8)),
    "all ignored": (example(3, 4, 4)[0], torch.full((2, 4, 4), IGNORE, dtype=torch.uint8)),
    "one ignored, else perfect": (
        PERFECT,
        torch.where(torch.arange(32).reshape(2, 4, 4) == 5, IGNORE, example(3, 4, 4)[1]),
    ),
}


@every
@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("options", [{}, {"gamma": 0.5}, {"gamma": 0.0}])
def test_hard_cases_stay_finite(name: str, case: str, options: dict[str, float]) -> None:
    if options and name != "focal":
        options = {}
    logits, target = HARD[case]
    logits = logits.clone().requires_grad_()
    value = LOSSES.build(Part(name=name, options=dict(options)), first=1)(logits, target)
    value.backward()
    value = value.detach()
    assert value.isfinite()
    assert logits.grad is not None and logits.grad.isfinite().all()
    if "perfect" in case or "predicted so" in case:
        assert float(value) == pytest.approx(0, abs=1e-4)
    if case == "all ignored":
        assert not logits.grad.any()
        assert float(value) == 0
    if case == "all wrong":
        assert float(value) > 0.9


@every
@few
@given(seeds)
def test_ignored_voxels_contribute_nothing(name: str, seed: int) -> None:
    logits, target = example(seed, 4, 5)
    target[0, :2], target[1, 3] = IGNORE, IGNORE
    loss = LOSSES.build(name, first=1)
    ignored = (target == IGNORE)[:, None]
    first, other = (torch.where(ignored, x, logits).requires_grad_() for x in (logits, logits.flip(1) * -7 + 3))
    values = [loss(x, target) for x in (first, other)]
    assert torch.equal(values[0], values[1])
    values[0].backward()
    assert first.grad is not None
    assert not first.grad[ignored.expand_as(first)].any()
    kept = loss(logits[..., 2:3, :], target[..., 2:3, :])  # the row that nothing is ignored in
    everywhere = torch.full_like(target, IGNORE)
    everywhere[:, 2] = target[:, 2]
    assert torch.allclose(loss(logits, everywhere), kept, atol=1e-6)


@every
@pytest.mark.parametrize("size", [(2, 2), (1, 2, 2)])
def test_gradients_are_those_of_finite_differences(name: str, size: tuple[int, ...]) -> None:
    logits, target = example(1, *size)
    target[0, 0] = IGNORE
    loss = LOSSES.build(name, first=1)
    assert torch.autograd.gradcheck(lambda x: loss(x, target), logits.double().requires_grad_())


@every
def test_a_better_prediction_costs_less(name: str) -> None:
    _, target = example(5, 6, 6)
    truth, loss = one_hot(target, 3), LOSSES.build(name, first=1)
    costs = [float(loss(truth * scale, target)) for scale in (-4, 0, 1, 4, 16)]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == 5


# -- each against another's ----------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(7, 6), (4, 5, 6)])
def test_dice_and_ce_equal_monai(size: tuple[int, ...]) -> None:
    from monai.losses import DiceCELoss

    theirs = DiceCELoss(
        to_onehot_y=True, softmax=True, batch=True, include_background=False, smooth_nr=1e-5, smooth_dr=1e-5
    )
    for seed in range(5):
        logits, target = example(seed, *size, classes=4)
        expected = theirs(logits, target[:, None].long())
        assert torch.allclose(build("dice+ce", first=1)(logits, target), expected, atol=1e-5)


@few
@given(seeds, sizes)
def test_cross_entropy_equals_torch(seed: int, size: list[int]) -> None:
    logits, target = example(seed, *size)
    expected = torch.nn.functional.cross_entropy(logits, target.long())
    assert torch.allclose(cross_entropy(1)(logits, target), expected, atol=1e-6)


@few
@given(seeds, sizes)
def test_focal_of_gamma_0_is_cross_entropy_and_more_gamma_costs_less(seed: int, size: list[int]) -> None:
    logits, target = example(seed, *size)
    target[0, 0] = IGNORE
    assert torch.allclose(focal(1, gamma=0.0)(logits, target), cross_entropy(1)(logits, target))
    costs = [float(focal(1, gamma=gamma)(logits, target)) for gamma in (0.0, 0.5, 2.0, 5.0)]
    assert costs == sorted(costs, reverse=True)


def test_focal_by_hand() -> None:
    logits = torch.tensor([[math.log(0.8), math.log(0.2)]]).reshape(1, 2, 1, 1)
    expected = 0.2**2 * -math.log(0.8)
    assert float(focal(1)(logits, torch.zeros(1, 1, 1, dtype=torch.uint8))) == pytest.approx(expected, rel=1e-5)


def test_dice_by_hand() -> None:
    logits = torch.tensor([[0.5, 0.25], [0.5, 0.75]]).log().reshape(1, 2, 1, 2)  # class 1: 0.5, 0.75
    target = torch.tensor([[[0, 1]]], dtype=torch.uint8)
    assert float(soft_dice(1, smooth=0.0)(logits, target)) == pytest.approx(1 - 1.5 / 2.25)
    both = 1 - (1.5 / 2.25 + 2 * 0.5 / 1.75) / 2
    assert float(soft_dice(0, smooth=0.0)(logits, target)) == pytest.approx(both)


def test_dice_sums_over_the_batch() -> None:
    logits, target = example(2, 4, 4)
    flat = soft_dice(1)(logits.movedim(0, 1).reshape(1, 3, 8, 4), target.reshape(1, 8, 4))
    assert torch.allclose(soft_dice(1)(logits, target), flat, atol=1e-6)


# -- the text form -------------------------------------------------------------------------------------


def test_a_text_is_a_weighted_sum() -> None:
    logits, target = example(0, 4, 4)
    dice, ce = soft_dice(1)(logits, target), cross_entropy(1)(logits, target)
    for text, expected in {
        "ce": ce,
        "dice+ce": dice + ce,
        " 0.3 * dice + 2*ce ": 0.3 * dice + 2 * ce,
        "ce+ce+0*dice": 2 * ce,
    }.items():
        assert torch.allclose(build(text, first=1)(logits, target), expected)


@pytest.mark.parametrize("text", ["", "+", "dice+", "dice ce", "-1*ce", "ce*2", "dice-ce", "0.3*", "1e3*ce", "dice(2)"])
def test_what_is_no_weighted_sum_is_refused(text: str) -> None:
    with pytest.raises(BadPlan, match="is not a weighted sum"):
        build(text, first=1)


def test_an_unknown_loss_is_named() -> None:
    with pytest.raises(BadPlan, match=r"unknown loss 'dicee' \(did you mean dice or ce\?\)"):
        build("dicee+ce", first=1)


# -- deep supervision ----------------------------------------------------------------------------------


@pytest.mark.parametrize("depths", range(1, 8))
def test_weights_halve_sum_to_one_and_end_with_none(depths: int) -> None:
    weights = depth_weights(depths)
    assert sum(weights) == pytest.approx(1) and len(weights) == depths
    used = weights if depths == 1 else weights[:-1]
    assert depths == 1 or weights[-1] == 0
    assert all(a == pytest.approx(2 * b) for a, b in itertools.pairwise(used))


def test_one_depth_is_the_loss_itself_and_the_coarsest_is_not_looked_at() -> None:
    logits, target = example(0, 8, 8)
    loss = cross_entropy(1)
    assert torch.equal(over_depths(loss, [logits], target), loss(logits, target))
    lost = torch.full((2, 3, 4, 4), math.nan)
    assert torch.equal(over_depths(loss, [logits, lost], target), loss(logits, target))


def test_coarser_depths_see_the_nearest_labels_and_ignore_stays() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.arange(16).reshape(1, 4, 4) % 3
    target[0, 3, 3] = IGNORE
    target = target.to(torch.uint8)
    fine, half, rest = (torch.randn(1, 3, n, n, generator=generator) for n in (4, 2, 1))
    loss = cross_entropy(1)
    expected = 2 / 3 * loss(fine, target) + 1 / 3 * loss(half, target[:, 1::2, 1::2])
    assert torch.allclose(over_depths(loss, [fine, half, rest], target), expected)


def test_half_precision_heads_are_summed_in_float32() -> None:
    logits, target = example(0, 8, 8)
    value = over_depths(cross_entropy(1), [logits.bfloat16()], target)
    assert value.dtype == torch.float32
    assert torch.equal(value, cross_entropy(1)(logits.bfloat16().float(), target))
