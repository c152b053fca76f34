"""Convolutions, norms, ways down and up: each against its formula."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.errors import BadPlan
from autoseg.nets.layers import (
    Instance,
    Layer,
    Pointwise,
    convolution,
    dividing,
    group,
    normal,
    resized,
    shuffle,
    sound,
)
from autoseg.parts import DOWNSAMPLERS, UPSAMPLERS
from autoseg.records import Part, Shape

few = settings(max_examples=10, deadline=None)
STRIDES = [(2, 2), (1, 2), (3, 2), (2, 2, 2), (1, 2, 2), (2, 1, 3)]
every_stride = pytest.mark.parametrize("stride", STRIDES)


def volume(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# -- convolutions --------------------------------------------------------------------------------------


@few
@given(st.data())
def test_a_convolution_rounds_the_shape_up(data: st.DataObject) -> None:
    dims = data.draw(st.integers(1, 3))
    size, stride = (data.draw(st.lists(st.integers(1, top), min_size=dims, max_size=dims)) for top in (9, 4))
    kernel = data.draw(st.lists(st.sampled_from([1, 3, 5]), min_size=dims, max_size=dims))
    dilation = data.draw(st.integers(1, 3))
    out = convolution(dims, 1, 2, kernel, stride, dilation=dilation)(torch.zeros(1, 1, *size))
    assert list(out.shape) == [1, 2, *(-(-n // s) for n, s in zip(size, stride, strict=True))]


def test_a_convolution_has_what_is_asked() -> None:
    made = convolution(3, 4, 6, (1, 3, 3), (1, 2, 2), dilation=2, groups=2, bias=False)
    assert isinstance(made, nn.Conv3d)
    assert (made.kernel_size, made.stride, made.padding) == ((1, 3, 3), (1, 2, 2), (0, 2, 2))
    assert (made.dilation, made.groups, made.bias) == ((2, 2, 2), 2, None)


@pytest.mark.parametrize("groups", [1, 16])
@pytest.mark.parametrize("dims", [2, 3])
def test_convolutions_start_with_the_spread_of_he_and_no_bias(dims: int, groups: int) -> None:
    torch.manual_seed(0)
    kernel = (5,) * dims if groups > 1 else (3,) * dims
    spread(convolution(dims, 32, 64, kernel, groups=groups), 32 // groups * math.prod(kernel))


@pytest.mark.parametrize("stride", [(2, 2), (1, 2, 2)])
def test_transposed_convolutions_start_so_too(stride: Shape) -> None:
    torch.manual_seed(0)
    made = UPSAMPLERS.build("transposed", dims=len(stride), channels_in=64, channels_out=64, stride=stride)
    spread(made, 64 * math.prod(stride))


def spread(layer: nn.Module, fan: int) -> None:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, Tensor) and isinstance(bias, Tensor)
    expected = math.sqrt(2 / (1 + 0.01**2) / fan)
    assert not bias.any()
    assert float(weight.detach().std()) == pytest.approx(expected, rel=0.03)
    assert abs(float(weight.detach().mean())) < 0.03 * expected


@pytest.mark.parametrize("groups", [1, 4])
def test_wide_kernels_have_gradients_whatever_memory_held_before(groups: int) -> None:
    """In bfloat16 the gradient of 7³ weights takes up what was left in memory: here NaN."""
    layer, x = convolution(3, 4, 4, 7, groups=groups), torch.randn(2, 4, 6, 6, 6)
    for _ in range(4):
        litter = [torch.full((size,), float("nan")) for size in (64, 256, 1000, 4096, 10_000, 70_000) * 20]
        del litter
        with torch.autocast("cpu", torch.bfloat16):
            layer(x).float().square().mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in layer.parameters())


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("stride", "bias"), [((1, 1, 1), True), ((1, 2, 2), False)])
def test_a_kernel_of_one_voxel_has_gradients_on_large_slices(
    stride: Shape, bias: bool, last: bool
) -> None:  # fmt: skip
    torch.manual_seed(0)
    layer = nn.Sequential(nn.Conv3d(16, 4, 1, stride, bias=bias))
    weights, x = layer[0].weight, torch.randn(2, 16, 2, 128, 128)
    exact = layer(x)  # in float32
    way = torch.randn_like(exact)
    wanted = torch.autograd.grad((exact * way).sum(), weights)[0]
    assert isinstance(sound(layer)[0], Pointwise) and layer[0].weight is weights
    assert torch.equal(layer(x), exact)
    if last:
        x = x.to(memory_format=torch.channels_last_3d)
    with torch.autocast("cpu", torch.bfloat16):
        found = layer(x)
    assert found.shape == exact.shape and found.dtype == torch.bfloat16
    assert (found - exact).norm() < 0.01 * exact.norm()
    assert (torch.autograd.grad((found * way).sum(), weights)[0] - wanted).norm() < 0.01 * wanted.norm()


def test_other_kernels_stay_as_they_are() -> None:
    others = [nn.Conv3d(4, 4, 3), nn.Conv3d(4, 4, 1, groups=2), nn.Conv3d(4, 4, 1, padding=1), nn.Conv2d(4, 4, 1)]
    assert [type(one) for one in sound(nn.Sequential(*others))] == [type(one) for one in others]


# -- norms ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(2, 3, 5, 4), (1, 2, 3, 4, 5), (2, 1, 7, 1)])
def test_instance_norm_is_torchs(shape: tuple[int, ...]) -> None:
    theirs = {4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}[len(shape)](shape[1], affine=True)
    ours, x = Instance(len(shape) - 2, shape[1]), 3 + 2 * torch.randn(shape)
    for norm in (ours, theirs):
        torch.manual_seed(1)
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert torch.allclose(ours(x), theirs(x), atol=1e-5)


def test_instance_norm_on_a_gpu_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    norm, x = Instance(3, 4), 3 + 2 * torch.randn(2, 4, 5, 6, 7)
    nn.init.normal_(norm.weight)
    expected = norm(x)
    monkeypatch.setattr(torch.Tensor, "is_cuda", property(lambda tensor: True))
    monkeypatch.setattr(F, "group_norm", None)
    assert torch.allclose(norm(x), expected, atol=1e-5)


@pytest.mark.parametrize("norm", [Instance(3, 4), group(3, 4, groups=2)])
def test_norms_keep_their_digits_with_channels_last(norm: nn.Module) -> None:
    x = 3 + 1e-3 * torch.randn(2, 4, 6, 5, 4)
    assert torch.allclose(norm(x.contiguous(memory_format=torch.channels_last_3d)), norm(x), atol=1e-4)


@pytest.mark.parametrize(("channels", "groups"), [(1, 1), (6, 6), (7, 7), (8, 8), (9, 3), (12, 6), (13, 1), (32, 8)])
def test_groups_divide_the_channels(channels: int, groups: int) -> None:
    norm = group(3, channels)
    assert isinstance(norm, nn.GroupNorm) and norm.num_groups == groups
    assert norm.num_groups == max(n for n in range(1, 9) if channels % n == 0)


@few
@given(st.integers(1, 60), st.integers(1, 60))
def test_the_largest_divisor_is_found(channels: int, most: int) -> None:
    assert dividing(channels, most) == max(n for n in range(1, most + 1) if channels % n == 0)


@pytest.mark.parametrize("size", [(3, 4), (2, 3, 2)])
def test_layer_norm_is_over_the_channels_of_each_position(size: Shape) -> None:
    norm, x = Layer(len(size), 5).double(), volume(2, 5, *size)
    weight, bias = volume(5, seed=1), volume(5, seed=2)
    norm.norm.load_state_dict({"weight": weight, "bias": bias})
    y = norm(x).detach()
    for place in itertools.product(range(2), *map(range, size)):
        one = x[(place[0], slice(None), *place[1:])]
        expected = (one - one.mean()) / (one.var(correction=0) + 1e-6).sqrt() * weight + bias
        assert torch.allclose(y[(place[0], slice(None), *place[1:])], expected)


def test_an_unknown_norm_is_told() -> None:
    with pytest.raises(BadPlan, match="did you mean instance"):
        normal(Part(name="instanc"), 2, 1)


# -- ways down -----------------------------------------------------------------------------------------


@every_stride
@pytest.mark.parametrize("name", ["max_pool", "mean_pool"])
def test_a_pool_answers_for_every_cell_also_for_cut_ones(name: str, stride: Shape) -> None:
    dims = len(stride)
    for size in ((4, 6, 6)[-dims:], (7, 5, 7)[-dims:], (1, 3, 2)[-dims:]):
        x = volume(1, 2, *size)
        y = DOWNSAMPLERS.build(name, dims=dims, channels=2, stride=stride)(x)
        coarse = [-(-n // s) for n, s in zip(size, stride, strict=True)]
        assert list(y.shape) == [1, 2, *coarse]
        for place in itertools.product(*map(range, coarse)):
            cell = x[(..., *(slice(p * s, (p + 1) * s) for p, s in zip(place, stride, strict=True)))].flatten(2)
            expected = cell.amax(2) if name == "max_pool" else cell.mean(2)
            assert torch.allclose(y[(..., *place)], expected)


def test_strided_leaves_it_to_the_block() -> None:
    assert DOWNSAMPLERS.build("strided", dims=2, channels=2, stride=(2, 2)) is None


# -- ways up -------------------------------------------------------------------------------------------


def up(name: str, stride: Shape, source: int = 3, width: int = 2) -> nn.Module:
    torch.manual_seed(0)
    made: nn.Module = UPSAMPLERS.build(
        name, dims=len(stride), channels_in=source, channels_out=width, stride=stride
    ).double()
    for parameter in made.parameters():
        nn.init.normal_(parameter)
    return made


@every_stride
@pytest.mark.parametrize("name", list(UPSAMPLERS))
def test_ways_up_multiply_the_size(name: str, stride: Shape) -> None:
    dims = len(stride)
    for size in ((2, 3, 2)[:dims], (1, 1, 1)[:dims]):
        out = up(name, stride)(volume(1, 3, *size))
        assert list(out.shape) == [1, 2, *(n * s for n, s in zip(size, stride, strict=True))]


@every_stride
def test_a_transposed_convolution_makes_a_cell_of_every_position(stride: Shape) -> None:
    made, x = up("transposed", stride), volume(2, 3, *(2, 3, 2)[: len(stride)])
    y = made(x).detach()
    for place in itertools.product(*map(range, x.shape[2:])):
        cell = y[(..., *(slice(p * s, (p + 1) * s) for p, s in zip(place, stride, strict=True)))]
        expected = torch.einsum("bi,io...->bo...", x[(..., *place)], made.weight)
        assert torch.allclose(cell, expected + made.bias.reshape(-1, *(1,) * len(stride)))


@every_stride
def test_linear_is_interpolation_then_a_convolution(stride: Shape) -> None:
    made, x = up("linear", stride), volume(2, 3, *(2, 3, 2)[: len(stride)])
    assert torch.allclose(made(x), made.mix(resized(x, [n * s for n, s in zip(x.shape[2:], stride, strict=True)])))


@every_stride
def test_duc_is_a_convolution_then_a_shuffle(stride: Shape) -> None:
    made, x = up("duc", stride), volume(2, 3, *(2, 3, 2)[: len(stride)])
    (conv,) = made.children()
    assert conv.out_channels == 2 * math.prod(stride) and set(conv.kernel_size) == {3}
    assert torch.equal(made(x), shuffle(conv(x), stride))


@few
@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 4), st.integers(1, 4))
def test_the_shuffle_is_that_of_torch_in_2d(factor: int, channels: int, height: int, width: int) -> None:
    x = volume(2, channels * factor**2, height, width)
    assert torch.equal(shuffle(x, (factor, factor)), F.pixel_shuffle(x, factor))


@every_stride
def test_the_shuffle_spreads_channels_over_the_cell(stride: Shape) -> None:
    size = (2, 3, 2)[: len(stride)]
    x = volume(2, 3 * math.prod(stride), *size)
    y = shuffle(x, stride)
    for place in itertools.product(*map(range, y.shape[2:])):
        within = 0
        for p, s in zip(place, stride, strict=True):
            within = within * s + p % s
        source = x[(slice(None), slice(within, None, math.prod(stride)))]
        assert torch.equal(y[(..., *place)], source[(..., *(p // s for p, s in zip(place, stride, strict=True)))])


# -- resizing ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "to"), [((3, 4), (7, 4)), ((4, 4), (2, 2)), ((2, 3, 4), (5, 3, 8))])
def test_resizing_is_linear_between_the_centres_of_voxels(size: Shape, to: Shape) -> None:
    x = volume(1, 2, *size)
    y = x
    for axis, (n, m) in enumerate(zip(size, to, strict=True), 2):
        at = ((torch.arange(m, dtype=torch.float64) + 0.5) * n / m - 0.5).clamp(0, n - 1)
        low = at.floor().long()
        share = (at - low).reshape(-1, *(1,) * (y.ndim - axis - 1))
        y = y.index_select(axis, low) * (1 - share) + y.index_select(axis, (low + 1).clamp(max=n - 1)) * share
    assert torch.allclose(resized(x, to), y)


def test_resizing_to_the_same_size_does_nothing() -> None:
    x = volume(1, 2, 3, 4)
    assert resized(x, (3, 4)) is x
