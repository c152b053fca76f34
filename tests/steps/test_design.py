"""Variants: what is asked for is what is planned, and it counts in the memory."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import pytest
import torch
from torch import nn

from autoseg import parts
from autoseg.errors import BadPlan
from autoseg.nets.places import parse
from autoseg.records import (
    CaseFacts,
    Channel,
    Fingerprint,
    Intensity,
    Network,
    Part,
    Plan,
    Question,
    Shape,
    Target,
    amend,
)
from autoseg.steps import topology
from autoseg.steps.design import Variant, class_weights, cost_factor, design, network_of, require_parts
from autoseg.steps.plan import make
from autoseg.steps.topology import Limits, Topology

QUESTION = Question(
    reader="nifti", channels=(Channel(name="MRI", kind="mr"),), labels={"background": 0, "a": 1, "b": 2}
)
FOUND = Topology((40, 56, 40), ((1,) * 3, (2,) * 3, (2,) * 3, (2,) * 3), ((3,) * 3,) * 4, (16, 32, 64, 128), 2)
LIMITS = Limits(22e6, 16, 256, 2)
SHAPE, SPACING = (36, 50, 35), (1.0, 1.0, 1.0)


def plan(shape: Shape = SHAPE, count: int = 260, variant: Variant | None = None) -> Plan:
    """The plan of a CPU for as many cases of one shape."""
    known = (Intensity(mean=50, sd=20, quantiles=(0.0,) * 15),)
    facts = CaseFacts(sha256="0", shape=shape, cropped=shape, spacing=SPACING, valid=known, foreground=known)
    found = Fingerprint(question="q", flat=shape[0] == 1, cases={str(n): facts for n in range(count)})
    cpu = Target(device="cpu", memory=16 * 10**9, threads=2)
    return make(found, QUESTION, cpu, task="Task01_X", name="default", ids=("f", "g"), variant=variant)


def test_the_default_is_the_plain_unet_at_no_extra_cost() -> None:
    made = design(Variant(), SHAPE, SPACING, QUESTION, LIMITS, 1e12)
    assert made.network == Network.plain(made.found.features, made.found.strides, made.found.kernels)
    assert made.factor == 1.0
    assert made.found == topology.fit(SHAPE, SPACING, 3, LIMITS, 1e12)


def test_what_is_asked_for_stands_in_the_network() -> None:
    inserts = parse("se@skip[0:2]+attention_gate@join")
    asked = Variant(Part(name="unet"), Part(name="convnext"), inserts)
    made = network_of(FOUND, asked)
    assert made.block.name == made.decoder_block.name == "convnext" and made.inserts == inserts
    residual = network_of(FOUND, Variant(Part(name="resenc")))
    assert residual.block.name == "residual" and residual.depths == (1, 3, 4, 6)
    assert residual.decoder_block == Part(name="plain", options={"convs": 1})


def test_a_variant_keeps_the_patch_and_batch_while_the_memory_holds_them() -> None:
    limits = Limits(22e6, 16, 256, 2, 200e6)
    plain = design(Variant(), SHAPE, SPACING, QUESTION, limits, 1e12).found
    for variant in (Variant(Part(name="unetpp")), Variant(inserts=parse("cbam@skip"))):
        made = design(variant, SHAPE, SPACING, QUESTION, limits, 1e12)
        assert made.found == plain and made.factor > 1


@pytest.mark.parametrize("name", ["resenc", "unetpp", "hrnet"])
def test_a_costlier_network_gets_a_smaller_patch_or_batch(name: str) -> None:
    limits = Limits(60e6, 16, 256, 2)
    plain = design(Variant(), (200, 200, 200), SPACING, QUESTION, limits, 1e12)
    other = design(Variant(Part(name=name)), (200, 200, 200), SPACING, QUESTION, limits, 1e12)
    sizes = [prod(made.found.patch) * made.found.batch for made in (other, plain)]
    assert sizes[0] < sizes[1] if other.factor > 1.2 else sizes[0] <= sizes[1]
    used = other.factor * topology.elements(other.found, 3) * other.found.batch
    assert other.factor > 1 and used <= limits.elements


def test_the_factor_is_what_autograd_keeps() -> None:
    """Counted without numbers it equals what hooks see when real tensors go through."""

    def kept(network: Network) -> int:
        module = parts.NETWORKS.build(network.architecture, network=network, channels=1, classes=3, patch=(40, 56, 40))
        weights = {w.untyped_storage().data_ptr() for w in module.parameters()}
        held: dict[int, torch.UntypedStorage] = {}

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            held[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = module.train()(torch.randn(1, 1, 40, 56, 40))
        assert outputs
        return sum(storage.nbytes() for pointer, storage in held.items() if pointer not in weights)

    wide = network_of(FOUND, Variant(inserts=parse("cbam@encoder")))
    expected = kept(wide) / kept(network_of(FOUND, Variant()))
    assert cost_factor(FOUND, wide, QUESTION) == pytest.approx(expected, rel=0.03)


def test_a_patch_is_a_multiple_of_what_the_architecture_divides_by() -> None:
    made = design(Variant(Part(name="swin_unet")), SHAPE, SPACING, QUESTION, Limits(60e6, 12, 256, 2), 1e12)
    assert all(edge % d == 0 for edge, d in zip(made.found.patch, made.network.divisor, strict=True))


def test_class_weights_come_where_the_loss_takes_them() -> None:
    facts = [CaseFacts(sha256="", voxels={"background": 900, "a": 90, "b": 10})] * 2
    assert class_weights("dice+ce", facts, QUESTION) is None
    weights = class_weights("dice+0.5*wce", facts, QUESTION)
    assert weights is not None and weights[0] < weights[1] <= weights[2]


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"network.norm.name": "batch"}, "batch norm with a batch of 2.*expected a batch of 8 or more"),
        ({"network.block.name": "plane"}, "unknown block 'plane'.*did you mean plain"),
        ({"network.block.options": {"conv": 3}}, "has no option 'conv'.*did you mean convs"),
        ({"network.upsample.name": "bilinear"}, "unknown upsampling 'bilinear'.*linear"),
        ({"train.loss": "dice+cee"}, "unknown loss 'cee'"),
        ({"train.loss": "focal(gamma=1e99)"}, "its gradient is not finite"),
        ({"train.optimiser.options": {"foo": 1}}, "has no option 'foo'"),
        ({"train.schedule.options": {"power": "a"}}, 'power is "a"; expected float'),
        ({"network.block.options": {"convs": 2.5}}, "convs is 2.5; expected int"),
        ({"network.norm": {"name": "group", "options": {"groups": 0}}}, "0 groups, expected 1 or more"),
        ({"train.loss": "wce"}, "the plan has no class weights"),
        ({"train.loss": "wce", "train.class_weights": [1, 2]}, "2 class weights for 3 outputs"),
        ({"train.depth_weights": [1, 1]}, r"\[1.0, 1.0\] cannot weigh 3 heads"),
        ({"network.inserts": [{"part": {"name": "se"}, "place": "join"}]}, "unknown fusion 'se'"),
        ({"network.inserts": [{"part": {"name": "se"}, "place": "skip", "stages": [7, 9]}]}, "no stage of skip"),
        ({"network.inserts": [{"part": {"name": "aspp"}, "place": "skip"}]}, "aspp does not stand at skip"),
        (
            {"network.inserts": [{"part": {"name": "self_attention"}, "place": "encoder", "stages": [0, 1]}]},
            r"89,?600.*4,?096",
        ),
    ],
)
def test_what_cannot_be_built_is_told_with_its_place(changes: dict[str, object], told: str) -> None:
    made = plan()
    amended = amend(made, {f"configurations.3d.{field}": value for field, value in changes.items()})
    with pytest.raises(BadPlan, match=told) as problem:
        require_parts(amended)
    assert "configurations.3d" in str(problem.value)


@pytest.mark.parametrize(
    ("loss", "told"),
    [
        (lambda logits, target: logits.mean() * float("nan"), "loss own: is nan on noise"),
        (lambda logits, target: logits, r"loss own: answers \(1, 3, 4, 4, 4\); expected a scalar"),
        (lambda logits, target: {}["x"], "loss own: KeyError: 'x'"),
    ],
)
def test_a_loss_that_cannot_be_computed_is_told_before_training(loss: Callable[..., torch.Tensor], told: str) -> None:
    parts.LOSSES.add("own")(lambda: loss)
    with pytest.raises(BadPlan, match=told):
        require_parts(amend(plan(), {"configurations.3d.train.loss": "own"}))


class Odd(nn.Module):
    """An insert that does something odd."""

    def __init__(self, act: Callable[[nn.Module, torch.Tensor], Any]) -> None:
        super().__init__()
        self.act = act

    def forward(self, x: torch.Tensor) -> Any:
        return self.act(self, x)


def raises(module: nn.Module, x: torch.Tensor) -> None:
    raise KeyError("nothing here")


def with_insert(act: Callable[[nn.Module, torch.Tensor], Any]) -> Plan:
    parts.INSERTS.add("odd")(lambda channels: Odd(act))
    inserts = [{"part": {"name": "odd"}, "place": "skip", "stages": [1, 2]}]
    return amend(plan(), {"configurations.3d.network.inserts": inserts})


@pytest.mark.parametrize(
    "act",
    [
        lambda module, x: x[..., 1:],
        lambda module, x: x[:, :1],
        lambda module, x: [x],
        raises,
        lambda module, x: x if module.training else x[..., ::2],
        lambda module, x: x if module.training else raises(module, x),
    ],
)
def test_an_insert_that_is_wrong_in_training_or_prediction_is_named_before_either(act: Any) -> None:
    with pytest.raises(BadPlan, match=r"insert odd at skip stage 1 \(32 channels, 20×28×20\)"):
        require_parts(with_insert(act))


@pytest.mark.parametrize(
    "act",
    [
        lambda module, x: x * 2 if x.mean() > 0 else x,
        lambda module, x: x / max(1.0, float(x.abs().max())),
        lambda module, x: x + torch.from_numpy(x.detach().numpy().copy()),
        lambda module, x: x * torch.ones(1, 32, 1, 1, 1),
    ],
)
def test_an_insert_that_looks_at_numbers_is_tried_with_numbers(act: Any) -> None:
    assert require_parts(with_insert(act))["3d"].outputs[0] == (3, 40, 56, 40)


@pytest.mark.parametrize("answer", [lambda x: x, lambda x: [x, x], lambda x: [x[:, :1]]])
def test_an_architecture_that_is_wrong_in_prediction_is_told(answer: Callable[[torch.Tensor], Any]) -> None:
    class Shallow(nn.Module):
        def __init__(self, channels: int, classes: int) -> None:
            super().__init__()
            self.layer = nn.Conv3d(channels, classes, 1)

        def forward(self, x: torch.Tensor) -> Any:
            return [self.layer(x)] if self.training else answer(self.layer(x))

    parts.NETWORKS.add("shallow")(Shallow)
    with pytest.raises(BadPlan, match=r"the network answers .* in prediction; expected a list that begins with"):
        require_parts(amend(plan(), {"configurations.3d.network.architecture.name": "shallow"}))


def test_a_part_that_is_there_in_2d_alone_leaves_the_other_configuration_out() -> None:
    for variant in (Variant(Part(name="deeplabv3p")), Variant(block=Part(name="deformable"))):
        made = plan(variant=variant)
        assert list(made.configurations) == ["2d"] and "left out" in made.because["configurations.3d"]


def test_a_patch_that_had_to_change_says_from_what() -> None:
    made = plan(variant=Variant(Part(name="swin_unet")))
    assert "40×56×40 by 2 for the plain U-Net" in made.because["configurations.3d.patch"]
    assert "plain" not in plan().because["configurations.3d.patch"]


def test_weights_that_the_target_cannot_hold_are_refused() -> None:
    with pytest.raises(BadPlan, match="its weights, their gradients and the optimiser need"):
        require_parts(amend(plan(), {"configurations.3d.network.features": [16, 32, 64, 200_000]}))


def test_a_map_of_one_position_is_told_with_its_stage() -> None:
    made = Network.plain((4, 8, 8), ((1, 1), (2, 2), (2, 2)))
    one = plan((1, 100, 100), 9).configurations["2d"]
    tiny = one.model_copy(update={"network": made, "patch": (4, 4)})
    whole = plan((1, 100, 100), 9).model_copy(update={"configurations": {"2d": tiny}})
    with pytest.raises(BadPlan, match="block plain of encoder stage 2: its feature map has one position"):
        require_parts(whole)
    grouped = tiny.model_copy(update={"network": made.model_copy(update={"norm": Part(name="group")})})
    require_parts(whole.model_copy(update={"configurations": {"2d": grouped}}))
