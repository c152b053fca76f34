"""GG-Net: the boundary head, its edges, what it is by default."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from autoseg.nets.ggnet import Edged, GGNet, edge
from autoseg.nets.places import parse
from autoseg.nets.survey import build, survey
from autoseg.nets.unet import ResEnc
from autoseg.records import Network, Part, Shape

DEEP = ((1, 1, 1), (1, 2, 2), (2, 2, 1))
FLAT = ((1, 1), (2, 2), (2, 1), (2, 2))


def network(strides: tuple[Shape, ...], inserts: str = "", deep: bool = True) -> Network:
    return Network.plain(
        tuple(8 + 2 * i for i in range(len(strides))), strides, inserts=parse(inserts), deep_supervision=deep,
        architecture=Part(name="ggnet"),
    )  # fmt: skip


def patch(made: Network) -> Shape:
    return tuple(4 * d for d in made.divisor)


def ggnet(made: Network) -> GGNet:
    torch.manual_seed(0)
    module = build(made, 2, 3, patch(made))
    assert isinstance(module, GGNet)
    return module


def images(made: Network) -> Tensor:
    return torch.randn(2, 2, *patch(made), generator=torch.Generator().manual_seed(1))


def largest(x: Tensor) -> Tensor:
    """The largest of the 3 x 3 (x 3) values around each, those outside left out."""
    dims = x.ndim - 2
    padded = F.pad(x, (1, 1) * dims, value=-torch.inf)
    shifts = itertools.product(range(3), repeat=dims)
    windows = [padded[(..., *(slice(s, s + n) for s, n in zip(shift, x.shape[2:], strict=True)))] for shift in shifts]
    return torch.stack(windows).amax(0)


@pytest.mark.parametrize("size", [(5, 7), (4, 3, 6)])
def test_an_edge_is_the_distance_to_the_largest_neighbour(size: Shape) -> None:
    x = torch.randn(2, 3, *size)
    assert torch.equal(edge(x), (x - largest(x)).abs())
    assert not edge(torch.full((1, 1, *size), -3.0)).any()


def test_the_edge_of_a_label_is_the_ring_around_it() -> None:
    label = torch.zeros(1, 1, 7, 7)
    label[..., 2:5, 3] = 1
    ring = torch.zeros(7, 7)
    ring[1:6, 2:5] = 1
    ring[2:5, 3] = 0
    assert torch.equal(edge(label)[0, 0], ring)


@pytest.mark.parametrize("strides", [DEEP, FLAT])
def test_maps_are_refined_by_the_edges_that_they_carry(strides: tuple[Shape, ...]) -> None:
    made = network(strides)
    net, x = ggnet(made).train(), images(made)
    outputs = net(x)
    assert isinstance(outputs, Edged) and len(outputs) == len(outputs.edges) == len(strides) - 1
    decoded = net.decoded(*net.encoded(x))
    sizes = made.sizes(patch(made))
    for i, (refined, its) in enumerate(zip(outputs, outputs.edges, strict=True)):
        logits = net.heads[i](decoded[i])
        assert torch.equal(its, (logits - largest(logits)).abs())
        assert torch.equal(refined, logits + its)
        assert refined.shape == its.shape == (2, 3, *sizes[i])


def test_a_refined_map_is_the_dilated_one() -> None:
    made = network(FLAT)
    net, x = ggnet(made).train(), images(made)
    plain = ResEnc.forward(net, x)
    assert all(torch.allclose(a, largest(b), atol=1e-6) for a, b in zip(net(x), plain, strict=True))


@pytest.mark.parametrize("strides", [DEEP, FLAT])
def test_prediction_answers_the_finest_map_alone(strides: tuple[Shape, ...]) -> None:
    made = network(strides)
    net, x = ggnet(made), images(made)
    trained, asked = net.train()(x), net.eval()(x)
    assert type(asked) is list and len(asked) == 1
    assert torch.equal(asked[0], trained[0])


@pytest.mark.parametrize("deep", [True, False])
def test_training_reaches_every_weight_and_all_heads_weigh_the_same(deep: bool) -> None:
    made = network(FLAT, deep=deep)
    net = ggnet(made).train()
    outputs = net(images(made))
    assert len(outputs) == len(outputs.edges) == len(net.head_weights) == (3 if deep else 1)
    assert set(net.head_weights) == {1.0}
    losses = [output.square().mean() for output in outputs] + [its.square().mean() for its in outputs.edges]
    torch.stack(losses).sum().backward()
    idle = {name for name, weight in net.named_parameters() if weight.grad is None}
    assert idle == (set() if deep else {f"heads.{i}.{kind}" for i in (1, 2) for kind in ("weight", "bias")})


def test_the_edges_alone_teach_the_heads() -> None:
    made = network(FLAT)
    net = ggnet(made).train()
    torch.stack([its.square().mean() for its in net(images(made)).edges]).sum().backward()
    assert all(head.weight.grad.any() for head in net.heads)  # type: ignore[union-attr]


def test_by_default_it_is_residual_and_guided_at_the_bottleneck() -> None:
    plain = network(FLAT, "se@skip")
    made = GGNet.suit(plain)
    assert made.block.name == "residual" and made.depths == (1, 3, 4, 6) and made.decoder_depths == (1, 1, 1)
    assert [insert.text for insert in made.inserts] == ["global_guidance@bottleneck", "se@skip"]
    assert made == ResEnc.suit(plain).model_copy(update={"inserts": made.inserts})
    assert GGNet.suit(made) == made


@pytest.mark.parametrize("strides", [DEEP, FLAT])
@pytest.mark.parametrize("guided", [True, False])
def test_a_survey_goes_through(strides: tuple[Shape, ...], guided: bool) -> None:
    made = GGNet.suit(network(strides)) if guided else network(strides)
    found = survey(made, 2, 3, patch(made))
    assert found.outputs == tuple((3, *size) for size in made.sizes(patch(made))[:-1])
    assert sum(unit.parameters for unit in found.units) == found.parameters
    assert [unit.inserts for unit in found.units if unit.place == "bottleneck"] == [("global_guidance",) * guided]


def test_bf16_and_channels_last_change_nothing_but_rounding() -> None:
    made = network(DEEP)
    net, x = ggnet(made).eval(), images(made)
    (exact,) = net(x)
    (other,) = net.to(memory_format=torch.channels_last_3d)(x.to(memory_format=torch.channels_last_3d))
    assert torch.allclose(exact, other, atol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        (rounded,) = net(x)
    assert torch.allclose(exact, rounded.float(), atol=0.5)
