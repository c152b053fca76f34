"""UNet++: nodes and parameters by formula, the nested recursion, heads, pruning."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from autoseg.errors import BadPlan
from autoseg.nets.places import parse
from autoseg.nets.survey import build, survey
from autoseg.nets.unetpp import UNetPP
from autoseg.parts import INSERTS, JOINS
from autoseg.records import Network, Part, Shape

DEEP = ((1, 1, 1), (1, 2, 2), (2, 1, 1), (1, 2, 1))
FLAT = ((1, 1), (2, 2), (2, 1))
EVERYWHERE = "scaled@encoder+scaled@skip+mixed@join+scaled@decoder+scaled@bottleneck+scaled@head"


def network(strides: Sequence[Shape], inserts: str = "", deep: bool = True, **options: object) -> Network:
    return Network.plain(
        tuple(3 + 2 * i for i in range(len(strides))), tuple(strides), inserts=parse(inserts), deep_supervision=deep,
        architecture=Part(name="unetpp", options=options),
    )  # fmt: skip


def unetpp(made: Network, channels: int = 2, classes: int = 3) -> UNetPP:
    torch.manual_seed(0)
    module = build(made, channels, classes, patch(made))
    assert isinstance(module, UNetPP)
    return module


def patch(made: Network) -> Shape:
    return tuple(2 * d for d in made.divisor)


def images(made: Network, channels: int = 2) -> Tensor:
    return torch.randn(2, channels, *patch(made), generator=torch.Generator().manual_seed(1))


class Scaled(nn.Module):
    """Every channel times a weight of its own, of which no two sites have the same."""

    def __init__(self, channels: int, dims: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + torch.rand(channels, *(1,) * dims))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


class Mixed(nn.Module):
    """A weighted sum of skip and decoder feature: half the channels of a concatenation."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels_out, self.weight = channels, nn.Parameter(torch.rand(2))

    def forward(self, skip: Tensor, up: Tensor) -> Tensor:
        return self.weight[0] * skip + self.weight[1] * up


class Guided(nn.Module):
    """Times a weighted sum of the means of all encoder features."""

    def __init__(self, encoder: Sequence[tuple[int, Shape]]) -> None:
        super().__init__()
        self.weight = nn.Parameter(1 + torch.rand(len(encoder)))

    def forward(self, x: Tensor, features: Sequence[Tensor]) -> Tensor:
        means = torch.stack([feature.mean() for feature in features])
        return x * (1 + (self.weight * means).sum())


@pytest.fixture(autouse=True)
def _inserts() -> None:
    INSERTS.add("scaled")(Scaled)
    INSERTS.add("guided")(Guided)
    JOINS.add("mixed")(Mixed)


# -- what it is made of --------------------------------------------------------------------------------


def block(source: int, width: int, kernel: int) -> int:
    """Parameters of two convolutions with bias and two norms with scale and shift."""
    return (source + width) * width * kernel + 2 * width + 4 * width


@pytest.mark.parametrize("strides", [DEEP, FLAT, ((1, 1),)])
def test_nodes_and_parameters_are_those_of_the_formula(strides: tuple[Shape, ...]) -> None:
    made, channels, classes = network(strides), 2, 3
    net, width, last = unetpp(made), made.features, len(strides) - 1
    kernel = 3**made.dims
    count = sum(block(([channels, *width])[i], width[i], kernel) for i in range(last + 1))
    for i in range(last):
        for j in range(1, last - i + 1):
            count += width[i + 1] * width[i] * prod(strides[i + 1]) + width[i]  # the way up
            count += block((j + 1) * width[i], width[i], kernel)
    count += max(1, last) * (width[0] * classes + classes)
    assert sum(weight.numel() for weight in net.parameters()) == count
    assert len(net.encoder) + len(net.decoder) == (last + 1) * (last + 2) // 2
    assert len(net.upsample) == len(net.decoder)


@pytest.mark.parametrize("strides", [DEEP, FLAT])
@pytest.mark.parametrize("inserts", ["", EVERYWHERE])
def test_its_survey_counts_every_parameter_in_one_node(strides: tuple[Shape, ...], inserts: str) -> None:
    made = network(strides, inserts)
    found, last = survey(made, 2, 3, patch(made)), len(strides) - 1
    assert found.outputs == ((3, *patch(made)),) * last
    assert sum(unit.parameters for unit in found.units) == found.parameters
    nodes = [unit for unit in found.units if unit.place in ("encoder", "bottleneck", "decoder")]
    assert len(nodes) == (last + 1) * (last + 2) // 2
    sizes = made.sizes(patch(made))
    assert all((unit.channels, unit.size) == (made.features[unit.stage], sizes[unit.stage]) for unit in nodes)
    assert all(unit.inserts for unit in found.units) == bool(inserts)


# -- what it computes ----------------------------------------------------------------------------------


def plain(state: dict[str, Tensor], name: str, x: Tensor, stride: Sequence[int]) -> Tensor:
    """Twice convolution, instance norm, leaky ReLU, with the weights of one node."""
    convolved = {4: F.conv2d, 5: F.conv3d}[x.ndim]
    for layer, step in ((0, tuple(stride)), (3, (1,) * len(stride))):
        weights = [state[f"{name}.0.layers.{n}.{kind}"] for n in (layer, layer + 1) for kind in ("weight", "bias")]
        x = convolved(x, weights[0], weights[1], step, 1)
        x = F.leaky_relu(F.instance_norm(x, weight=weights[2], bias=weights[3]), 0.01)
    return x


def node(state: dict[str, Tensor], strides: Sequence[Shape], i: int, j: int, x: Tensor) -> Tensor:
    """X(i, j) = H([X(i, 0) ... X(i, j-1), U(X(i+1, j-1))]), X(i, 0) = H(D(X(i-1, 0))) (Zhou 2020, equation 1)."""
    if j == 0:
        below = node(state, strides, i - 1, 0, x) if i else x
        return plain(state, f"encoder.{i}", below, strides[i])
    up, transposed = f"upsample.{i}_{j}", {4: F.conv_transpose2d, 5: F.conv_transpose3d}[x.ndim]
    deeper = node(state, strides, i + 1, j - 1, x)
    raised = transposed(deeper, state[f"{up}.weight"], state[f"{up}.bias"], strides[i + 1])
    row = [node(state, strides, i, k, x) for k in range(j)]
    return plain(state, f"decoder.{i}_{j}", torch.cat([raised, row[-1], *row[:-1]], 1), (1,) * len(strides[0]))


@pytest.mark.parametrize("strides", [DEEP, FLAT, ((1, 1), (2, 2))])
def test_it_equals_the_recursion(strides: tuple[Shape, ...]) -> None:
    made, last = network(strides), len(strides) - 1
    net, x = unetpp(made).train(), images(made)
    state = {name: value.detach() for name, value in net.state_dict().items()}
    head = F.conv3d if made.dims == 3 else F.conv2d
    for j, logits in zip(range(last, 0, -1), net(x), strict=True):
        expected = head(node(state, strides, 0, j, x), state[f"heads.{j}.weight"], state[f"heads.{j}.bias"])
        assert torch.allclose(logits, expected, atol=1e-4)


def standing(net: UNetPP, name: str, x: Tensor) -> Tensor:
    for module in net.inserts.at[name]:  # type: ignore[union-attr]
        x = module(x)
    return x


def stands(net: UNetPP, i: int, j: int, x: Tensor) -> Tensor:
    """X(i, j) with what stands everywhere; X(i, 0) before the inserts of its skip."""
    last = len(net.encoder) - 1
    if j == 0:
        below = stands(net, i - 1, 0, x) if i else x
        return standing(net, f"encoder_{i}" if i < last else f"bottleneck_{i}", net.encoder[i](below))
    row = [standing(net, f"skip_{i}", stands(net, i, 0, x)), *(stands(net, i, k, x) for k in range(1, j))]
    weight = net.inserts.at[f"join_{i}_{j}"].weight
    joined = weight[0] * row[-1] + weight[1] * net.upsample[f"{i}_{j}"](stands(net, i + 1, j - 1, x))
    return standing(net, f"decoder_{i}_{j}", net.decoder[f"{i}_{j}"](torch.cat([joined, *row[:-1]], 1)))


@pytest.mark.parametrize("strides", [DEEP, FLAT])
def test_inserts_stand_at_every_node(strides: tuple[Shape, ...]) -> None:
    made = network(strides, EVERYWHERE)
    net, x = unetpp(made).train(), images(made)
    for j, logits in zip(range(len(strides) - 1, 0, -1), net(x), strict=True):
        expected = net.heads[str(j)](standing(net, f"head_{j}", stands(net, 0, j, x)))
        assert torch.allclose(logits, expected, atol=1e-5)


def test_accurate_is_the_mean_of_all_heads_and_fast_is_one() -> None:
    x, net = images(network(DEEP)), unetpp(network(DEEP))
    heads = net.train()(x)
    assert torch.allclose(net.eval()(x)[0], sum(heads) / 3, atol=1e-6)
    for depth in (1, 2, 3):
        (one,) = unetpp(network(DEEP, mode="fast", depth=depth)).eval()(x)
        assert torch.equal(one, heads[3 - depth])
    assert torch.equal(unetpp(network(DEEP, mode="fast")).eval()(x)[0], heads[0])


def test_in_evaluation_fast_runs_only_the_nodes_that_it_needs() -> None:
    net, ran = unetpp(network(DEEP, mode="fast", depth=1)), set[str]()
    for name, module in [*net.encoder.named_children(), *net.decoder.named_children()]:
        module.register_forward_hook(lambda *_, name=name: ran.add(name))
    net.eval()(images(network(DEEP)))
    assert ran == {"0", "1", "0_1"}
    net.train()(images(network(DEEP)))
    assert ran == {"0", "1", "2", "3", "0_1", "1_1", "2_1", "0_2", "1_2", "0_3"}


@pytest.mark.parametrize("strides", [DEEP, FLAT, ((1, 1),)])
@pytest.mark.parametrize("options", [{}, {"mode": "fast"}])
def test_training_reaches_every_weight_and_all_heads_weigh_the_same(strides: tuple[Shape, ...], options: dict) -> None:
    made = network(strides, EVERYWHERE if len(strides) > 1 else "", **options)
    net = unetpp(made).train()
    outputs = net(images(made))
    assert net.head_weights == (1.0,) * len(outputs) == (1.0,) * max(1, len(strides) - 1)
    torch.stack([output.square().mean() for output in outputs]).sum().backward()
    assert all(weight.grad is not None and weight.grad.any() for weight in net.parameters() if weight.ndim > 1)
    assert all(weight.grad is not None for weight in net.parameters())


def test_without_deep_supervision_the_deepest_head_is_the_only_one() -> None:
    made = network(DEEP, deep=False)
    net, x = unetpp(made), images(made)
    assert list(net.heads) == ["3"] and net.head_weights == (1.0,)
    (trained,), (asked,) = net.train()(x), net.eval()(x)
    assert torch.equal(trained, asked)
    with pytest.raises(BadPlan, match=r"unetpp.*depth is 1, but there are heads for 3"):
        unetpp(network(DEEP, deep=False, mode="fast", depth=1))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"mode": "quick"}, 'mode is "quick"; expected one of accurate, fast'),
        ({"mode": "fast", "depth": 0}, "depth is 0, but there are heads for 1, 2, 3"),
        ({"mode": "fast", "depth": 4}, "depth is 4, but"),
        ({"depth": 2}, "depth 2 is of mode fast"),
    ],
)
def test_refused_options_are_told(options: dict, said: str) -> None:
    with pytest.raises(BadPlan, match=f"architecture 'unetpp': {said}"):
        unetpp(network(DEEP, **options))


def test_bf16_and_channels_last_change_nothing_but_rounding() -> None:
    made = network(DEEP)
    net, x = unetpp(made).eval(), images(made)
    (exact,) = net(x)
    (other,) = net.to(memory_format=torch.channels_last_3d)(x.to(memory_format=torch.channels_last_3d))
    assert torch.allclose(exact, other, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        (rounded,) = net(x)
    assert rounded.dtype == torch.bfloat16 and torch.allclose(exact, rounded.float(), atol=0.3)


# -- pruning -------------------------------------------------------------------------------------------


@settings(max_examples=6, deadline=None)
@given(st.data())
def test_a_pruned_network_answers_the_same_and_has_nothing_else(data: st.DataObject) -> None:
    dims = data.draw(st.sampled_from([2, 3]))
    stride = st.tuples(*[st.sampled_from([1, 2])] * dims)
    strides = ((1,) * dims, *data.draw(st.lists(stride, min_size=1, max_size=3)))
    depth = data.draw(st.integers(1, len(strides) - 1))
    made = network(strides, data.draw(st.sampled_from(["", EVERYWHERE])), mode="fast", depth=depth)
    net, x = unetpp(made), images(made)
    head = net.train()(x)[-depth]
    pruned = unetpp(made)
    pruned.prune()
    assert torch.equal(pruned.eval()(x)[0], head)
    assert torch.equal(pruned.train()(x)[0], head) and pruned.head_weights == (1.0,)
    head.square().sum().backward()
    needed = {name for name, weight in net.named_parameters() if weight.grad is not None}
    assert {name for name, _ in pruned.named_parameters()} == needed


def test_in_mode_accurate_there_is_nothing_to_prune() -> None:
    net = unetpp(network(DEEP, EVERYWHERE))
    before = set(net.state_dict())
    net.prune()
    assert set(net.state_dict()) == before


@pytest.mark.parametrize("place", ["decoder", "skip", "head"])
def test_an_insert_that_looks_at_the_whole_encoder_keeps_it(place: str) -> None:
    made = network(DEEP, f"guided@{place}", mode="fast", depth=1)
    net, x = unetpp(made), images(made)
    head = net.train()(x)[-1]
    net.prune()
    assert torch.equal(net.eval()(x)[0], head)
    assert len(net.encoder) == 4 and list(net.decoder) == ["0_1"]


def test_a_guided_bottleneck_goes_with_the_deepest_stage() -> None:
    net = unetpp(network(DEEP, "guided@bottleneck", mode="fast", depth=2))
    net.prune()
    assert len(net.encoder) == 3 and not any("bottleneck" in name for name in net.state_dict())
