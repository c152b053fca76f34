"""The memory of a training step: the laws of the estimate, and the estimate against what a step takes."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg import losses
from autoseg.errors import BadPlan, RunFailed
from autoseg.nets import places, survey
from autoseg.records import Channel, Configuration, Insert, Memory, Network, Part, Question, Train
from autoseg.steps import design, device, memory, topology
from autoseg.steps.allocators import Heap, Segments
from autoseg.steps.memory import Estimate
from autoseg.steps.trace import trace
from tests.steps import test_train

STRIDES = {2: ((1, 1), (2, 2), (2, 2)), 3: ((1, 1, 1), (2, 2, 2), (2, 2, 2))}


def network(dims: int = 3, architecture: str = "unet", inserts: str = "") -> Network:
    return Network.plain(
        (8, 16, 32), STRIDES[dims], architecture=Part(name=architecture), inserts=places.parse(inserts)
    )  # fmt: skip


def cost(
    patch=(64, 64, 64), batch=2, outputs=3, precision="float32", where="cpu", optimiser="adamw", **fields
) -> Estimate:
    return memory.estimate(
        network(len(patch), **fields), 1, outputs, patch, batch, device=where, precision=precision,
        optimiser=Part(name=optimiser),
    )  # fmt: skip


def parts(one: Estimate) -> list[int]:
    return [getattr(one, field.name) for field in fields(one)]


@pytest.mark.parametrize(("where", "precision"), [("cpu", "float32"), ("cpu", "bf16"), ("cuda", "bf16")])
def test_it_grows_with_batch_patch_and_classes(where: str, precision: str) -> None:
    here = {"where": where, "precision": precision}
    first = cost(**here)
    for more in (cost(batch=3, **here), cost(patch=(96, 64, 64), **here), cost(outputs=14, **here)):
        assert more.total > first.total
    batches = [cost(batch=batch, **here).total for batch in range(1, 17)]
    assert batches == sorted(set(batches))


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_twice_the_batch_keeps_twice_the_activations(dims: int, precision: str) -> None:
    patch = {2: (128, 128), 3: (32, 48, 32)}[dims]
    for batch in (1, 2, 5):
        one, two = (cost(patch, many, precision=precision) for many in (batch, 2 * batch))
        assert two.activations == 2 * one.activations > 0
        assert two.inputs == 2 * one.inputs and two.weights == one.weights and two.optimiser == one.optimiser


def test_the_parts_make_up_the_total_and_are_told() -> None:
    one = cost()
    assert one.total == sum(parts(one)) and min(parts(one)) >= 0
    assert all(f"{field.name} " in one.told for field in fields(one))


def test_weights_and_optimiser_are_counted_exactly() -> None:
    module = survey.build(network(), 1, 3, (64, 64, 64))
    weights = sum(p.nbytes for p in module.parameters())
    assert cost().weights == weights
    assert cost().optimiser == 2 * weights and cost(optimiser="sgd").optimiser == weights
    assert weights < cost(precision="bf16").weights <= 1.5 * weights  # with their copies in bfloat16
    assert cost(batch=5).inputs == 5 * 64**3 * (4 + 1)


def test_half_the_digits_need_less_and_more_of_a_network_needs_more() -> None:
    plain = cost()
    assert cost(precision="bf16").total < 0.8 * plain.total
    assert cost(architecture="unetpp").total > plain.total
    for more in (cost(inserts="cbam@skip"), cost(architecture="resenc"), cost(architecture="unetpp")):
        assert more.activations > plain.activations


def test_a_small_map_of_a_large_network_is_highest_at_the_optimisers_turn() -> None:
    tiny = memory.estimate(
        Network.plain((64, 512), STRIDES[3][:2]), 1, 2, (2, 2, 2), 1, device="cpu", precision="float32",
        optimiser=Part(name="adamw"),
    )  # fmt: skip
    assert tiny.gradients == tiny.weights and tiny.workspace > tiny.activations


def kept_by_torch(one: Network, channels: int, outputs: int, patch: tuple[int, ...], precision, batch: int) -> int:
    """Bytes that a forward pass and the loss on real numbers save, each memory once, without weights and inputs.

    Copies of the weights in bfloat16 are among them; they do not grow with the batch.
    """
    module = survey.build(one, channels, outputs, patch).train()
    images = torch.randn(batch, channels, *patch)
    labels = torch.randint(0, outputs, (batch, *patch), dtype=torch.uint8)
    known = {tensor.data_ptr() for tensor in (*module.parameters(), images, labels)}
    saved: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            saved[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        with device.autocast(torch.device("cpu"), precision):
            logits = module(images)
        losses.over_depths(losses.build("dice+ce", 1), logits, labels)
    return sum(storage.nbytes() for storage in saved.values())


@pytest.mark.parametrize("inserts", ["", "se@skip"])
@pytest.mark.parametrize(("patch", "batch"), [((16, 8, 16), 2), ((32, 16), 5)])
@pytest.mark.parametrize("precision", ["float32", "bf16"])
def test_what_is_kept_is_what_torch_saves(patch, batch: int, precision, inserts: str) -> None:
    one = network(len(patch), inserts=inserts)
    counted = [kept_by_torch(one, 2, 4, patch, precision, many) for many in (batch, 2 * batch)]
    assert trace(one, 2, 4, patch, "cpu", precision, "dice+ce").kept * batch == counted[1] - counted[0]


@pytest.mark.parametrize("most", [0, 1])
def test_a_batch_that_goes_through_in_pieces_alone_does_not_fit(most: int, monkeypatch: pytest.MonkeyPatch) -> None:
    learn = memory.train.learn

    def cramped(learner: Any, images: torch.Tensor, labels: torch.Tensor) -> float:
        if most == 0:
            raise RunFailed("memory ran out on a single sample")
        learner.pieces = 2
        return learn(learner, images, labels)

    monkeypatch.setattr(memory.train, "learn", cramped)
    cpu = torch.device("cpu")
    assert memory.measured(test_train.configuration(), test_train.QUESTION, cpu, "float32") > device.memory(cpu)


def test_a_loss_that_looks_at_numbers_is_estimated() -> None:
    one = memory.estimate(
        network(2), 1, 3, (32, 32), 2, device="cpu", precision="bf16", optimiser=Part(name="sgd"), loss="dice+topk"
    )
    assert one.activations > one.inputs


@pytest.mark.slow
def test_a_network_that_looks_at_numbers_is_estimated() -> None:
    found = topology.Topology((64, 64), ((1, 1), (2, 2)), ((3, 3),) * 2, (12, 24))
    swin = design.network_of(found, design.Variant(architecture=Part(name="swin_unet")))
    one = memory.estimate(swin, 1, 3, (64, 64), 2, device="cpu", precision="bf16", optimiser=Part(name="adamw"))
    assert one.activations > one.inputs


def test_a_part_that_there_is_not_is_named() -> None:
    misspelt = network().model_copy(update={"inserts": (Insert(part=Part(name="cbma"), place="skip"),)})
    with pytest.raises(BadPlan, match="unknown insert 'cbma'"):
        memory.estimate(
            misspelt, 1, 2, (16, 16, 16), 1, device="cpu", precision="float32", optimiser=Part(name="adamw")
        )


@given(st.integers(0, 50), st.integers(0, 50), st.integers(-10, 60))
def test_the_largest_that_fits(low: int, more: int, bound: int) -> None:
    asked = []

    def fits(number: int) -> bool:
        asked.append(number)
        return number <= bound

    assert memory.largest(fits, low, low + more) == min(max(bound, low), low + more)
    assert len(asked) <= 7


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.integers(1, 40_000_000)), max_size=60))
@pytest.mark.parametrize("kind", [partial(Heap, 10), Segments])
def test_an_allocator_never_gives_a_byte_twice(kind, moves: list[tuple[bool, int]]) -> None:
    allocator, there = kind(), {}
    for number, (take, size) in enumerate(moves):
        if take or not there:
            allocator.take(number, size)
            there[number] = size
        else:
            gone = min(there)
            allocator.give(gone)
            del there[gone]
        pieces = sorted(piece[-2:] for piece in allocator._taken.values())
        assert all(end <= start for (_, end), (start, _) in pairwise(pieces))
        assert sum(size for size in there.values() if size >= 65_536) <= allocator.most


def test_what_is_freed_is_used_again() -> None:
    for kind in (partial(Heap, 10), Segments):
        most = []
        for rounds in (20, 200):
            allocator = kind()
            for number in range(rounds):
                allocator.take(number, 50_000_000)
                allocator.give(number)
            most.append(allocator.most)
        assert most[0] == most[1]


def test_segments_are_torchs() -> None:
    mebi = 2**20
    for sizes, held in (
        ([1], 2), ([512 * 1024] * 4, 2), ([mebi] * 3, 4), ([5 * mebi] * 4, 20), ([5 * mebi] * 5, 40), ([11 * mebi], 12),
        ([100 * mebi + 1], 102),
    ):  # fmt: skip
        allocator = Segments()
        for number, size in enumerate(sizes):
            allocator.take(number, size)
        assert allocator.most == held * mebi, sizes


CHILD = """
import sys, torch
from autoseg.records import Configuration, Question
from autoseg.steps import memory
one, question = Configuration.model_validate_json(sys.argv[1]), Question.model_validate_json(sys.argv[2])
print(memory.measured(one, question, torch.device("cpu"), sys.argv[3]))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc, and models glibc")
@pytest.mark.parametrize(
    ("one", "patch", "batch", "classes", "precision"),
    [
        (network(2), (256, 192), 4, 3, "float32"),
        pytest.param(network(3), (64, 64, 64), 2, 3, "bf16", marks=pytest.mark.slow),
        pytest.param(network(3), (48, 48, 48), 2, 105, "float32", marks=pytest.mark.slow),
        pytest.param(network(2, "unetpp"), (256, 256), 8, 14, "bf16", marks=pytest.mark.slow),
        pytest.param(network(3, inserts="cbam@skip"), (64, 64, 64), 4, 5, "float32", marks=pytest.mark.slow),
    ],
)
def test_a_step_takes_what_was_estimated(one: Network, patch, batch: int, classes: int, precision) -> None:
    settings = Train(
        loss="dice+ce", augment=(), steps=9, optimiser=Part(name="adamw"), schedule=Part(name="poly"), foreground=0.3
    )
    plan = Configuration(
        spacing=(1.0,) * len(patch), patch=patch, batch=batch, normalise=(Part(name="none"),), network=one,
        resample=Part(name="keep"), train=settings, memory=Memory(bytes=0, method=""),
    )  # fmt: skip
    question = Question(
        reader="nifti", channels=(Channel(name="a", kind="other"),), labels={str(n): n for n in range(classes)}
    )
    command = [sys.executable, "-c", CHILD, plan.model_dump_json(), question.model_dump_json(), precision]
    found = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])
    guess = memory.estimate(
        one, 1, classes, patch, batch, device="cpu", precision=precision, optimiser=settings.optimiser
    ).total
    assert abs(guess - found) <= max(0.15 * found, 150e6)
