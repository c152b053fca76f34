"""Blocks with a way around them: each against its formula."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.blocks.residual import Bottleneck, PreAct, Residual, ResNeXt
from autoseg.records import Part, Shape

INSTANCE = Part(name="instance")
SHAPES = [  # channels in and out, kernel, stride, size
    (3, 4, (3, 3), (2, 2), (5, 6)),
    (4, 4, (3, 3), (1, 2), (5, 7)),
    (4, 4, (1, 3), (1, 1), (4, 3)),
    (3, 4, (1, 3, 3), (1, 2, 2), (3, 5, 4)),
    (4, 4, (3, 3, 3), (1, 1, 1), (2, 3, 3)),
]
shapes = pytest.mark.parametrize(("source", "width", "kernel", "stride", "size"), SHAPES)


def volume(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def stirred(block: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in block.parameters():
        nn.init.normal_(parameter)
    return block.double()


# -- the formulas --------------------------------------------------------------------------------------


def conv(x: Tensor, layer: nn.Module, stride: Sequence[int] = (), groups: int = 1) -> Tensor:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor)
    kernel = weight.shape[2:]
    function = {2: F.conv2d, 3: F.conv3d}[len(kernel)]
    out: Tensor = function(x, weight, bias, tuple(stride) or 1, [k // 2 for k in kernel], 1, groups)
    return out


def norm(x: Tensor, layer: nn.Module) -> Tensor:
    axes, shape = tuple(range(2, x.ndim)), (-1, *(1,) * (x.ndim - 2))
    weight, bias = layer.weight.reshape(shape), layer.bias.reshape(shape)
    out: Tensor = (x - x.mean(axes, keepdim=True)) / (x.var(axes, correction=0, keepdim=True) + 1e-5).sqrt()
    return out * weight + bias


def act(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


def cells(x: Tensor, stride: Sequence[int]) -> Tensor:
    """The mean of each cell of the stride, of cut cells that of what is left."""
    coarse = [-(-n // s) for n, s in zip(x.shape[2:], stride, strict=True)]
    out = x.new_empty(*x.shape[:2], *coarse)
    for place in itertools.product(*map(range, coarse)):
        cell = x[(..., *(slice(p * s, (p + 1) * s) for p, s in zip(place, stride, strict=True)))]
        out[(..., *place)] = cell.flatten(2).mean(2)
    return out


def around(x: Tensor, block: nn.Module, stride: Sequence[int], normal: bool = True) -> Tensor:
    """The shortcut as it is where the shape stays; else mean of the cells, convolution without bias, norm."""
    skip = block.skip
    assert isinstance(skip, nn.Sequential)
    x = cells(x, stride)
    if "conv" in dict(skip.named_children()):
        assert skip.conv.bias is None
        x = conv(x, skip.conv)
        x = norm(x, skip.norm) if normal else x
    return x


@shapes
def test_residual_equals_its_formula(source: int, width: int, kernel: Shape, stride: Shape, size: Shape) -> None:
    block, x = stirred(Residual(len(size), source, width, kernel, stride, INSTANCE)), volume(2, source, *size)
    y = act(norm(conv(x, block.conv1, stride), block.norm1))
    y = norm(conv(y, block.conv2), block.norm2)
    assert torch.allclose(block(x), act(y + around(x, block, stride)))


@shapes
def test_preact_equals_its_formula(source: int, width: int, kernel: Shape, stride: Shape, size: Shape) -> None:
    block, x = stirred(PreAct(len(size), source, width, kernel, stride, INSTANCE)), volume(2, source, *size)
    y = conv(act(norm(x, block.norm1)), block.conv1, stride)
    y = conv(act(norm(y, block.norm2)), block.conv2)
    assert torch.allclose(block(x), y + around(x, block, stride, normal=False))


@shapes
def test_a_bottleneck_equals_its_formula(source: int, width: int, kernel: Shape, stride: Shape, size: Shape) -> None:
    block = stirred(Bottleneck(len(size), source, 3 * width, kernel, stride, INSTANCE))
    x = volume(2, source, *size)
    middle, middle_norm, _ = block.middle
    assert middle.weight.shape == (3 * width // 4, 3 * width // 4, *kernel)
    y = act(norm(conv(x, block.conv1), block.norm1))
    y = act(norm(conv(y, middle, stride), middle_norm))
    y = norm(conv(y, block.conv3), block.norm3)
    assert torch.allclose(block(x), act(y + around(x, block, stride)))


@shapes
@pytest.mark.parametrize("cardinality", [2, 3, 32])
def test_resnext_is_the_sum_of_its_paths(
    source: int, width: int, kernel: Shape, stride: Shape, size: Shape, cardinality: int
) -> None:
    block = stirred(ResNeXt(len(size), source, 3 * width, kernel, stride, INSTANCE, cardinality))
    x = volume(2, source, *size)
    middle, middle_norm, _ = block.middle
    inner = 3 * width // 2
    groups = max(n for n in range(1, cardinality + 1) if inner % n == 0)
    assert middle.groups == groups
    reduced = act(norm(conv(x, block.conv1), block.norm1))
    strided = act(norm(conv(reduced, middle, stride, groups), middle_norm))
    total = block.conv3.bias.reshape(-1, *(1,) * len(size))
    for share in torch.arange(inner).chunk(groups):
        total = total + torch.einsum("bi...,oi->bo...", strided[:, share], block.conv3.weight.flatten(1)[:, share])
    for share in torch.arange(inner).chunk(groups):  # a path sees its own channels alone
        weight, bias = middle.weight[share], middle.bias[share]
        alone = nn.Module()
        alone.weight, alone.bias = nn.Parameter(weight.detach()), nn.Parameter(bias.detach())
        assert torch.allclose(conv(reduced[:, share], alone, stride), conv(reduced, middle, stride, groups)[:, share])
    assert torch.allclose(block(x), act(norm(total, block.norm3) + around(x, block, stride)))


# -- what they start as --------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Residual, Bottleneck, ResNeXt])
@pytest.mark.parametrize("norms", ["instance", "batch", "group", "layer"])
def test_a_block_starts_as_its_shortcut_unless_told_otherwise(kind: type[nn.Module], norms: str) -> None:
    context = {"channels_in": 4, "channels_out": 8, "kernel": (3, 3), "stride": (2, 2), "norm": Part(name=norms)}
    x = torch.randn(2, 4, 5, 6)
    block = kind(dims=2, **context)
    assert torch.equal(block(x), act(block.skip(x)))
    block = kind(dims=2, **context, zero_init=False)
    assert not torch.allclose(block(x), act(block.skip(x)))


def test_where_the_shape_stays_the_way_around_is_the_identity() -> None:
    for kind in (Residual, PreAct, Bottleneck, ResNeXt):
        block = kind(3, 4, 4, (3, 3, 3), (1, 1, 1), INSTANCE)
        assert len(block.skip) == 0
    block = PreAct(2, 4, 4, (3, 3), (1, 1), INSTANCE)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 5, 6)
    assert torch.equal(block(x), x)


def test_the_names_of_a_residual_block_are_kept() -> None:
    """Pretrained weights are found by them."""
    names = set(Residual(3, 2, 4, (3, 3, 3), (2, 2, 2), INSTANCE).state_dict())
    assert names == {
        *(f"{layer}.{kind}" for layer in ("conv1", "norm1", "conv2", "norm2") for kind in ("weight", "bias")),
        "skip.conv.weight", "skip.norm.weight", "skip.norm.bias",
    }  # fmt: skip


@pytest.mark.parametrize(("width", "squeeze", "inner"), [(64, 4, 16), (64, 2, 32), (3, 4, 1), (9, 4, 2)])
def test_a_bottleneck_is_never_empty(width: int, squeeze: int, inner: int) -> None:
    block = Bottleneck(2, 4, width, (3, 3), (1, 1), INSTANCE, squeeze=squeeze)
    assert block.conv1.weight.shape[0] == inner
