"""The U-Net: shapes, heads, weights."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoseg import parts
from autoseg.nets.places import parse
from autoseg.nets.unet import ResEnc, UNet
from autoseg.records import Network, Part, Shape


def network(
    strides: tuple[Shape, ...], deep: bool = True, convs: tuple[int, int] = (2, 2), features: Shape = ()
) -> Network:
    encoder, decoder = (Part(name="plain", options={"convs": count}) for count in convs)
    return Network.plain(
        features or tuple(4 + 2 * i for i in range(len(strides))), strides,
        block=encoder, decoder_block=decoder, deep_supervision=deep,
    )  # fmt: skip


def unet(made: Network, channels: int, classes: int, patch: Shape = ()) -> UNet:
    return UNet(made, channels, classes, patch or made.divisor)


ANISOTROPIC = ((1, 1, 1), (1, 2, 2), (2, 2, 2), (1, 2, 1))
FLAT = ((1, 1), (2, 2), (2, 1))


@pytest.mark.parametrize("strides", [ANISOTROPIC, FLAT])
@pytest.mark.parametrize("deep", [True, False])
def test_every_head_answers_at_the_size_of_its_stage(strides: tuple[Shape, ...], deep: bool) -> None:
    net = unet(network(strides, deep), 2, 3)
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
        (out,) = unet(made, 1, 2).eval()(torch.randn(1, 1, *size))
    assert list(out.shape) == [1, 2, *size]


def test_what_is_no_multiple_is_refused() -> None:
    with pytest.raises(RuntimeError):
        unet(network(FLAT), 1, 2)(torch.randn(1, 1, 9, 8))


def test_a_single_stage_has_one_head() -> None:
    net = unet(network(((1, 1),)), 1, 2)
    x = torch.randn(2, 1, 5, 7)
    assert [tuple(output.shape) for output in net.train()(x)] == [(2, 2, 5, 7)]
    assert [tuple(output.shape) for output in net.eval()(x)] == [(2, 2, 5, 7)]


def test_the_finest_logits_are_the_same_in_training_and_prediction() -> None:
    net, x = unet(network(FLAT), 1, 2), torch.randn(1, 1, 8, 16)
    assert torch.equal(net.train()(x)[0], net.eval()(x)[0])


def test_every_weight_that_is_used_learns_and_the_coarse_heads_belong_to_their_depth() -> None:
    net = unet(network(FLAT), 1, 2).train()
    outputs = net(torch.randn(1, 1, 8, 16))
    outputs[0].square().mean().backward(retain_graph=True)
    idle = [name for name, weight in net.named_parameters() if weight.grad is None]
    assert idle == ["heads.1.weight", "heads.1.bias"]
    outputs[1].square().mean().backward()
    assert all(weight.grad is not None for weight in net.parameters())


@settings(max_examples=6, deadline=None)
@given(st.integers(0, 2**31), st.integers(0, 100))
def test_the_weights_depend_on_the_seed_alone(seed: int, drawn_before: int) -> None:
    def made(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return unet(network(FLAT), 1, 2).state_dict()

    first = made(seed)
    torch.randn(drawn_before)
    again, other = made(seed), made(seed + 1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["encoder.0.0.layers.0.weight"], other["encoder.0.0.layers.0.weight"])


@pytest.mark.parametrize(("channels", "classes", "convs"), [(1, 2, (2, 2)), (3, 5, (1, 3))])
def test_the_number_of_weights_is_that_of_the_formula(channels: int, classes: int, convs: tuple[int, int]) -> None:
    features, strides = (4, 6, 10), ((1, 1), (2, 2), (2, 1))
    net = unet(network(strides, convs=convs, features=features), channels, classes)

    def block(source: int, width: int, count: int) -> int:
        first, later = (9 * n * width + width + 2 * width for n in (source, width))  # weights, bias, norm
        return first + (count - 1) * later

    encoder = sum(block(a, b, convs[0]) for a, b in pairwise((channels, *features)))
    upward = sum(
        math.prod(stride) * coarse * fine + fine + block(2 * fine, fine, convs[1]) + fine * classes + classes
        for (fine, coarse), stride in zip(pairwise(features), strides[1:], strict=True)
    )
    assert sum(weight.numel() for weight in net.parameters()) == encoder + upward


def test_depths_count_the_blocks_of_a_stage() -> None:
    made = network(FLAT).model_copy(update={"depths": (1, 3, 2), "decoder_depths": (2, 1)})
    net = unet(made, 1, 2)
    assert [len(stage) for stage in net.encoder] == [1, 3, 2]
    assert [len(stage) for stage in net.decoder] == [2, 1]


def test_dropout_stands_at_the_end_of_every_stage_and_nowhere_else() -> None:
    net = unet(network(FLAT).model_copy(update={"dropout": 0.2}), 1, 2)
    for stage in (*net.encoder, *net.decoder):
        assert [isinstance(module, nn.Dropout2d) for module in stage] == [False, True]
    assert sum(isinstance(module, nn.Dropout2d) for module in net.modules()) == 5


@pytest.mark.parametrize("down", ["strided", "max_pool", "mean_pool"])
@pytest.mark.parametrize("up", ["transposed", "linear", "duc"])
@pytest.mark.parametrize("strides", [ANISOTROPIC, FLAT])
def test_every_way_down_and_up_keeps_the_shapes(down: str, up: str, strides: tuple[Shape, ...]) -> None:
    ways = {"downsample": Part(name=down), "upsample": Part(name=up)}
    made = network(strides).model_copy(update=ways)
    size = tuple(2 * d for d in made.divisor)
    outputs = unet(made, 1, 2).train()(torch.randn(2, 1, *size))
    assert tuple(outputs[0].shape) == (2, 2, *size) and len(outputs) == len(strides) - 1


def test_the_residual_encoder_has_the_blocks_and_the_stem_of_its_source() -> None:
    plain = Network.plain((4, 8, 8, 8, 8, 8, 8), ((1, 1), *((2, 2),) * 6), architecture=Part(name="resenc"))
    made = ResEnc.suit(plain)
    assert made.depths == (1, 3, 4, 6, 6, 6, 6) and made.decoder_depths == (1,) * 6
    net = ResEnc(made, 3, 2, made.divisor)
    assert [len(stage) for stage in net.encoder] == [1, 3, 4, 6, 6, 6, 6]
    convolutions = [m for stage in net.decoder for m in stage.modules() if isinstance(m, nn.Conv2d)]
    assert len(convolutions) == 6
    assert net.stem.layers[0].in_channels == 3 and net.stem.layers[0].out_channels == 4


@pytest.mark.parametrize("strides", [ANISOTROPIC, FLAT])
def test_inserts_at_every_place_see_the_maps_they_were_told_of(strides: tuple[Shape, ...]) -> None:
    seen: list[tuple[int, ...]] = []
    told: list[tuple[int, ...]] = []

    class Spy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tuple(x.shape[1:]))
            return x

    @parts.INSERTS.add("spy")
    def spy(channels: int, size: Shape) -> nn.Module:
        told.append((channels, *size))
        return Spy()

    places = "+".join(f"spy@{place}" for place in ("encoder", "skip", "decoder", "bottleneck", "head"))
    made = network(strides).model_copy(update={"inserts": parse(places)})
    patch = tuple(3 * d for d in made.divisor)
    unet(made, 1, 2, patch).eval()(torch.randn(1, 1, *patch))
    assert sorted(seen) == sorted(told) and len(seen) == 3 * (len(strides) - 1) + 2


def test_an_insert_acts_where_it_stands_and_only_there() -> None:
    class Nought(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.zeros_like(x)

    parts.INSERTS.add("nought")(lambda channels: Nought())
    x = torch.randn(1, 1, 8, 16)

    def output(places: str) -> torch.Tensor:
        torch.manual_seed(0)
        made = network(FLAT).model_copy(update={"inserts": parse(places)})
        (out,) = unet(made, 1, 2, (8, 16)).eval()(x)
        return out.detach()

    plain = output("")
    for place in ("encoder", "skip", "skip[1]", "decoder[1:]", "bottleneck"):
        assert not torch.equal(output(f"nought@{place}"), plain)
    head = output("nought@head")
    assert torch.equal(head, torch.zeros_like(head))  # biases start at zero
    assert torch.equal(output("nought@skip[0:2]"), output("nought@skip"))
