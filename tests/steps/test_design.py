"""Variants: what is asked for is what is planned, and it counts in the memory."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

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


def plan(shape: Shape = SHAPE, count: int = 260) -> Plan:
    """The plan of a CPU for as many cases of one shape."""
    known = (Intensity(mean=50, sd=20, quantiles=(0.0,) * 15),)
    facts = CaseFacts(sha256="0", shape=shape, cropped=shape, spacing=SPACING, valid=known, foreground=known)
    found = Fingerprint(question="q", flat=shape[0] == 1, cases={str(n): facts for n in range(count)})
    cpu = Target(device="cpu", memory=16 * 10**9, threads=2)
    return make(found, QUESTION, cpu, task="Task01_X", name="default", ids=("f", "g"))


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
        (lambda logits, target: logits.mean() * float("nan"), "loss own: is nan on an empty image"),
        (lambda logits, target: logits, r"loss own: answers \(1, 3, 4, 4, 4\); expected a scalar"),
        (lambda logits, target: {}["x"], "loss own: KeyError: 'x'"),
    ],
)
def test_a_loss_that_cannot_be_computed_is_told_before_training(loss: Callable[..., torch.Tensor], told: str) -> None:
    parts.LOSSES.add("own")(lambda: loss)
    with pytest.raises(BadPlan, match=told):
        require_parts(amend(plan(), {"configurations.3d.train.loss": "own"}))


class Wrong(nn.Module):
    """Answers one position too few, or fails."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.how == "fails":
            raise KeyError("nothing here")
        return x[..., 1:] if self.how == "short" else x[:, :1]


@pytest.mark.parametrize("how", ["short", "narrow", "fails"])
def test_a_plugin_that_answers_another_shape_or_fails_is_named_before_training(how: str) -> None:
    parts.INSERTS.add("wrong")(lambda channels: Wrong(how))
    inserts = [{"part": {"name": "wrong"}, "place": "skip", "stages": [1, 2]}]
    amended = amend(plan(), {"configurations.3d.network.inserts": inserts})
    with pytest.raises(BadPlan, match=r"insert wrong at skip stage 1 \(32 channels, 20×28×20\)"):
        require_parts(amended)


def test_a_map_of_one_position_is_told_with_its_stage() -> None:
    made = Network.plain((4, 8, 8), ((1, 1), (2, 2), (2, 2)))
    one = plan((1, 100, 100), 9).configurations["2d"]
    tiny = one.model_copy(update={"network": made, "patch": (4, 4)})
    whole = plan((1, 100, 100), 9).model_copy(update={"configurations": {"2d": tiny}})
    with pytest.raises(BadPlan, match="block plain of encoder stage 2: its feature map has one position"):
        require_parts(whole)
    grouped = tiny.model_copy(update={"network": made.model_copy(update={"norm": Part(name="group")})})
    require_parts(whole.model_copy(update={"configurations": {"2d": grouped}}))
