"""Variants: what is asked for is what is planned, and it counts in the memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
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
from autoseg.steps import memory, topology
from autoseg.steps.design import SAFE, Room, Variant, class_weights, design, memory_of, network_of
from autoseg.steps.plan import make
from autoseg.steps.suited import require_parts
from autoseg.steps.topology import Limits, Topology

QUESTION = Question(
    reader="nifti", channels=(Channel(name="MRI", kind="mr"),), labels={"background": 0, "a": 1, "b": 2}
)
FOUND = Topology((40, 56, 40), ((1,) * 3, (2,) * 3, (2,) * 3, (2,) * 3), ((3,) * 3,) * 4, (16, 32, 64, 128), 2)
LIMITS = Limits(22e6, 16, 256, 2)
SHAPE, SPACING = (36, 50, 35), (1.0, 1.0, 1.0)
THREE = partial(topology.elements, classes=3)


def room(shape: Shape = SHAPE, limits: Limits = LIMITS, memory: int = 16 * 10**9, **fields: Any) -> Room:
    """What a network of one channel and three classes is designed into."""
    target = Target(device="cpu", memory=memory, threads=2)
    return Room(shape, SPACING, 1e12, 1, 3, limits, THREE, target, Part(name="adamw"), **fields)


def plan(shape: Shape = SHAPE, count: int = 260, variant: Variant | None = None) -> Plan:
    """The plan of a CPU for as many cases of one shape."""
    known = (Intensity(mean=50, sd=20, quantiles=(0.0,) * 15),)
    facts = CaseFacts(sha256="0", shape=shape, cropped=shape, spacing=SPACING, valid=known, foreground=known)
    found = Fingerprint(question="q", flat=shape[0] == 1, cases={str(n): facts for n in range(count)})
    cpu = Target(device="cpu", memory=16 * 10**9, threads=2, minutes=15.0)
    return make(found, QUESTION, cpu, task="Task01_X", name="default", ids=("f", "g"), variant=variant)


def test_the_default_is_the_plain_unet_of_the_rules() -> None:
    made = design(Variant(), room())
    assert made.network == Network.plain(made.found.features, made.found.strides, made.found.kernels)
    assert made.found == topology.fit(SHAPE, SPACING, THREE, LIMITS, 1e12)


def test_what_is_asked_for_stands_in_the_network() -> None:
    inserts = parse("se@skip[0:2]+attention_gate@join")
    asked = Variant(Part(name="unet"), Part(name="convnext"), inserts)
    made = network_of(FOUND, asked)
    assert made.block.name == made.decoder_block.name == "convnext" and made.inserts == inserts
    residual = network_of(FOUND, Variant(Part(name="resenc")))
    assert residual.block.name == "residual" and residual.depths == (1, 3, 4, 6)
    assert residual.decoder_block == Part(name="plain", options={"convs": 1})


def test_a_variant_keeps_the_patch_and_batch_while_the_memory_holds_them() -> None:
    plain = design(Variant(), room())
    for variant in (Variant(Part(name="unetpp")), Variant(inserts=parse("cbam@skip"))):
        made = design(variant, room())
        assert made.found == plain.found and made.memory.bytes > plain.memory.bytes


@pytest.mark.parametrize("name", ["unet", "resenc", "unetpp", "hrnet"])
@pytest.mark.parametrize("share", [0.9, 0.6, 0.35])
def test_less_memory_first_takes_from_the_batch_then_from_the_patch(name: str, share: float) -> None:
    asked, limits = Variant(Part(name=name)), Limits(120e6, 16, 256, 2)
    free = design(asked, room((64, 64, 64), limits))
    memory = round(share * free.memory.bytes / SAFE)
    made = design(asked, room((64, 64, 64), limits, memory))
    assert made.memory.bytes <= SAFE * memory
    assert made.found.batch >= 2 and made.found.patch <= free.found.patch
    assert made.found.patch == free.found.patch or made.found.batch == 2
    assert made.found.batch < free.found.batch or made.found.patch < free.found.patch


def test_a_target_below_the_smallest_network_is_told_what_it_would_need() -> None:
    with pytest.raises(BadPlan, match=r"--memory: the smallest network, .* by 2, needs 0\.\d+ GB") as problem:
        design(Variant(), room(memory=1_000_000))
    needed = float(str(problem.value).split("needs ")[1].split(" GB")[0])
    assert design(Variant(), room(memory=round(needed * 1.02e9))).found.batch == 2


def test_rules_that_do_not_look_at_the_memory_are_not_bound_by_it() -> None:
    assert design(Variant(), room(memory=1_000_000, binding=False)).found == design(Variant(), room()).found


def test_a_patch_is_a_multiple_of_what_the_architecture_divides_by() -> None:
    made = design(Variant(Part(name="swin_unet")), room(limits=Limits(60e6, 12, 256, 2)))
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
        ({"train.sampling": {"name": "hardd"}}, "unknown sampling 'hardd'.*did you mean hard"),
        ({"train.sampling": {"name": "hard", "options": {"every": 3}}}, "every is 3, not at least 16"),
        (
            {"train.augment": [{"name": "copy_paste", "options": {"classes": [1, 3]}}]},
            r"classes \[3\].*indices of 1 to 2",
        ),
        ({"network.inserts": [{"part": {"name": "rater"}, "place": "head"}]}, "has 2 vectors, the task 0 raters"),
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


@pytest.mark.parametrize("act", [raises, lambda module, x: x[:, :1]])
def test_an_insert_that_fails_is_named_where_its_memory_is_estimated_first(act: Any) -> None:
    parts.INSERTS.add("odd")(lambda channels: Odd(act))
    with pytest.raises(BadPlan, match=r"insert odd at skip stage \d"):
        plan(variant=Variant(inserts=parse("odd@skip")))


def test_a_part_that_chooses_sizes_by_numbers_is_told_so() -> None:
    parts.INSERTS.add("odd")(lambda channels: Odd(lambda module, x: x + x[x > 0].sum()))
    with pytest.raises(BadPlan, match=r"memory cannot be estimated: .*must not choose sizes by the numbers"):
        plan(variant=Variant(inserts=parse("odd@skip")))


def test_the_memory_of_a_configuration_is_that_of_its_own_precision() -> None:
    made = plan()
    cuda = made.target.model_copy(update={"device": "cuda"})
    asked = (amend(made, {"configurations.3d.train.precision": kind}) for kind in ("float32", "bf16", "auto"))
    wide, narrow, usual = (memory_of(one.configurations["3d"], made.question, cuda).bytes for one in asked)
    assert wide > narrow == usual


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
        lambda module, x: x + torch.from_numpy(x.detach().float().numpy().copy()).to(x),
        lambda module, x: x * torch.ones(1, 32, 1, 1, 1),
    ],
)
def test_an_insert_that_looks_at_numbers_is_tried_with_numbers(act: Any) -> None:
    memory._profile.cache_clear()  # the inserts of all of these have one name
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
    with pytest.raises(
        BadPlan,
        match=r"batch, which is 2: a training step needs \d+\.\d GB by estimate.*take a smaller patch or network",
    ):
        require_parts(amend(plan(), {"configurations.3d.network.features": [16, 32, 64, 200_000]}))


def test_a_batch_that_the_target_cannot_hold_is_told_the_largest_that_fits() -> None:
    made = plan()
    tight = made.model_copy(update={"target": made.target.model_copy(update={"memory": 700_000_000})})
    with pytest.raises(
        BadPlan, match=r"configurations.3d.batch, which is 64: .*the largest batch that fits is (\d+)"
    ) as told:
        require_parts(amend(tight, {"configurations.3d.batch": 64}))
    fitting = int(str(told.value).rpartition(" ")[2])
    assert 2 <= fitting < 64
    require_parts(amend(tight, {"configurations.3d.batch": fitting}))


def test_a_map_of_one_position_is_told_with_its_stage() -> None:
    made = Network.plain((4, 8, 8), ((1, 1), (2, 2), (2, 2)))
    one = plan((1, 100, 100), 9).configurations["2d"]
    tiny = one.model_copy(update={"network": made, "patch": (4, 4)})
    whole = plan((1, 100, 100), 9).model_copy(update={"configurations": {"2d": tiny}})
    with pytest.raises(BadPlan, match="block plain of encoder stage 2: its feature map has one position"):
        require_parts(whole)
    grouped = tiny.model_copy(update={"network": made.model_copy(update={"norm": Part(name="group")})})
    require_parts(whole.model_copy(update={"configurations": {"2d": grouped}}))
