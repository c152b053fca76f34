"""Polarized self-attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoseg.nets.inserts.polarized import Polarized, PolarizedSeq

SIZES = [(4, 5), (3, 4, 2), (1, 1)]


def drawn(module: nn.Module) -> None:
    torch.manual_seed(1)
    for weight in module.double().parameters():
        nn.init.normal_(weight)


def feature(channels: int, size: tuple[int, ...]) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def matrix(convolution: nn.Module) -> Tensor:
    weight = convolution.weight
    assert isinstance(weight, Tensor) and convolution.bias is None
    return weight.flatten(1)


def share(scores: Tensor) -> Tensor:
    """Softmax of a vector."""
    return scores.exp() / scores.exp().sum()


def per_channel(module: Polarized, x: Tensor) -> Tensor:
    """One sample as (C, N): its gate (C, 1)."""
    branch = module.channel
    weight = share((matrix(branch.query) @ x)[0])
    pooled = sum(w * column for w, column in zip(weight, (matrix(branch.value) @ x).T, strict=True))
    wide = matrix(branch.widen) @ pooled
    norm = branch.norm.norm
    level = (wide - wide.mean()) / (wide.var(correction=0) + norm.eps).sqrt() * norm.weight + norm.bias
    return level.sigmoid()[:, None]


def per_position(module: Polarized, x: Tensor) -> Tensor:
    """One sample as (C, N): its gate (1, N)."""
    branch = module.position
    weight = share((matrix(branch.query) @ x).mean(1))
    return (weight @ (matrix(branch.value) @ x)).sigmoid()[None]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_parallel_is_the_sum_of_the_two_gated_maps(size: tuple[int, ...], channels: int) -> None:
    module, x = Polarized(len(size), channels), feature(channels, size)
    drawn(module)
    expected = [s * per_channel(module, s) + s * per_position(module, s) for s in x.flatten(2)]
    assert torch.allclose(module(x).flatten(2), torch.stack(expected))


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [1, 2, 5, 8])
def test_sequential_gates_the_positions_of_what_was_gated_per_channel(size: tuple[int, ...], channels: int) -> None:
    module, x = PolarizedSeq(len(size), channels), feature(channels, size)
    drawn(module)
    gated = [s * per_channel(module, s) for s in x.flatten(2)]
    assert torch.allclose(module(x).flatten(2), torch.stack([s * per_position(module, s) for s in gated]))


@pytest.mark.parametrize(("channels", "half"), [(1, 1), (2, 1), (5, 2), (64, 32)])
def test_half_the_channels_are_kept_inside(channels: int, half: int) -> None:
    module = Polarized(2, channels)
    assert matrix(module.channel.query).shape == (1, channels)
    assert matrix(module.channel.value).shape == (half, channels)
    assert matrix(module.channel.widen).shape == (channels, half)
    assert matrix(module.position.query).shape == matrix(module.position.value).shape == (half, channels)


def test_the_channel_gate_does_not_depend_on_the_size_of_the_map() -> None:
    module, x = Polarized(2, 6), feature(6, (4, 5))
    drawn(module)
    assert torch.allclose(module.channel(x), module.channel(torch.cat([x, x], dim=3)))
