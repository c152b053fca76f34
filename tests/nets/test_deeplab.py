"""DeepLabv3+: output stride, dilation, decoder, inserts."""

from __future__ import annotations

import copy
from itertools import product
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.errors import BadPlan
from autoseg.nets import survey
from autoseg.nets.deeplab import DeepLabV3Plus
from autoseg.nets.places import parse
from autoseg.nets.stages import stage
from autoseg.records import Network, Part, Shape
from autoseg.spelling import spelled

HALVED = ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2), (2, 2))
UNEVEN = ((1, 1), (1, 2), (2, 2), (2, 2), (2, 2), (1, 2))


def suited(strides: tuple[Shape, ...] = HALVED, options: dict[str, Any] | None = None, **fields: Any) -> Network:
    features = tuple(min(16, 4 + 2 * i) for i in range(len(strides)))
    part = Part(name="deeplabv3p", options=options or {})
    return DeepLabV3Plus.suit(Network.plain(features, strides, architecture=part)).model_copy(update=fields)


def awake(net: nn.Module) -> nn.Module:
    """With every weight that starts at zero, and keeps what is behind it from learning, at a half."""
    for weight in net.parameters():
        if weight.ndim and not weight.any():
            nn.init.constant_(weight, 0.5)
    return net


@pytest.mark.parametrize("strides", [HALVED, UNEVEN, ((1, 1), (2, 1), (2, 2))])
@pytest.mark.parametrize("size", [(64, 96), (37, 50)])
def test_one_map_of_logits_has_the_size_of_the_input(strides: tuple[Shape, ...], size: Shape) -> None:
    net = survey.build(suited(strides), 2, 3, size)
    x = torch.randn(2, 2, *size)
    (logits,) = net.train()(x)
    assert logits.shape == (2, 3, *size)
    with torch.no_grad():
        (again,) = net.eval()(x)
    assert torch.allclose(again, logits, atol=1e-6)


@pytest.mark.parametrize(("options", "edge"), [({}, 16), ({"output_stride": 16}, 16), ({"output_stride": 8}, 8)])
def test_the_deepest_map_has_the_output_stride_and_the_skip_stride_4(options: dict[str, Any], edge: int) -> None:
    found = survey.survey(suited(options=options), 1, 2, (64, 128))
    sizes = {(unit.place, unit.stage): unit.size for unit in found.units}
    assert sizes["bottleneck", 5] == sizes["encoder", 5] == (64 // edge, 128 // edge)
    assert sizes["skip", 2] == sizes["decoder", 2] == (16, 32)
    assert found.outputs == ((2, 64, 128),)


def test_holding_the_resolution_takes_no_weight_more() -> None:
    counts = {survey.survey(suited(options={"output_stride": n}), 1, 2, (64, 64)).parameters for n in (8, 16)}
    assert len(counts) == 1


@pytest.mark.parametrize("block", ["plain", "residual", "dilated", "convnext(scale=1.0)"])
@pytest.mark.parametrize(("strides", "rates"), [(HALVED, {4: (2, 2), 5: (4, 4)}), (UNEVEN, {4: (1, 2), 5: (2, 4)})])
def test_a_dilated_stage_is_the_same_stage_on_every_interleaved_grid(
    strides: tuple[Shape, ...], rates: dict[int, Shape], block: str
) -> None:
    """With rate r, positions r apart see one another alone, as on a map r times smaller."""
    network = suited(strides, {"output_stride": 8}, norm=Part(name="layer"), block=spelled(block))
    net = awake(DeepLabV3Plus(network, 1, 2, (32, 32), output_stride=8))
    for i, rate in rates.items():
        source, width = network.features[i - 1 : i + 1]
        plain = stage(network, network.block, source, width, (3, 3), network.strides[i], 2, "undilated")
        plain.load_state_dict(net.encoder[i].state_dict())
        x = torch.randn(1, source, 12, 16)
        for down, right in product(range(rate[0]), range(rate[1])):
            grid = (..., slice(down, None, rate[0]), slice(right, None, rate[1]))
            assert torch.allclose(net.encoder[i](x)[grid], plain(x[grid]), atol=1e-5)


def test_stages_above_the_output_stride_are_not_dilated() -> None:
    net = DeepLabV3Plus(suited(), 1, 2, (64, 64))
    dilated = [
        i for i, one in enumerate(net.encoder) for m in one.modules() if getattr(m, "dilation", (1, 1)) != (1, 1)
    ]
    assert set(dilated) == {5}


def unit(x: Tensor, conv: nn.Module, norm: nn.Module, _: nn.Module) -> Tensor:
    """Convolution, instance norm, leaky ReLU."""
    edge = conv.weight.shape[-1]
    x = F.conv2d(x, conv.weight, conv.bias, padding=edge // 2)
    return F.leaky_relu(F.instance_norm(x, weight=norm.weight, bias=norm.bias), 0.01)


def test_the_decoder_equals_its_formula() -> None:
    torch.manual_seed(0)
    net, x = awake(DeepLabV3Plus(suited(), 1, 2, (64, 64))).eval(), torch.randn(1, 1, 64, 64)
    seen: list[Tensor] = []
    for module in (net.context, net.encoder[2]):
        module.register_forward_hook(lambda _, given, answer: seen.append(answer))
    with torch.no_grad():
        (logits,) = net(x)
        low, context = seen
        thin = unit(low, *net.project.layers)
        joined = torch.cat([F.interpolate(context, scale_factor=4.0, mode="bilinear"), thin], 1)
        first, second = net.decoder[0].layers[:3], net.decoder[0].layers[3:]
        joined = unit(unit(joined, *first), *second)
        expected = F.interpolate(F.conv2d(joined, net.head.weight, net.head.bias), size=(64, 64), mode="bilinear")
    assert torch.allclose(logits, expected, atol=1e-4)


@pytest.mark.parametrize(("stem", "width", "thin"), [(64, 256, 48), (128, 256, 48), (16, 64, 12), (1, 4, 1)])
def test_the_skip_is_to_the_context_as_48_to_256(stem: int, width: int, thin: int) -> None:
    features = (stem, 4, 4, 4)
    net = DeepLabV3Plus(suited(HALVED[:4]).model_copy(update={"features": features}), 1, 2, (32, 32))
    assert net.decoder[0].layers[0].weight.shape[:2] == (width, width + thin)
    assert net.head.weight.shape == (2, width, 1, 1)


def test_the_context_looks_twice_as_far_at_half_the_output_stride() -> None:
    def found(size: Shape, **options: Any) -> set[tuple[int, ...]]:
        net = DeepLabV3Plus(suited(options=options), 1, 2, size, **options)
        return {m.dilation for m in net.context.modules() if isinstance(m, nn.Conv2d)} - {(1, 1)}

    assert found((576, 576)) == {(6, 6), (12, 12), (18, 18)}
    assert found((576, 576), output_stride=8) == {(12, 12), (24, 24), (36, 36)}
    assert found((576, 576), rates=[2, 3]) == {(2, 2), (3, 3)}


def test_every_weight_learns() -> None:
    net = awake(DeepLabV3Plus(suited(), 1, 2, (64, 64))).train()
    net(torch.randn(2, 1, 64, 64))[0].square().mean().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_it_runs_with_channels_last_and_is_copied_after_a_pass() -> None:
    net, x = awake(DeepLabV3Plus(suited(), 2, 2, (64, 64))).eval(), torch.randn(1, 2, 64, 64)
    with torch.no_grad():
        (logits,) = net(x)
        (other,) = copy.deepcopy(net).to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert torch.allclose(logits, other, atol=1e-4)


# -- inserts ---------------------------------------------------------------------------------------------


def test_inserts_stand_at_every_stage_of_the_encoder_and_once_at_each_other_place() -> None:
    text = "se@encoder+se@skip+eca@bottleneck+se@decoder+eca@head"
    network = suited(inserts=parse(text))
    found = survey.survey(network, 1, 2, (64, 64))
    standing = {(unit.place, unit.stage): unit.inserts for unit in found.units}
    assert {key for key, names in standing.items() if names == ("se",)} == {
        *(("encoder", i) for i in range(6)), ("skip", 2), ("decoder", 2),
    }  # fmt: skip
    assert standing["bottleneck", 5] == standing["head", 2] == ("eca",)


@pytest.mark.parametrize("place", ["encoder[1:2]", "skip", "bottleneck", "decoder", "head"])
def test_an_insert_changes_what_is_answered(place: str) -> None:
    def answer(text: str) -> Tensor:
        torch.manual_seed(0)
        net = DeepLabV3Plus(suited(inserts=parse(text)), 1, 2, (64, 64)).eval()
        net.load_state_dict(weights, strict=False)
        with torch.no_grad():
            return net(x)[0]

    x, weights = torch.randn(1, 1, 64, 64), DeepLabV3Plus(suited(), 1, 2, (64, 64)).state_dict()
    assert not torch.allclose(answer(f"se@{place}"), answer(""), atol=1e-4)


def test_guided_inserts_see_every_stage_of_the_encoder() -> None:
    guided = suited(inserts=parse("global_guidance@bottleneck+global_guidance@decoder"))
    found = survey.survey(guided, 1, 2, (64, 64))
    assert [unit.place for unit in found.units if unit.inserts == ("global_guidance",)] == ["bottleneck", "decoder"]


def test_there_is_no_join() -> None:
    with pytest.raises(BadPlan, match="no place join; expected one of encoder, skip, decoder, bottleneck, head"):
        DeepLabV3Plus(suited(inserts=parse("attention_gate@join")), 1, 2, (64, 64))


# -- plans -----------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([1, 2])] * 2), min_size=1, max_size=8), st.sampled_from([8, 16]))
def test_a_suited_plan_keeps_its_strides_up_to_the_output_stride(steps: list[Shape], largest: int) -> None:
    strides = ((1, 1), *steps)
    made = suited(strides, {"output_stride": largest})
    assert Network.model_validate_json(made.model_dump_json()) == made
    assert DeepLabV3Plus.suit(made) == made
    for axis in (0, 1):
        whole = 2 ** sum(stride[axis] == 2 for stride in strides)
        assert made.divisor[axis] == min(whole, largest)
        assert all(new[axis] in (1, old[axis]) for new, old in zip(made.strides, strides, strict=True))
    assert len(made.features) == len(strides) and not made.deep_supervision


def test_volumes_are_refused() -> None:
    with pytest.raises(BadPlan, match="2D only"):
        suited(((1, 1, 1), (2, 2, 2)))


@pytest.mark.parametrize(
    ("network", "said"),
    [
        (suited(), "rates are"),
        (suited(upsample=Part(name="duc")), "upsample is duc, which deeplabv3p cannot have; expected linear"),
        (suited(deep_supervision=True), "deep_supervision is True"),
        (suited().model_copy(update={"strides": HALVED}), "strides is"),
        (suited(((1, 1), (2, 2))).model_copy(update={"features": (4,), "strides": ((1, 1),)}), "one stage"),
        (suited(block=Part(name="poolformer"), features=(4, 8, 8, 8, 8, 8)), "no convolution to dilate"),
    ],
)
def test_what_it_cannot_have_is_refused(network: Network, said: str) -> None:
    options: dict[str, Any] = {"rates": [0]} if said == "rates are" else {}
    with pytest.raises(BadPlan, match=said):
        survey.build(
            network.model_copy(update={"architecture": Part(name="deeplabv3p", options=options)}), 1, 2, (64, 64)
        )


@pytest.mark.parametrize("value", [4, 32, "16", None])
def test_another_output_stride_is_refused(value: Any) -> None:
    with pytest.raises(BadPlan, match="expected 8 or 16"):
        suited(options={"output_stride": value})
