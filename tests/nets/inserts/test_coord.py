"""Coordinate attention."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import Tensor, nn

from autoseg.nets.inserts.coord import Coord

SIZES = [(4, 5), (3, 4, 2), (1, 1), (1, 3, 1)]


def drawn(dims: int, channels: int) -> Coord:
    """In double precision, every weight random."""
    torch.manual_seed(1)
    module = Coord(dims, channels).double()
    for weight in module.parameters():
        nn.init.normal_(weight, std=0.7)
    return module


def feature(channels: int, size: tuple[int, ...]) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def weights(convolution: nn.Module) -> tuple[Tensor, Tensor]:
    weight, bias = convolution.weight, convolution.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return weight[..., 0], bias


def by_formula(module: Coord, x: Tensor) -> Tensor:
    """One sample (C, *S): a descriptor per axis and place, and a product of gates per position."""
    size = x.shape[1:]
    places = [(axis, i) for axis, n in enumerate(size) for i in range(n)]
    mix, shift = weights(module.mix)
    hidden = torch.stack([mix @ x.select(axis + 1, i).flatten(1).mean(1) + shift for axis, i in places], dim=1)
    spread = (hidden - hidden.mean()) / (hidden.var(correction=0) + module.norm.eps).sqrt()
    normed = spread * module.norm.weight[:, None] + module.norm.bias[:, None]
    swish = normed * (normed + 3).clamp(0, 6) / 6
    gates = {}
    for column, (axis, i) in enumerate(places):
        weight, bias = weights(module.excite[axis])
        gates[axis, i] = (weight @ swish[:, column] + bias).sigmoid()
    out = x.clone()
    for position in product(*(range(n) for n in size)):
        for axis, i in enumerate(position):
            out[(slice(None), *position)] *= gates[axis, i]
    return out


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 6])
def test_it_is_its_formula(size: tuple[int, ...], channels: int) -> None:
    module, x = drawn(len(size), channels), feature(channels, size)
    assert torch.allclose(module(x), torch.stack([by_formula(module, sample) for sample in x]))


@pytest.mark.parametrize(("channels", "reduction", "hidden"), [(1, 32, 8), (256, 32, 8), (512, 32, 16), (64, 4, 16)])
def test_at_least_eight_channels_are_left(channels: int, reduction: int, hidden: int) -> None:
    assert weights(Coord(2, channels, reduction).mix)[0].shape == (hidden, channels)


@pytest.mark.parametrize("size", SIZES[:2])
def test_a_mirrored_axis_comes_out_mirrored(size: tuple[int, ...]) -> None:
    module, x = drawn(len(size), 6), feature(6, size)
    for axis in range(2, x.ndim):
        assert torch.allclose(module(x.flip(axis)), module(x).flip(axis))


def test_swapped_axes_are_swapped_gates() -> None:
    module, x = drawn(3, 6), feature(6, (3, 4, 2))
    expected = module(x).transpose(2, 4)
    assert not torch.allclose(module(x.transpose(2, 4)), expected)
    module.excite[0], module.excite[2] = module.excite[2], module.excite[0]
    assert torch.allclose(module(x.transpose(2, 4)), expected)
