"""Split attention against the formula of its paper."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.nets.blocks.resnest import ResNeSt, SplitAttention
from autoseg.records import Part, Shape

INSTANCE = Part(name="instance")


def volume(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def stirred(module: nn.Module) -> nn.Module:
    torch.manual_seed(1)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double()


def act(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, 0.01 * x)


@pytest.mark.parametrize(("radix", "cardinality"), [(2, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("size", [(4, 5), (2, 3, 3)])
def test_splits_are_weighed_against_each_other_in_every_cardinal_group(
    radix: int, cardinality: int, size: Shape
) -> None:
    """Zhang 2020, equations 1 and 2, one cardinal group and one channel after the other."""
    dims, channels = len(size), 12
    module = stirred(SplitAttention(dims, channels, (3,) * dims, INSTANCE, radix, cardinality))
    x = volume(2, channels, *size)
    conv, norm, _ = module.splits
    function = {2: F.conv2d, 3: F.conv3d}[dims]
    share, taken = channels // cardinality, channels // (cardinality * radix)
    splits = []  # per split: all cardinal groups
    for r in range(radix):
        paths = []
        for k in range(cardinality):
            g = r * cardinality + k
            rows = slice(g * share, (g + 1) * share)
            paths.append(function(x[:, g * taken : (g + 1) * taken], conv.weight[rows], conv.bias[rows], padding=1))
        splits.append(torch.cat(paths, 1))
    normed = F.instance_norm(torch.cat(splits, 1), weight=norm.weight, bias=norm.bias)
    splits = list(act(normed).chunk(radix, 1))
    descriptor = torch.stack(splits).sum(0).flatten(2).mean(2)
    first, group, _, second = module.weigh
    hidden = len(first.weight) // cardinality
    squeezed = [
        descriptor[:, k * share : (k + 1) * share] @ first.weight.flatten(1)[k * hidden : (k + 1) * hidden].T
        for k in range(cardinality)
    ]
    mid = act(F.group_norm(torch.cat(squeezed, 1) + first.bias, group.num_groups, group.weight, group.bias))
    expected = torch.zeros_like(splits[0])
    for k, c in itertools.product(range(cardinality), range(share)):
        rows = [k * share * radix + r * share + c for r in range(radix)]
        within = mid[:, k * hidden : (k + 1) * hidden]
        scores = torch.stack([within @ second.weight.flatten(1)[row] + second.bias[row] for row in rows], 1)
        weights = scores.exp() / scores.exp().sum(1, keepdim=True)
        for r in range(radix):
            weight = weights[:, r].reshape(-1, *(1,) * dims)
            expected[:, k * share + c] += weight * splits[r][:, k * share + c]
    assert torch.allclose(module(x), expected)


def test_equal_splits_come_out_as_one_of_them() -> None:
    module, x = stirred(SplitAttention(2, 4, (3, 3), INSTANCE, 2, 1)), volume(2, 2, 5, 5).repeat(1, 2, 1, 1)
    for layer in module.splits[:2]:
        for parameter in layer.parameters():
            parameter.data[4:] = parameter.data[:4]
    assert torch.allclose(module(x), module.splits(x)[:, :4])


@pytest.mark.parametrize("stride", [(1, 1), (2, 1), (2, 2), (3, 2), (1, 2, 2)])
def test_the_stride_is_a_mean_of_neighbours_behind_the_attention(stride: Shape) -> None:
    dims = len(stride)
    block = stirred(ResNeSt(dims, 4, 16, (3,) * dims, stride, INSTANCE))
    x = volume(1, 4, *(5, 6, 4)[:dims])
    flat = block.middle[0](x)
    pooled = block.middle(x)
    assert list(pooled.shape[2:]) == [-(-n // s) for n, s in zip(x.shape[2:], stride, strict=True)]
    for place in itertools.product(*map(range, pooled.shape[2:])):
        near = [slice(max(0, p * s - (s > 1)), p * s + 1 + (s > 1)) for p, s in zip(place, stride, strict=True)]
        assert torch.allclose(pooled[(..., *place)], flat[(..., *near)].flatten(2).mean(2))


def test_the_block_is_the_bottleneck_around_it() -> None:
    block, x = stirred(ResNeSt(2, 3, 16, (3, 3), (2, 2), INSTANCE)), volume(2, 3, 5, 6)
    inner = block.middle(act(block.norm1(block.conv1(x))))
    assert torch.equal(block(x), act(block.norm3(block.conv3(inner)) + block.skip(x)))
    fresh = ResNeSt(2, 3, 16, (3, 3), (2, 2), INSTANCE).double()
    assert torch.equal(fresh(x), act(fresh.skip(x)))


@pytest.mark.parametrize(
    ("width", "options", "inner", "groups"),
    [(64, {}, 16, 2), (4, {}, 2, 2), (36, {"cardinality": 4}, 10, 2), (64, {"radix": 4, "cardinality": 4}, 16, 16)],
)
def test_the_groups_fit_the_width(width: int, options: dict[str, int], inner: int, groups: int) -> None:
    """36 channels leave 9, which two splits do not share: 10, of which 5 per split make one cardinal group."""
    conv = ResNeSt(2, 4, width, (3, 3), (1, 1), INSTANCE, **options).middle[0].splits[0]
    assert (conv.in_channels, conv.groups) == (inner, groups)


def test_a_map_of_one_position_has_a_descriptor() -> None:
    block = ResNeSt(2, 4, 8, (3, 3), (2, 2), Part(name="layer"), zero_init=False)
    assert block.train()(torch.randn(1, 4, 2, 2)).isfinite().all()
