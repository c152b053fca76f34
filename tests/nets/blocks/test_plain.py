"""Blocks without a way around them: each against its formula."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.blocks.plain import Dilated, Plain, Separable
from autoseg.nets.layers import Instance
from autoseg.records import Part

INSTANCE, LAYER = Part(name="instance"), Part(name="layer")


def volume(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def stirred(block: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block.double()


def normed(x: Tensor, norm: nn.Module) -> Tensor:
    """Instance norm and leaky ReLU by their formulas."""
    axes, shape = tuple(range(2, x.ndim)), (-1, *(1,) * (x.ndim - 2))
    weight, bias = norm.weight.reshape(shape), norm.bias.reshape(shape)
    y = (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + 1e-5).sqrt() * weight + bias
    return torch.where(y > 0, y, 0.01 * y)


def test_plain_is_convolution_norm_relu_as_often_as_asked() -> None:
    block = Plain(2, 3, 4, (3, 1), (2, 1), INSTANCE, convs=3)
    assert [type(layer) for layer in block.layers] == [nn.Conv2d, Instance, nn.LeakyReLU] * 3
    convolutions = [layer for layer in block.layers if isinstance(layer, nn.Conv2d)]
    assert [c.stride for c in convolutions] == [(2, 1), (1, 1), (1, 1)]
    assert [c.in_channels for c in convolutions] == [3, 4, 4]
    assert all(c.kernel_size == (3, 1) and c.padding == (1, 0) for c in convolutions)


def test_plain_has_two_convolutions_when_nothing_is_said() -> None:
    assert len(Plain(3, 3, 4, (3, 3, 3), (2, 2, 2), INSTANCE).layers) == 6


def test_plain_equals_its_formula() -> None:
    block, x = stirred(Plain(3, 2, 3, (1, 3, 3), (1, 2, 2), INSTANCE)), volume(2, 2, 3, 5, 6)
    c1, n1, _, c2, n2, _ = block.layers
    y = normed(F.conv3d(x, c1.weight, c1.bias, (1, 2, 2), (0, 1, 1)), n1)
    y = normed(F.conv3d(y, c2.weight, c2.bias, 1, (0, 1, 1)), n2)
    assert torch.allclose(block(x), y)


@pytest.mark.parametrize(("source", "width", "each"), [(4, 8, 1), (8, 4, 1), (1, 8, 4), (3, 16, 2), (1, 1, 1)])
def test_separable_filters_channel_by_channel_then_mixes(source: int, width: int, each: int) -> None:
    block, x = stirred(Separable(2, source, width, (3, 3), (1, 2), INSTANCE, convs=1)), volume(2, source, 5, 6)
    (depthwise, point), norm, _ = block.layers
    filtered = [
        F.conv2d(x[:, i : i + 1], depthwise.weight[i * each : (i + 1) * each], None, (1, 2), 1) for i in range(source)
    ]
    mixed = torch.einsum("bi...,oi->bo...", torch.cat(filtered, 1), point.weight[:, :, 0, 0])
    assert torch.allclose(block(x), normed(mixed + point.bias.reshape(-1, 1, 1), norm))


def test_separable_costs_a_fraction_of_plain() -> None:
    few, many = (
        sum(p.numel() for p in kind(3, 32, 64, (3, 3, 3), (2, 2, 2), INSTANCE).parameters())
        for kind in (Separable, Plain)
    )
    depthwise, point, rest = 27 * (32 + 64), 32 * 64 + 64 * 64, 2 * 3 * 64
    assert few == depthwise + point + rest
    assert few < many / 10


def test_dilated_equals_its_formula() -> None:
    block, x = stirred(Dilated(2, 2, 3, (3, 3), (2, 2), INSTANCE)), volume(2, 2, 9, 7)
    y = x
    for index, rate in enumerate((1, 2, 3)):
        conv, norm = block.layers[3 * index : 3 * index + 2]
        y = normed(F.conv2d(y, conv.weight, conv.bias, 1 if index else 2, rate, rate), norm)
    assert torch.allclose(block(x), y)


@pytest.mark.parametrize(
    ("rates", "seen"),
    [((1, 2, 3), range(-6, 7)), ((2, 2, 2), range(-6, 7, 2)), ((1,), range(-1, 2)), ((3, 1), range(-4, 5))],
)
def test_dilated_sees_without_holes_where_the_rates_are_hybrid(rates: tuple[int, ...], seen: range) -> None:
    block = stirred(Dilated(2, 1, 3, (3, 3), (1, 1), LAYER, rates=rates))
    x = volume(1, 1, 15, 15).requires_grad_()
    block(x)[0, :, 7, 7].square().sum().backward()
    assert x.grad is not None
    expected = torch.zeros(15, dtype=torch.bool)
    expected[[7 + shift for shift in seen]] = True
    assert torch.equal(x.grad[0, 0] != 0, expected[:, None] & expected)
