"""HRNet: branches, the exchange between them, the head over all, inserts."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.errors import BadPlan
from autoseg.nets import survey
from autoseg.nets.hrnet import HRNet, Parallel
from autoseg.nets.places import parse
from autoseg.records import Network, Part, Shape

HALVED = ((1, 1), (2, 2), (2, 2), (2, 2), (2, 2))
ANISOTROPIC = ((1, 1, 1), (1, 2, 2), (1, 2, 2), (2, 2, 2))


def suited(strides: tuple[Shape, ...] = HALVED, options: dict[str, Any] | None = None, **fields: Any) -> Network:
    features = tuple(4 + 2 * i for i in range(len(strides)))
    part = Part(name="hrnet", options=options or {})
    return HRNet.suit(Network.plain(features, strides, architecture=part)).model_copy(update=fields)


def awake(net: nn.Module) -> nn.Module:
    """With every weight that starts at zero, and keeps what is behind it from learning, drawn from -1 to 1."""
    for weight in net.parameters():
        if not weight.any():
            nn.init.uniform_(weight, -1, 1)
    return net


@pytest.mark.parametrize(
    ("strides", "size"),
    [(HALVED, (32, 48)), (HALVED, (33, 47)), (ANISOTROPIC, (4, 16, 24)), (ANISOTROPIC, (5, 17, 19))],
)
@pytest.mark.parametrize("stem_stride", [1, 2])
def test_one_map_of_logits_has_the_size_of_the_input(strides: tuple[Shape, ...], size: Shape, stem_stride: int) -> None:
    net = survey.build(suited(strides, {"stem_stride": stem_stride}), 2, 3, size)
    x = torch.randn(2, 2, *size)
    (logits,) = net.train()(x)
    assert logits.shape == (2, 3, *size)
    with torch.no_grad():
        (again,) = net.eval()(x)
    assert torch.allclose(again, logits, atol=1e-5)


@pytest.mark.parametrize(
    ("strides", "stem_stride", "stem", "edges"),
    [
        (HALVED, 1, (), [(32, 64), (16, 32), (8, 16), (4, 8)]),
        (HALVED, 2, (4,), [(16, 32), (8, 16), (4, 8), (2, 4)]),
        (HALVED, 4, (4, 4), [(8, 16), (4, 8), (2, 4)]),
        (ANISOTROPIC, 2, (4,), [(4, 16, 32), (4, 8, 16), (2, 4, 8)]),
        (ANISOTROPIC, 4, (4, 4), [(4, 8, 16), (2, 4, 8)]),
    ],
)
def test_step_after_step_a_resolution_joins_and_all_stay(
    strides: tuple[Shape, ...], stem_stride: int, stem: Shape, edges: list[Shape]
) -> None:
    size = (4, 32, 64)[-len(strides[0]) :]
    net = HRNet(suited(strides, {"stem_stride": stem_stride}), 1, 2, size, stem_stride=stem_stride)
    seen: list[list[Tensor]] = []
    for step in net.steps:
        step.register_forward_hook(lambda _, given, answer: seen.append(answer))
    net(torch.randn(1, 1, *size))
    widths = [4 + 2 * i for i in range(len(edges))]
    assert net.first == len(stem)
    assert [[tuple(x.shape[1:]) for x in branches] for branches in seen] == [
        [(width, *edge) for width, edge in zip(widths[: s + 1], edges[: s + 1], strict=True)] for s in range(len(edges))
    ]


@pytest.mark.parametrize("strides", [HALVED, ANISOTROPIC])
def test_the_exchange_equals_its_formula(strides: tuple[Shape, ...]) -> None:
    """y_i = act(sum over j of f_ij(x_j)): f strided 3-wide per step down, nothing at i = j, 1-wide and linear up."""
    torch.manual_seed(0)
    network = suited(strides, {"stem_stride": 1})
    dims, last = network.dims, len(network.features) - 1
    module = awake(Parallel(network, 0, last))
    module.branches = nn.ModuleList(nn.Identity() for _ in network.features)
    sizes = network.sizes((4, 16, 32)[-dims:])
    xs = [torch.randn(2, width, *size) for width, size in zip(network.features, sizes, strict=True)]
    convolve, mode = (F.conv2d, "bilinear") if dims == 2 else (F.conv3d, "trilinear")

    def unit(x: Tensor, conv: nn.Module, norm: nn.Module, stride: Shape) -> Tensor:
        padding = conv.weight.shape[-1] // 2
        return F.instance_norm(convolve(x, conv.weight, None, stride, padding), weight=norm.weight, bias=norm.bias)

    with torch.no_grad():
        answers = module(xs)
        for i, answer in enumerate(answers):
            total = xs[i].clone()
            for j, x in enumerate(xs):
                way = list(module.mixes[i].ways[j])
                if j > i:
                    assert way[0].weight.shape[2:] == (1,) * dims and len(way) == 2
                    total += F.interpolate(unit(x, *way, (1,) * dims), size=xs[i].shape[2:], mode=mode)
                for k in range(j + 1, i + 1):
                    conv, norm = way[3 * (k - j - 1) : 3 * (k - j - 1) + 2]
                    assert conv.weight.shape[2:] == (3,) * dims
                    x = unit(x if k == j + 1 else F.leaky_relu(x, 0.01), conv, norm, strides[k])
                total += x if j < i else 0
            assert torch.allclose(answer, F.leaky_relu(total, 0.01), atol=1e-5)


def test_blocks_come_before_the_exchange_in_every_branch() -> None:
    module = awake(Parallel(suited(), 1, 3))
    xs = [torch.randn(1, width, 16 >> i, 16 >> i) for i, width in enumerate(suited().features[1:4])]
    with torch.no_grad():
        done = [branch(x) for branch, x in zip(module.branches, xs, strict=True)]
        assert all(not torch.equal(a, b) for a, b in zip(done, xs, strict=True))
        for answer, mix in zip(module(xs), module.mixes, strict=True):
            assert torch.equal(answer, mix(done))


def test_the_head_looks_at_all_resolutions_at_the_finest_of_them() -> None:
    torch.manual_seed(0)
    net, x = awake(HRNet(suited(), 1, 3, (32, 32))).eval(), torch.randn(1, 1, 32, 32)
    last: list[Tensor] = []
    net.steps[-1].register_forward_hook(lambda _, given, answer: last.extend(answer))
    with torch.no_grad():
        (logits,) = net(x)
        joined = torch.cat([F.interpolate(one, size=(16, 16), mode="bilinear") for one in last], 1)
        conv, norm, _ = net.mix.layers
        assert conv.weight.shape == (28, 28, 1, 1)
        joined = F.instance_norm(F.conv2d(joined, conv.weight, conv.bias), weight=norm.weight, bias=norm.bias)
        expected = F.conv2d(F.leaky_relu(joined, 0.01), net.head.weight, net.head.bias)
        expected = F.interpolate(expected, size=(32, 32), mode="bilinear")
    assert torch.allclose(logits, expected, atol=1e-4)


def test_modules_repeat_blocks_and_exchange_in_every_step_but_the_first() -> None:
    net = HRNet(suited(), 1, 2, (32, 32), modules=3)
    assert [len(step) for step in net.steps] == [1, 3, 3, 3]
    assert net(torch.randn(2, 1, 32, 32))[0].shape == (2, 2, 32, 32)


def test_the_plan_says_the_blocks_and_how_many() -> None:
    net = HRNet(suited(block=Part(name="convnext"), depths=(2, 3, 1, 2, 1)), 1, 2, (32, 32))
    assert [sum(isinstance(m, nn.Conv2d) for m in way.modules()) for way in net.down] == [2, 1, 1, 1, 1]
    for step in net.steps:
        for i, branch in enumerate(step[0].branches, start=1):
            assert [type(block).__name__ for block in branch] == ["ConvNeXt"] * (2, 3, 1, 2, 1)[i]


@pytest.mark.parametrize("strides", [HALVED, ANISOTROPIC])
def test_every_weight_learns(strides: tuple[Shape, ...]) -> None:
    size = (4, 32, 32)[-len(strides[0]) :]
    net = awake(HRNet(suited(strides), 1, 2, size)).train()
    (net(torch.randn(2, 1, *size))[0] * torch.randn(2, 2, *size)).mean().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []


def test_it_runs_with_channels_last_and_is_copied_after_a_pass() -> None:
    net, x = awake(HRNet(suited(ANISOTROPIC), 2, 2, (4, 16, 16))).eval(), torch.randn(1, 2, 4, 16, 16)
    with torch.no_grad():
        (logits,) = net(x)
        (other,) = copy.deepcopy(net)(x.to(memory_format=torch.channels_last_3d))
    assert torch.allclose(logits, other, atol=1e-4)


# -- inserts and costs -----------------------------------------------------------------------------------


def test_inserts_stand_in_every_branch_after_every_step_and_before_the_head() -> None:
    found = survey.survey(suited(inserts=parse("se@encoder+eca@head")), 1, 2, (32, 32))
    rows = [[unit.inserts for unit in found.units if (unit.place, unit.stage) == ("encoder", i)] for i in range(5)]
    assert rows == [[()], [("se",)] * 4, [("se",)] * 3, [("se",)] * 2, [("se",)]]
    assert [unit.inserts for unit in found.units if unit.place == "head"] == [("eca",)]


def test_an_insert_can_be_kept_to_the_finest_branch() -> None:
    net = HRNet(suited(inserts=parse("se@encoder[0:1]")), 1, 2, (32, 32))
    assert set(net.inserts.at) == {"encoder_1_0", "encoder_1_1", "encoder_1_2", "encoder_1_3"}


@pytest.mark.parametrize("place", ["encoder[3:4]", "encoder[0:1]", "head"])
def test_an_insert_changes_what_is_answered(place: str) -> None:
    x, bare = torch.randn(1, 1, 32, 32), HRNet(suited(), 1, 2, (32, 32)).eval()
    net = HRNet(suited(inserts=parse(f"se@{place}")), 1, 2, (32, 32)).eval()
    net.load_state_dict(bare.state_dict(), strict=False)
    with torch.no_grad():
        assert not torch.allclose(net(x)[0], bare(x)[0], atol=1e-4)


@pytest.mark.parametrize("place", ["skip", "bottleneck", "decoder"])
def test_other_places_are_refused(place: str) -> None:
    with pytest.raises(BadPlan, match=f"no place {place}; expected one of encoder, head"):
        HRNet(suited(inserts=parse(f"se@{place}")), 1, 2, (32, 32))


def test_every_unit_answers_at_the_size_of_its_row() -> None:
    network = suited(ANISOTROPIC)
    found = survey.survey(network, 1, 2, (4, 16, 32))
    assert all(unit.size == network.sizes((4, 16, 32))[unit.stage] for unit in found.units)
    assert sum(unit.parameters for unit in found.units) == found.parameters
    assert sum(unit.flops for unit in found.units) == found.flops


# -- plans -----------------------------------------------------------------------------------------------


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(*[st.sampled_from([1, 2])] * 3), min_size=1, max_size=7), st.sampled_from([1, 2, 4]))
def test_a_suited_plan_has_two_to_four_resolutions_from_the_stem_on(steps: list[Shape], stem_stride: int) -> None:
    strides = ((1, 1, 1), *steps)
    halvings = [max(sum(s[axis] == 2 for s in strides[: i + 1]) for axis in range(3)) for i in range(len(strides))]
    reached = [i for i, count in enumerate(halvings) if 2**count == stem_stride]
    if not reached or reached[0] == len(steps):
        with pytest.raises(BadPlan, match="smaller stem_stride"):
            suited(strides, {"stem_stride": stem_stride})
        return
    made = suited(strides, {"stem_stride": stem_stride})
    assert Network.model_validate_json(made.model_dump_json()) == made
    assert made.strides == strides[: reached[0] + 4]
    assert made.features[: reached[0] + 1] == (4,) * (reached[0] + 1)
    assert not made.deep_supervision


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"upsample": Part(name="transposed")}, "upsample is transposed, which hrnet cannot have; expected linear"),
        ({"downsample": Part(name="max_pool")}, "downsample is max_pool"),
        ({"deep_supervision": True}, "deep_supervision is True"),
        ({"architecture": Part(name="hrnet", options={"modules": 0})}, "modules is 0"),
        ({"architecture": Part(name="hrnet", options={"stem_stride": 3})}, "expected 1, 2 or 4"),
        ({"block": Part(name="bottle")}, "did you mean bottleneck"),
    ],
)
def test_what_it_cannot_have_is_refused(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        survey.build(suited(**fields), 1, 2, (32, 32))
