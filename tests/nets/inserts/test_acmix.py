"""ACmix: both of its paths, position by position, from the paper's formulas."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autoseg.errors import BadPlan
from autoseg.nets.inserts.acmix import ACmix
from autoseg.parts import INSERTS
from autoseg.records import Part

CASES = [((5, 7), None), ((6, 4), 3), ((1, 3), None), ((3, 4, 5), None), ((2, 1, 3), 5)]
EVERY = pytest.mark.parametrize(("size", "window"), CASES)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def made(size: tuple[int, ...], window: int | None) -> ACmix:
    return ACmix(len(size), 6, size, heads=2, window=window)


def projections(insert: ACmix, x: Tensor) -> tuple[Tensor, ...]:
    """q, k and v, each (B, 2 heads, 3 channels, *S)."""
    projected = insert.project.weight.flatten(1) @ x.flatten(2) + insert.project.bias[:, None]
    return projected.reshape(len(x), 3, 2, 3, *x.shape[2:]).unbind(1)


def attention_by_hand(insert: ACmix, x: Tensor, window: int) -> Tensor:
    """softmax over the window of q · (k + W(pᵢ − pⱼ)) / √d, coordinates from −1 to 1 along every axis."""
    size, (query, key, value) = x.shape[2:], projections(insert, x)
    axes = [torch.linspace(-1, 1, n) for n in size]
    out = torch.zeros_like(value)
    for here in product(*map(range, size)):
        near = [range(max(0, h - window // 2), min(n, h + window // 2 + 1)) for h, n in zip(here, size, strict=True)]
        at = (slice(None), slice(None), slice(None))
        logits, values = [], []
        for there in product(*near):
            apart = torch.stack([axis[h] - axis[t] for axis, h, t in zip(axes, here, there, strict=True)])
            place = insert.place.weight[..., 0] @ apart
            logits.append((query[(*at, *here)] * (key[(*at, *there)] + place)).sum(-1) / 3**0.5)
            values.append(value[(*at, *there)])
        weights = torch.stack(logits).softmax(0)
        out[(*at, *here)] = (weights[..., None] * torch.stack(values)).sum(0)
    return out.reshape(x.shape)


def convolution_by_hand(insert: ACmix, x: Tensor, kernel: int) -> Tensor:
    """Per channel d of a head: a map per tap from the d-th channels of all heads of q, k and v; the sum of the maps,
    each seen from its tap, is that of every one of the channels 2d and 2d + 1."""
    size = x.shape[2:]
    heads = torch.cat(projections(insert, x), dim=1)  # (B, 6, 3, *S)
    taps = torch.einsum("tc,bcd...->bdt...", insert.connect.weight[..., 0], heads)
    padded = F.pad(taps, [kernel // 2] * 2 * len(size))
    out = torch.zeros(len(x), 3, *size)
    for tap, corner in enumerate(product(range(kernel), repeat=len(size))):
        seen = padded[:, :, tap]
        for axis, (offset, n) in enumerate(zip(corner, size, strict=True)):
            seen = seen.narrow(2 + axis, offset, n)
        out = out + seen
    return out.repeat_interleave(2, dim=1)


@EVERY
def test_it_starts_as_half_the_attention_and_half_the_convolution(size: tuple[int, ...], window: int | None) -> None:
    insert, x = made(size, window), torch.randn(2, 6, *size)
    attention = attention_by_hand(insert, x, window or {2: 7, 3: 3}[len(size)])
    expected = 0.5 * attention + 0.5 * convolution_by_hand(insert, x, 3)
    assert torch.allclose(insert(x), expected, atol=1e-5)


@EVERY
def test_the_two_are_weighed_by_what_is_learned(size: tuple[int, ...], window: int | None) -> None:
    insert, x = made(size, window), torch.randn(1, 6, *size)
    torch.nn.init.constant_(insert.alpha, -0.3)
    torch.nn.init.constant_(insert.beta, 2.0)
    attention = attention_by_hand(insert, x, window or {2: 7, 3: 3}[len(size)])
    assert torch.allclose(insert(x), 2 * convolution_by_hand(insert, x, 3) - 0.3 * attention, atol=1e-5)


def test_the_shifts_are_convolutions_of_any_kernel() -> None:
    insert, x = ACmix(2, 6, (4, 5), heads=2, kernel=5), torch.randn(1, 6, 4, 5)
    torch.nn.init.zeros_(insert.alpha)
    assert torch.allclose(insert(x), 0.5 * convolution_by_hand(insert, x, 5), atol=1e-5)


@EVERY
def test_every_parameter_learns(size: tuple[int, ...], window: int | None) -> None:
    insert = made(size, window)
    insert(torch.randn(2, 6, *size)).square().sum().backward()
    assert [name for name, p in insert.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize("options", [{"window": 4}, {"window": -1}, {"kernel": 2}, {"heads": 0}])
def test_what_cannot_be_is_refused(options: dict[str, object]) -> None:
    with pytest.raises(BadPlan, match=r"insert 'acmix': .*expected (odd numbers|1 or more)"):
        INSERTS.build(Part(name="acmix", options=options), dims=2, channels=4, size=(4, 3))
