"""ConvNeXt and PoolFormer against their formulas."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.blocks.mixers import ConvNeXt, PoolFormer
from autoseg.records import Shape

SIZES = [(6, 5), (3, 4, 5), (1, 2, 4)]
sizes = pytest.mark.parametrize("size", SIZES)


def volume(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def stirred(block: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block.double()


def mixed(x: Tensor, layer: nn.Module) -> Tensor:
    """A 1-wide convolution."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    return torch.einsum("bi...,oi->bo...", x, weight.flatten(1)) + bias.reshape(-1, *(1,) * (x.ndim - 2))


def gelu(x: Tensor) -> Tensor:
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def scaled(x: Tensor, weight: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    shape = (-1, *(1,) * (x.ndim - 2))
    return x * weight.reshape(shape) + (bias.reshape(shape) if isinstance(bias, Tensor) else bias)


@sizes
def test_convnext_equals_its_formula(size: Shape) -> None:
    dims = len(size)
    block = stirred(ConvNeXt(dims, 3, 3, (1,) + (3,) * (dims - 1), (1,) * dims))
    x = volume(2, 3, *size)
    depthwise, norm, (first, _, second) = block.mix
    assert tuple(depthwise.weight.shape) == (3, 1, 1, *(7,) * (dims - 1))
    function = {2: F.conv2d, 3: F.conv3d}[dims]
    y = function(x, depthwise.weight, depthwise.bias, padding=(0, *(3,) * (dims - 1)), groups=3)
    y = (y - y.mean(1, keepdim=True)) / (y.var(1, correction=0, keepdim=True) + 1e-6).sqrt()
    y = scaled(y, norm.norm.weight, norm.norm.bias)
    assert tuple(first.weight.shape[:2]) == (12, 3)
    y = mixed(gelu(mixed(y, first)), second)
    assert torch.allclose(block(x), x + scaled(y, block.scale))


@sizes
def test_poolformer_equals_its_formula(size: Shape) -> None:
    dims = len(size)
    block = stirred(PoolFormer(dims, 3, 3, (1,) + (3,) * (dims - 1), (1,) * dims))
    x = volume(2, 3, *size)

    def normed(x: Tensor, norm: nn.Module) -> Tensor:
        flat = x.flatten(1)
        flat = (flat - flat.mean(1, keepdim=True)) / (flat.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
        return scaled(flat.reshape(x.shape), norm.weight, norm.bias)

    tokens = normed(x, block.norm1)
    means = torch.empty_like(tokens)
    for first, *rest in itertools.product(*map(range, size)):
        near = (slice(first, first + 1), *(slice(max(0, p - 1), p + 2) for p in rest))
        means[(..., first, *rest)] = tokens[(..., *near)].flatten(2).mean(2)
    y = x + scaled(means - tokens, block.scale1)
    norm, (wide, _, narrow) = block.mlp
    assert tuple(wide.weight.shape[:2]) == (12, 3)
    y = y + scaled(mixed(gelu(mixed(normed(y, norm), wide)), narrow), block.scale2)
    assert torch.allclose(block(x), y)


@pytest.mark.parametrize(("kind", "start"), [(ConvNeXt, 1e-6), (PoolFormer, 1e-5)])
def test_what_is_added_starts_small(kind: type[ConvNeXt | PoolFormer], start: float) -> None:
    torch.manual_seed(0)
    block, x = kind(2, 4, 4, (3, 3), (1, 1)), torch.randn(2, 4, 6, 6)
    scales = [parameter for name, parameter in block.named_parameters() if name.startswith("scale")]
    assert scales and all((scale == start).all() for scale in scales)
    assert 0 < float((block(x) - x).detach().abs().max()) < 100 * start
    assert torch.equal(kind(2, 4, 4, (3, 3), (1, 1), scale=0)(x), x)


@pytest.mark.parametrize("kind", [ConvNeXt, PoolFormer])
def test_a_change_of_shape_is_a_convolution_before_the_block(kind: type[ConvNeXt | PoolFormer]) -> None:
    x = torch.randn(2, 2, 5, 6)
    block = kind(2, 2, 4, (3, 1), (2, 1), scale=0)
    conv, *rest = block.enter
    assert (conv.kernel_size, conv.stride) == ((3, 1), (2, 1))
    expected = F.conv2d(x, conv.weight, conv.bias, (2, 1), (1, 0))
    if kind is ConvNeXt:
        expected = F.layer_norm(expected.movedim(1, -1), (4,), eps=1e-6).movedim(-1, 1)
    assert len(rest) == (kind is ConvNeXt)
    assert torch.allclose(block(x), expected)
    assert len(kind(2, 4, 4, (3, 3), (1, 1)).enter) == 0


def test_the_edges_and_the_expansion_are_options() -> None:
    block = ConvNeXt(3, 2, 2, (1, 3, 3), (1, 1, 1), edge=5, expansion=2)
    assert block.mix[0].kernel_size == (1, 5, 5)
    assert block.mix[2][0].out_channels == 4
    assert PoolFormer(2, 2, 2, (3, 1), (1, 1), edge=5).pool.axes == ((5, 1, 2), (1, 1, 0))
