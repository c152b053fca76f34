"""Spatial and channel reconstruction."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from autoseg.nets.inserts.scconv import ChannelReconstruction, SCConv, SpatialReconstruction

SIZES = [(4, 5), (3, 4, 2)]


def drawn(module: nn.Module) -> None:
    """In double precision, every weight random; scales above 0, as their shares are to be."""
    torch.manual_seed(1)
    for name, weight in module.double().named_parameters():
        nn.init.normal_(weight, std=0.5)
        if name.endswith("norm.weight"):
            weight.data.abs_().add_(0.1)


def feature(channels: int, size: tuple[int, ...]) -> Tensor:
    return torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)


def matrix(convolution: nn.Module) -> Tensor:
    weight = convolution.weight
    assert isinstance(weight, Tensor) and convolution.bias is None
    return weight.flatten(1)


def weights(module: SpatialReconstruction, x: Tensor) -> Tensor:
    """The weights before the threshold, channel by channel."""
    norm, gates = module.norm, torch.zeros_like(x)
    wide = x.shape[1] // norm.num_groups
    for channel in range(x.shape[1]):
        first = channel // wide * wide
        for sample in range(len(x)):
            members = x[sample, first : first + wide]
            level = (x[sample, channel] - members.mean()) / (members.var(correction=0) + norm.eps).sqrt()
            share = norm.weight[channel] / sum(norm.weight)
            gates[sample, channel] = (share * (norm.weight[channel] * level + norm.bias[channel])).sigmoid()
    return gates


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("channels", [2, 6, 40])
@pytest.mark.parametrize("threshold", [0.5, 0.45])
def test_space_is_its_formula(size: tuple[int, ...], channels: int, threshold: float) -> None:
    module, x = SpatialReconstruction(len(size), channels, threshold, 16), feature(channels, size)
    drawn(module)
    gate = weights(module, x)
    above = gate > threshold
    assert above.any() and not above.all()
    first = x * torch.where(above, torch.ones_like(gate), gate)
    second = x * torch.where(above, torch.zeros_like(gate), gate)
    (x11, x12), (x21, x22) = first.chunk(2, 1), second.chunk(2, 1)
    assert torch.allclose(module(x), torch.cat([x11 + x22, x21 + x12], dim=1))


@pytest.mark.parametrize("channels", [1, 5, 8])
def test_all_is_informative_above_nothing_and_nothing_above_one(channels: int) -> None:
    x = feature(channels, (4, 5))
    everything, nothing = (SpatialReconstruction(2, channels, threshold, 16) for threshold in (0.0, 1.0))
    for module in (everything, nothing):
        drawn(module)
    assert torch.equal(everything(x), x)
    assert torch.allclose(nothing(x).sum(1), 2 * (x * weights(nothing, x)).sum(1))


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (2, 1), (7, 1), (16, 8), (32, 16), (48, 16), (64, 16)])
def test_no_group_has_a_single_channel(channels: int, groups: int) -> None:
    assert SCConv(2, channels).space.norm.num_groups == groups


def grouped(x: Tensor, convolution: nn.Module) -> Tensor:
    """A 3-wide convolution, every output channel from the inputs of its group alone."""
    weight, bias = convolution.weight, convolution.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    run = {4: nn.functional.conv2d, 5: nn.functional.conv3d}[x.ndim]
    reads = weight.shape[1]
    groups = x.shape[1] // reads
    out = []
    for channel in range(len(weight)):
        first = channel // (len(weight) // groups) * reads
        out.append(run(x[:, first : first + reads], weight[[channel]], bias[[channel]], padding=1))
    return torch.cat(out, dim=1)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("channels", "alpha", "upper"), [(2, 0.5, 1), (5, 0.5, 2), (8, 0.5, 4), (16, 0.25, 4)])
def test_channels_are_their_formula(size: tuple[int, ...], channels: int, alpha: float, upper: int) -> None:
    module, x = ChannelReconstruction(len(size), channels, alpha, 2, 2), feature(channels, size)
    drawn(module)
    rich_in = torch.einsum("oc,bc...->bo...", matrix(module.squeeze_upper), x[:, :upper])
    plain_in = torch.einsum("oc,bc...->bo...", matrix(module.squeeze_lower), x[:, upper:])
    rich = grouped(rich_in, module.group_wise)
    rich = rich + torch.einsum("oc,bc...->bo...", matrix(module.point_wise), rich_in)
    plain = torch.cat([torch.einsum("oc,bc...->bo...", matrix(module.fill[0]), plain_in), plain_in], dim=1)
    s1, s2 = (y.flatten(2).mean(2).exp() for y in (rich, plain))
    b1, b2 = ((s / (s1 + s2)).reshape(2, channels, *[1] * len(size)) for s in (s1, s2))
    assert torch.allclose(module(x), b1 * rich + b2 * plain)


def test_a_single_channel_goes_both_ways() -> None:
    module, x = ChannelReconstruction(2, 1, 0.5, 2, 2), feature(1, (4, 5))
    drawn(module)
    upper, lower = matrix(module.squeeze_upper).item() * x, matrix(module.squeeze_lower).item() * x
    rich = grouped(upper, module.group_wise) + matrix(module.point_wise).item() * upper
    b1 = (rich.mean((2, 3), keepdim=True) - lower.mean((2, 3), keepdim=True)).sigmoid()
    assert torch.allclose(module(x), b1 * rich + (1 - b1) * lower)


@pytest.mark.parametrize(
    ("channels", "asked", "got"), [(1, 2, 1), (4, 2, 1), (8, 2, 2), (32, 2, 2), (32, 3, 2), (48, 4, 4), (40, 4, 2)]
)
def test_as_many_groups_as_divide_the_channels(channels: int, asked: int, got: int) -> None:
    assert SCConv(3, channels, groups=asked).channel.group_wise.groups == got


def test_space_comes_before_channels_and_the_defaults_are_those_of_the_paper() -> None:
    module, x = SCConv(2, 32), feature(32, (4, 5))
    drawn(module)
    assert torch.equal(module(x), module.channel(module.space(x)))
    assert module.space.threshold == 0.5
    assert matrix(module.channel.squeeze_upper).shape == matrix(module.channel.squeeze_lower).shape == (8, 16)
