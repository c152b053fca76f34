"""U-Nets with a transformer: MONAI's networks behind the interface, their plans, inserts, costs."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from monai.networks.blocks import selfattention
from monai.networks.nets import UNETR, SwinUNETR, swin_unetr
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from autoseg.errors import BadPlan
from autoseg.nets import survey
from autoseg.nets.layers import Instance
from autoseg.nets.places import parse
from autoseg.nets.transformers import SwinUNet, ViTUNet
from autoseg.parts import NETWORKS
from autoseg.records import Network, Part, Shape

LIGHT = {"swin_unet": (1, 2, 1, 1, 1, 1), "vit_unet": (1, 1, 1, 1, 3)}  # depths
NAMES = list(LIGHT)


def suited(name: str, dims: int, options: dict[str, Any] | None = None, **fields: Any) -> Network:
    strides = ((1,) * dims, (2,) * dims, (1,) * (dims - 1) + (2,))
    plain = Network.plain((4, 8, 16), strides, architecture=Part(name=name, options=options or {}))
    made: Network = NETWORKS.get(name).suit(plain)  # type: ignore[attr-defined]
    return made.model_copy(update={"depths": LIGHT[name], **fields})


def rearranged(x: Tensor, pattern: str) -> Tensor:
    """What einops does with a pattern that permutes alone."""
    given, wanted = (side.split() for side in pattern.split("->"))
    return x.permute([given.index(axis) for axis in wanted])


class Heads(nn.Module):
    """What einops does with MONAI's two patterns: split into query, key, value and heads, or join the heads."""

    def __init__(self, pattern: str, qkv: int = 0, l: int = 0) -> None:  # noqa: E741
        super().__init__()
        self.split = (qkv, l) if qkv else ()

    def forward(self, x: Tensor) -> Tensor:
        if self.split:
            return x.unflatten(2, (*self.split, -1)).permute(2, 0, 3, 1, 4)
        return x.transpose(1, 2).flatten(2)


@pytest.fixture
def _einops(monkeypatch: pytest.MonkeyPatch) -> None:
    """MONAI's own networks want the package; ours do not."""
    monkeypatch.setattr(swin_unetr, "rearrange", rearranged)
    monkeypatch.setattr(selfattention, "Rearrange", Heads)


def filled(net: nn.Module, theirs: nn.Module) -> list[str]:
    """Gives `net` the weights of `theirs`; answers the names that have no counterpart."""
    missing, unexpected = net.load_state_dict(theirs.state_dict(), strict=False)
    return [*missing, *unexpected]


# -- equal to MONAI's ------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_einops")
@pytest.mark.parametrize(("size", "window", "heads"), [((64, 96), 7, 3), ((64, 32, 32), 4, 2)])
def test_swin_unet_answers_as_monais_swin_unetr(size: Shape, window: int, heads: int) -> None:
    torch.manual_seed(0)
    dims, depths = len(size), LIGHT["swin_unet"]
    theirs = SwinUNETR(
        2, 3, depths=depths[1:5], num_heads=[heads, 2 * heads, 4 * heads, 8 * heads], window_size=window,
        feature_size=12, spatial_dims=dims,
    ).eval()  # fmt: skip
    net = SwinUNet(suited("swin_unet", dims), 2, 3, size, window=window, heads=heads).eval()
    assert all("norm" in name for name in filled(net, theirs))  # ours have scale and shift, which start at 1 and 0
    x = torch.randn(1, 2, *size)
    with torch.no_grad():
        (logits,) = net(x)
        assert torch.allclose(logits, theirs(x), atol=1e-4)


@pytest.mark.usefixtures("_einops")
@pytest.mark.parametrize("size", [(64, 96), (32, 32, 48)])
def test_vit_unet_answers_as_monais_unetr(size: Shape) -> None:
    torch.manual_seed(0)
    dims = len(size)
    network = suited("vit_unet", dims, depths=(1, 1, 1, 1, 12))
    theirs = UNETR(2, 3, size, feature_size=4, hidden_size=48, mlp_dim=192, num_heads=6, spatial_dims=dims).eval()
    net = ViTUNet(network, 2, 3, size, heads=6).eval()
    assert all("norm" in name for name in filled(net, theirs))
    x = torch.randn(1, 2, *size)
    with torch.no_grad():
        (logits,) = net(x)
        assert torch.allclose(logits, theirs(x), atol=1e-4)


@pytest.mark.parametrize(("depth", "taken"), [(12, (3, 6, 9)), (8, (2, 4, 6)), (3, (0, 1, 2)), (1, (0, 0, 0))])
def test_skips_come_from_a_quarter_a_half_and_three_quarters_of_the_depth(depth: int, taken: tuple[int, ...]) -> None:
    net = ViTUNet(suited("vit_unet", 2, depths=(1, 1, 1, 1, depth)), 1, 2, (32, 48)).eval()
    vit, seen = net.get_submodule("vit"), []
    for block in vit.blocks:
        block.register_forward_hook(lambda _, given, answer: seen.append(answer))
    with torch.no_grad():
        *maps, deepest = vit(torch.randn(1, 1, 32, 48))
    for index, one in zip(taken, maps, strict=True):
        for y in range(2):
            for x in range(3):
                assert torch.equal(one[0, :, y, x], seen[index][0, 3 * y + x])
    assert torch.equal(deepest.flatten(2).transpose(1, 2), vit.norm(seen[-1]))


@pytest.mark.parametrize("name", NAMES)
def test_einops_is_not_needed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swin_unetr, "rearrange", None)
    monkeypatch.setattr(selfattention, "Rearrange", None)
    with torch.no_grad():
        assert survey.build(suited(name, 2), 1, 2, (32, 32)).eval()(torch.randn(1, 1, 32, 32))[0].isfinite().all()


# -- behind the interface --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(32, 64), (32, 32, 64)])
def test_one_map_of_logits_has_the_size_of_the_patch(name: str, size: Shape) -> None:
    net = survey.build(suited(name, len(size)), 2, 3, size)
    x = torch.randn(2, 2, *size)
    (logits,) = net.train()(x)
    assert logits.shape == (2, 3, *size)
    with torch.no_grad():
        (again,) = net.eval()(x)
        layout: Any = torch.channels_last if len(size) == 2 else torch.channels_last_3d
        (other,) = copy.deepcopy(net)(x.to(memory_format=layout))
    assert torch.allclose(again, logits, atol=1e-5) and torch.allclose(other, logits, atol=1e-4)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(32, 32), (32, 32, 32)])
def test_every_weight_learns_even_above_a_single_position(name: str, size: Shape) -> None:
    net = survey.build(suited(name, len(size)), 1, 2, size).train()
    (net(torch.randn(2, 1, *size))[0] * torch.randn(2, 2, *size)).mean().backward()
    assert [name for name, weight in net.named_parameters() if weight.grad is None or not weight.grad.any()] == []


@pytest.mark.parametrize("name", NAMES)
def test_convolutions_have_the_norm_of_the_plan(name: str) -> None:
    net = survey.build(suited(name, 2, norm=Part(name="batch")), 1, 2, (64, 64))
    kinds = {type(module) for module in net.modules() if "Norm" in type(module).__name__}
    assert kinds == {nn.BatchNorm2d, nn.LayerNorm}
    convolved = sum(module.num_features for module in net.modules() if isinstance(module, nn.BatchNorm2d))
    plain = survey.build(suited(name, 2), 1, 2, (64, 64))
    assert convolved == sum(m.num_channels for m in plain.modules() if isinstance(m, Instance)) > 0


@pytest.mark.parametrize("name", NAMES)
def test_dropout_is_at_work_in_training_alone(name: str) -> None:
    net, x = survey.build(suited(name, 2, dropout=0.5), 1, 2, (64, 64)), torch.randn(1, 1, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(net.train()(x)[0], net(x)[0], atol=1e-3)
        assert torch.equal(net.eval()(x)[0], net(x)[0])


# -- inserts and costs -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "skips"), [("swin_unet", 5), ("vit_unet", 4)])
def test_inserts_stand_at_skips_bottleneck_decoder_and_head(name: str, skips: int) -> None:
    found = survey.survey(suited(name, 2, inserts=parse("se@skip+eca@bottleneck+se@decoder+eca@head")), 1, 2, (64, 64))
    standing = {(unit.place, unit.stage) for unit in found.units if unit.inserts}
    both = {(place, i) for place in ("skip", "decoder") for i in range(skips)}
    assert standing == {*both, ("bottleneck", skips), ("head", 0)}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("place", ["skip[1:2]", "bottleneck", "decoder", "head"])
def test_an_insert_changes_what_is_answered(name: str, place: str) -> None:
    x, bare = torch.randn(1, 1, 64, 64), survey.build(suited(name, 2), 1, 2, (64, 64)).eval()
    net = survey.build(suited(name, 2, inserts=parse(f"se@{place}")), 1, 2, (64, 64)).eval()
    net.load_state_dict(bare.state_dict(), strict=False)
    with torch.no_grad():
        assert not torch.allclose(net(x)[0], bare(x)[0], atol=1e-4)


@pytest.mark.parametrize(("name", "stages"), [("swin_unet", [2, 3, 4, 5]), ("vit_unet", [2, 3, 4])])
def test_guided_inserts_see_every_stage_of_the_encoder(name: str, stages: list[int]) -> None:
    guided = suited(name, 2, inserts=parse("global_guidance@bottleneck+global_guidance@decoder[2:]"))
    found = survey.survey(guided, 1, 2, (64, 64))
    assert sorted(unit.stage for unit in found.units if unit.inserts == ("global_guidance",)) == stages


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("insert", ["se@encoder", "attention_gate@join"])
def test_other_places_are_refused(name: str, insert: str) -> None:
    with pytest.raises(BadPlan, match="expected one of skip, decoder, bottleneck, head"):
        survey.build(suited(name, 2, inserts=parse(insert)), 1, 2, (64, 64))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [(64, 64), (32, 32, 64)])
def test_every_unit_answers_with_the_width_and_size_of_its_stage(name: str, size: Shape) -> None:
    network = suited(name, len(size))
    found = survey.survey(network, 1, 2, size)
    for unit in found.units:
        assert unit.size == network.sizes(size)[unit.stage]
        assert unit.channels == (2 if unit.place == "head" else network.features[unit.stage])
    assert sum(unit.parameters for unit in found.units) == found.parameters
    assert sum(unit.flops for unit in found.units) == found.flops


def test_the_flops_of_swin_are_those_of_a_pass_with_numbers() -> None:
    network = suited("swin_unet", 2)
    net = survey.build(network, 1, 2, (64, 64))
    with FlopCounterMode(display=False) as counter:
        net(torch.randn(1, 1, 64, 64))
    assert survey.examine(net, 1, 2, (64, 64)).flops == counter.get_total_flops() > 0


def test_the_flops_of_the_vision_transformer_are_those_of_its_formula() -> None:
    found = survey.survey(suited("vit_unet", 3), 1, 2, (32, 32, 64))
    tokens, width, layers = 2 * 2 * 4, 48, 3
    layer = 12 * tokens * width**2 + 2 * tokens**2 * width  # query, key, value 3, out 1, MLP 8; scores and sums
    (unit,) = [unit for unit in found.units if unit.place == "bottleneck"]
    assert unit.flops == 2 * (tokens * 16**3 * width + layers * layer)


# -- plans -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("first", "f"), [(1, 12), (16, 12), (18, 24), (32, 36), (48, 48)])
def test_swin_takes_its_width_from_the_plan_to_the_nearest_twelve(dims: int, first: int, f: int) -> None:
    network = Network.plain((first, 2 * first), ((1,) * dims, (1,) * (dims - 1) + (2,)))
    made = SwinUNet.suit(network)
    assert made.features == (f, f, 2 * f, 4 * f, 8 * f, 16 * f) and made.divisor == (32,) * dims
    assert Network.model_validate_json(made.model_dump_json()) == made == SwinUNet.suit(made)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize(("first", "width"), [(16, 192), (32, 384), (64, 768)])
def test_vit_takes_its_width_from_the_plan(dims: int, first: int, width: int) -> None:
    made = ViTUNet.suit(Network.plain((first, 2 * first), ((1,) * dims, (2,) * dims)))
    assert made.features == (first, 2 * first, 4 * first, 8 * first, width) and made.divisor == (16,) * dims
    assert Network.model_validate_json(made.model_dump_json()) == made == ViTUNet.suit(made)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"block": Part(name="residual")}, "block is residual, which .* cannot have; expected plain"),
        ({"upsample": Part(name="duc")}, "upsample is duc"),
        ({"deep_supervision": True}, "deep_supervision is True"),
        ({"features": (12, 16, 24, 32, 48, 64)}, "features is"),
        ({"strides": ((1, 1), (1, 2), (2, 2))}, "strides is"),
        ({"depths": (2, 2, 2, 2, 2, 2)}, "depths is"),
        ({"options": {"heads": 5}}, "heads is 5, expected a divisor"),
        ({"options": {"heads": 0}}, "heads is 0"),
        ({"norm": Part(name="instanc")}, "did you mean instance"),
    ],
)
def test_what_they_cannot_have_is_refused(name: str, fields: dict[str, Any], said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        survey.build(suited(name, 2, **fields), 1, 2, (64, 64))


def test_windows_want_a_position() -> None:
    with pytest.raises(BadPlan, match="window is 0"):
        survey.build(suited("swin_unet", 2, {"window": 0}), 1, 2, (64, 64))


def test_windows_of_volumes_hold_about_as_many_positions_as_those_of_slices() -> None:
    for dims, positions in ((2, 7**2), (3, 4**3)):
        net = survey.build(suited("swin_unet", dims), 1, 2, (32,) * dims)
        assert net.get_submodule("swinViT.layers1.0.blocks.0.attn").relative_position_index.shape[0] == positions
