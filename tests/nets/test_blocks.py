"""Norms, the plain block, initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from autoseg.errors import BadPlan
from autoseg.nets.blocks import Plain, group, initialise
from autoseg.records import Part

INSTANCE = Part(name="instance")


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 6), (7, 7), (8, 8), (9, 3), (12, 6), (13, 1), (32, 8)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    norm = group(3, channels)
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == groups


def test_a_block_is_convolution_norm_relu_as_often_as_asked() -> None:
    block = Plain(2, 3, 4, (3, 1), (2, 1), 3, INSTANCE)
    kinds = [nn.Conv2d, nn.InstanceNorm2d, nn.LeakyReLU] * 3
    assert [type(layer) for layer in block.layers] == kinds
    convolutions = [layer for layer in block.layers if isinstance(layer, nn.Conv2d)]
    assert [c.stride for c in convolutions] == [(2, 1), (1, 1), (1, 1)]
    assert [c.in_channels for c in convolutions] == [3, 4, 4]
    assert all(c.kernel_size == (3, 1) and c.padding == (1, 0) for c in convolutions)


def test_a_block_equals_its_formula() -> None:
    torch.manual_seed(0)
    block, x = Plain(2, 1, 1, (3, 3), (1, 1), 1, INSTANCE), torch.randn(1, 1, 5, 6)
    (convolution, *_) = block.layers
    raw = nn.functional.conv2d(x, convolution.weight, convolution.bias, padding=1).detach()
    normal = (raw - raw.mean()) / (raw.var(correction=0) + 1e-5).sqrt()
    assert torch.allclose(block(x).detach(), torch.where(normal > 0, normal, 0.01 * normal), atol=1e-6)


def test_an_unknown_norm_is_told() -> None:
    with pytest.raises(BadPlan, match="did you mean instance"):
        Plain(2, 1, 1, (3, 3), (1, 1), 1, Part(name="instanc"))


@pytest.mark.parametrize("layer", [nn.Conv2d(32, 64, 3), nn.Conv3d(16, 32, 3), nn.ConvTranspose2d(64, 64, 3)])
def test_weights_start_with_the_spread_of_he_and_no_bias(layer: nn.Conv2d) -> None:
    nn.init.constant_(layer.bias, 3.0)  # type: ignore[arg-type]
    torch.manual_seed(0)
    initialise(nn.Sequential(layer))
    fan = layer.weight.shape[1] * math.prod(layer.weight.shape[2:])
    expected = math.sqrt(2 / (1 + 0.01**2) / fan)
    assert layer.bias is not None and not layer.bias.any()
    assert float(layer.weight.detach().std()) == pytest.approx(expected, rel=0.03)
    assert abs(float(layer.weight.detach().mean())) < 0.03 * expected
