"""What every loss of the table keeps: finite everywhere, blind to what is ignored, true to its own gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from autoseg.errors import BadPlan
from autoseg.image import IGNORE
from autoseg.losses import Loss
from autoseg.parts import LOSSES
from autoseg.records import Part

few = settings(max_examples=6, deadline=None)
seeds = st.integers(0, 10**6)
sizes = st.lists(st.integers(1, 5), min_size=2, max_size=3)
every = pytest.mark.parametrize("name", list(LOSSES))
kinds = pytest.mark.parametrize("kind", ["classes", "regions"])
OVERLAP = ("dice", "tversky", "focal_tversky")


def built(name: str, first: int = 1, **options: Any) -> Loss:
    loss: Loss = LOSSES.build(Part(name=name, options=options), first=first, weights=(0.5, 1.0, 1.5))
    return loss


def example(seed: int, *size: int, kind: str = "classes") -> tuple[Tensor, Tensor]:
    """Logits (2, 3, *size) and a target of that kind."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 3, *size, generator=generator) * 3
    shape = (2, 3, *size) if kind == "regions" else (2, *size)
    return logits, torch.randint(2 if kind == "regions" else 3, shape, generator=generator, dtype=torch.uint8)


def one_hot(target: Tensor) -> Tensor:
    if target.ndim == 4 and target.shape[1] == 3:
        return target.float()
    return torch.nn.functional.one_hot(target.long(), 3).movedim(-1, 1).float()


def gradient(loss: Loss, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """The value and the gradient."""
    leaf = logits.clone().requires_grad_()
    value = loss(leaf, target)
    (slope,) = torch.autograd.grad(value, leaf)
    return value.detach(), slope


@every
@kinds
@few
@given(seeds, sizes)
def test_a_loss_is_a_finite_scalar_with_a_finite_gradient(name: str, kind: str, seed: int, size: list[int]) -> None:
    logits, target = example(seed, *size, kind=kind)
    value, slope = gradient(built(name), logits, target)
    assert value.shape == () and value.dtype == torch.float32 and value.isfinite() and value >= 0
    assert slope.isfinite().all()


def hard_cases(kind: str) -> dict[str, tuple[Tensor, Tensor]]:
    logits, target = example(3, 4, 5, kind=kind)
    empty = torch.zeros_like(target)
    perfect = 100 * one_hot(target) - 50
    strong = (50 * logits.sign()).bfloat16().float()
    hidden = target.clone()
    hidden[1, ..., 2, 3] = IGNORE
    return {
        "perfect": (perfect, target),
        "all wrong": (-perfect, target),
        "empty": (logits, empty),
        "empty and predicted so": (100 * one_hot(empty) - 50, empty),
        "all ignored": (logits, torch.full_like(target, IGNORE)),
        "one ignored, else perfect": (perfect, hidden),
        "one sample ignored": (strong, torch.cat([target[:1], torch.full_like(target[1:], IGNORE)])),
        "strong, of half precision": (strong, target),
        "strong and empty": (strong, empty),
    }


OPTIONS: dict[str, list[dict[str, Any]]] = {
    "focal": [{"gamma": 0.5}, {"gamma": 0.0}],
    "focal_tversky": [{"gamma": 3.0}, {"gamma": 0.5}, {"over": "sample"}],
    "dice": [{"over": "sample"}, {"background": True}],
    "topk": [{"share": 1.0}, {"share": 0.001}],
}


@every
@kinds
@pytest.mark.parametrize("case", hard_cases("classes"))
def test_hard_cases_stay_finite(name: str, kind: str, case: str) -> None:
    logits, target = hard_cases(kind)[case]
    for options in [{}, *OPTIONS.get(name, [])]:
        value, slope = gradient(built(name, 0 if kind == "regions" else 1, **options), logits, target)
        assert value.isfinite() and slope.isfinite().all()
        if "perfect" in case or "predicted so" in case:
            assert float(value) == pytest.approx(0, abs=1e-4)
        if case == "all ignored":
            assert float(value) == 0 and not slope.any()
        if case == "all wrong":
            assert float(value) > (0.1 if name == "boundary" else 0.6)


@every
@kinds
@few
@given(seeds)
def test_what_is_ignored_contributes_nothing(name: str, kind: str, seed: int) -> None:
    logits, target = example(seed, 4, 5, kind=kind)
    target[0, ..., :2, :], target[1, ..., 3, :] = IGNORE, IGNORE
    ignored = (target == IGNORE if kind == "regions" else (target == IGNORE)[:, None]).expand_as(logits)
    value, slope = gradient(built(name), logits, target)
    other, _ = gradient(built(name), torch.where(ignored, logits.flip(1) * -7 + 3, logits), target)
    assert torch.equal(value, other)
    assert not slope[ignored].any() and slope.any()
    everywhere = torch.full_like(target, IGNORE)
    everywhere[..., 2, :] = target[..., 2, :]  # the row that nothing is ignored in, of the second sample alone
    kept = built(name)(logits[..., 2:3, :], everywhere[..., 2:3, :])
    assert torch.allclose(built(name)(logits, everywhere), kept, atol=1e-6)


@every
@kinds
@pytest.mark.parametrize("size", [(2, 2), (1, 2, 2)])
def test_gradients_are_those_of_finite_differences(name: str, kind: str, size: tuple[int, ...]) -> None:
    logits, target = example(1, *size, kind=kind)
    target[0, ..., 0, 0] = IGNORE
    for options in [{}, *OPTIONS.get(name, [])]:
        loss = built(name, **options)
        assert torch.autograd.gradcheck(lambda x, loss=loss: loss(x, target), logits.double().requires_grad_())


@every
@kinds
def test_a_better_prediction_costs_less(name: str, kind: str) -> None:
    _, target = example(5, 6, 6, kind=kind)
    costs = [float(built(name)((2 * one_hot(target) - 1) * scale, target)) for scale in (0, 0.5, 2, 8)]
    assert costs == sorted(costs, reverse=True) and len(set(costs)) == 4


@every
@kinds
@few
@given(seeds, st.permutations(range(2)), st.permutations(range(2, 5)), st.permutations(range(3)))
def test_no_order_matters(
    name: str, kind: str, seed: int, samples: list[int], axes: list[int], classes: list[int]
) -> None:
    """Of the samples, of the axes and their directions, and, where all of them count, of the classes."""
    logits, target = example(seed, 2, 3, 4, kind=kind)
    target[0, ..., 1, :, :2] = IGNORE
    loss, weights = built(name, first=0), (0.5, 1.0, 1.5)
    expected = loss(logits, target)
    turned = [
        x[samples].flip(-1).permute(*range(x.ndim - 3), *(a + x.ndim - 5 for a in axes)) for x in (logits, target)
    ]
    assert torch.allclose(loss(*turned), expected, atol=1e-6)
    renamed = LOSSES.build(name, first=0, weights=[weights[k] for k in classes])
    names = torch.tensor([*(classes.index(k) for k in range(3)), *[IGNORE] * 253], dtype=torch.uint8)
    moved = target[:, classes] if kind == "regions" else names[target.long()]
    assert torch.allclose(renamed(logits[:, classes], moved), expected, atol=1e-6)


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "boundary"])
@few
@given(seeds)
def test_no_neighbour_matters(name: str, seed: int) -> None:
    logits, target = example(seed, 4, 5)
    target[0, 1] = IGNORE
    order = torch.randperm(20, generator=torch.Generator().manual_seed(seed))
    shuffled = [x.flatten(-2)[..., order].unflatten(-1, (5, 4)) for x in (logits, target)]
    assert torch.allclose(built(name)(*shuffled), built(name)(logits, target), atol=1e-6)


@pytest.mark.parametrize("name", ["ce", "focal", "topk", *OVERLAP])
@few
@given(seeds)
def test_one_region_is_a_foreground_of_two_classes(name: str, seed: int) -> None:
    """The sigmoid of z is the softmax of (0, z)."""
    logits, target = example(seed, 4, 5)
    z, target = logits[:, :1], target.clamp(max=1)
    target[1, 2] = IGNORE
    two = built(name, first=1)(torch.cat([torch.zeros_like(z), z], 1), target)
    assert torch.allclose(built(name, first=0)(z, target[:, None]), two, atol=1e-6)


@every
@kinds
def test_the_width_of_the_targets_integers_does_not_matter(name: str, kind: str) -> None:
    logits, target = example(2, 4, 5, kind=kind)
    target[0, ..., 1, 1] = IGNORE
    assert torch.equal(built(name)(logits, target.long()), built(name)(logits, target))


@every
def test_the_first_class_matters_to_losses_of_overlap_alone(name: str) -> None:
    logits, target = example(4, 6, 5)
    values = {float(built(name, first=first)(logits, target)) for first in (0, 1, 2)}
    assert len(values) == (3 if name in OVERLAP else 1)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("focal", {"gamma": -1}),
        ("focal", {"gamma": "much"}),
        ("topk", {"share": 0}),
        ("topk", {"share": 1.5}),
        ("dice", {"smooth": 0}),
        ("dice", {"over": "patch"}),
        ("dice", {"background": "no"}),
        ("dice", {"alpha": 0.3}),
        ("tversky", {"alpha": -0.1}),
        ("tversky", {"alpha": 0, "beta": 0}),
        ("focal_tversky", {"gamma": 0}),
    ],
)
def test_a_value_that_means_nothing_is_refused(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(BadPlan, match=f"loss '{name}'"):
        built(name, **options)
