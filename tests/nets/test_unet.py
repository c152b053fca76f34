"""The U-Net: shapes, heads, weights."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.nets.unet import UNet
from autoseg.records import Network, Part, Shape


def network(
    strides: tuple[Shape, ...], deep: bool = True, convs: tuple[int, int] = (2, 2), features: Shape = ()
) -> Network:
    return Network(
        architecture=Part(name="unet"), block=Part(name="plain"), norm=Part(name="instance"), convs=convs,
        features=features or tuple(4 + 2 * i for i in range(len(strides))), strides=strides,
        kernels=((3,) * len(strides[0]),) * len(strides), deep_supervision=deep,
    )  # fmt: skip


ANISOTROPIC = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 1))
FLAT = ((1, 1), (2, 2), (2, 1))


@pytest.mark.parametrize("strides", [ANISOTROPIC, FLAT])
@pytest.mark.parametrize("deep", [True, False])
def test_every_head_answers_at_the_size_of_its_stage(strides: tuple[Shape, ...], deep: bool) -> None:
    net = UNet(network(strides, deep), 2, 3)
    size = tuple(2 * d for d in network(strides).divisor)
    outputs = net.train()(torch.randn(1, 2, *size))
    sizes = [size]
    for stride in strides[1:-1]:
        sizes.append(tuple(n // s for n, s in zip(sizes[-1], stride, strict=True)))
    assert [tuple(output.shape) for output in outputs] == [(1, 3, *n) for n in (sizes if deep else sizes[:1])]
    with torch.no_grad():
        assert [tuple(output.shape) for output in net.eval()(torch.randn(1, 2, *size))] == [(1, 3, *size)]


@settings(max_examples=8, deadline=None)
@given(st.data())
def test_any_multiple_of_the_divisor_goes_through(data: st.DataObject) -> None:
    dims = data.draw(st.sampled_from([2, 3]))
    stride = st.tuples(*[st.sampled_from([1, 2])] * dims)
    made = network(((1,) * dims, *data.draw(st.lists(stride, max_size=2))), features=())
    size = [d * data.draw(st.integers(1, 3)) + d * 3 for d in made.divisor]
    with torch.no_grad():
        (out,) = UNet(made, 1, 2).eval()(torch.randn(1, 1, *size))
    assert list(out.shape) == [1, 2, *size]


def test_what_is_no_multiple_is_refused() -> None:
    with pytest.raises(RuntimeError):
        UNet(network(FLAT), 1, 2)(torch.randn(1, 1, 9, 8))


def test_a_single_stage_has_one_head() -> None:
    net = UNet(network(((1, 1),)), 1, 2)
    x = torch.randn(2, 1, 5, 7)
    assert [tuple(output.shape) for output in net.train()(x)] == [(2, 2, 5, 7)]
    assert [tuple(output.shape) for output in net.eval()(x)] == [(2, 2, 5, 7)]


def test_the_finest_logits_are_the_same_in_training_and_prediction() -> None:
    net, x = UNet(network(FLAT), 1, 2), torch.randn(1, 1, 8, 16)
    assert torch.equal(net.train()(x)[0], net.eval()(x)[0])


def test_every_weight_that_is_used_learns_and_the_coarse_heads_belong_to_their_depth() -> None:
    net = UNet(network(FLAT), 1, 2).train()
    outputs = net(torch.randn(1, 1, 8, 16))
    outputs[0].square().mean().backward(retain_graph=True)
    idle = [name for name, weight in net.named_parameters() if weight.grad is None]
    assert idle == ["heads.0.weight", "heads.0.bias"]
    outputs[1].square().mean().backward()
    assert all(weight.grad is not None for weight in net.parameters())


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 100))
def test_the_weights_depend_on_the_seed_alone(seed: int, drawn_before: int) -> None:
    def made(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return UNet(network(FLAT), 1, 2).state_dict()

    first = made(seed)
    torch.randn(drawn_before)
    again, other = made(seed), made(seed + 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.0.layers.0.weight"], other["encoder.0.layers.0.weight"])


@pytest.mark.parametrize(("channels", "classes", "convs"), [(1, 2, (2, 2)), (3, 5, (1, 3))])
def test_the_number_of_weights_is_that_of_the_formula(channels: int, classes: int, convs: tuple[int, int]) -> None:
    features, strides = (4, 6, 10), ((1, 1), (2, 2), (2, 1))
    net = UNet(network(strides, convs=convs, features=features), channels, classes)

    def block(source: int, width: int, count: int) -> int:
        first, later = (9 * n * width + width + 2 * width for n in (source, width))  # weights, bias, norm
        return first + (count - 1) * later

    encoder = sum(block(a, b, convs[0]) for a, b in pairwise((channels, *features)))
    upward = sum(
        math.prod(stride) * coarse * fine + fine + block(2 * fine, fine, convs[1]) + fine * classes + classes
        for (fine, coarse), stride in zip(pairwise(features), strides[1:], strict=True)
    )
    assert sum(weight.numel() for weight in net.parameters()) == encoder + upward
