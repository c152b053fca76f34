"""Processes that train together: the gradients and weights of one, and never one that goes on without the others."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from autoseg import losses
from autoseg.errors import BadUsage
from autoseg.nets import survey
from autoseg.nets.places import parse
from autoseg.records import Channel, Configuration, Memory, Network, Part, Question, Train
from autoseg.steps import train
from autoseg.steps.backward import backward
from autoseg.steps.learner import Learner, build
from autoseg.steps.world import ALONE, World, joined, told

CPU = torch.device("cpu")
VARIABLES = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
BATCH = 5
GRADIENTS = [("unet", "dice+ce", 1), ("unet", "0.5*tversky+focal", 2), ("ggnet", "dice+topk", 1), ("ggnet", "dice", 3)]


def images(dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(BATCH, 2, 16, 16, dtype=dtype, generator=torch.Generator().manual_seed(2))


def labels() -> torch.Tensor:
    return torch.randint(0, 3, (BATCH, 16, 16), generator=torch.Generator().manual_seed(1)).to(torch.uint8)


def gradients(world: World, architecture: str, loss: str, pieces: int) -> dict[str, torch.Tensor]:
    network = Network.plain((4, 8), ((1, 1), (2, 2)), architecture=Part(name=architecture))
    if architecture == "ggnet":
        network = network.model_copy(update={"inserts": parse("global_guidance@bottleneck")})
    torch.manual_seed(0)
    module = survey.build(network, 2, 3, (16, 16)).double().train()
    loss_of, world = losses.build(loss, 1), world.sharing(BATCH)
    value = backward(
        module, images()[world.share], lambda outputs: losses.over_depths(loss_of, outputs, labels()), 7,
        contextlib.nullcontext, pieces, world=world,
    )  # fmt: skip
    slopes = {name: p.grad for name, p in module.named_parameters() if p.grad is not None}
    return {"loss": value.detach(), **slopes}


class Shared:
    """Batches of noise with squares, of which a process has its share; NaN in one sample of step 2."""

    def __init__(self, world: World) -> None:
        self.share = world.share

    def batch(self, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        seen = labels().clamp(max=1)
        noise = torch.randn(BATCH, 1, 16, 16, generator=torch.Generator().manual_seed(step))
        made = seen[:, None].float() * 2 + noise
        made[BATCH - 1] *= float("nan") if step == 2 else 1
        return made[self.share], seen[self.share]

    def stream(self, first: int, last: int, stages: Any = None):
        return (self.batch(step) for step in range(first, last))


def cramp(network: torch.nn.Module, most: int, back: bool) -> None:
    """Lets memory run out on more than `most` samples with a way back: forward, or on the way back."""
    plain = network.forward

    def fail(slope: torch.Tensor | None = None) -> None:
        raise torch.OutOfMemoryError("out of memory")

    def forward(x: torch.Tensor) -> list[torch.Tensor]:
        outputs: list[torch.Tensor] = plain(x)
        if len(x) > most and torch.is_grad_enabled():
            outputs[0].register_hook(fail) if back else fail()
        return outputs

    network.forward = forward  # type: ignore[method-assign]


class Dropping(torch.nn.Module):
    """Drops half of what it is given, and remembers the rest."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.left = torch.nn.functional.dropout(x) * self.scale
        return [self.left]


def learner(world: World, **network: Any) -> Learner:
    topology = Network.plain((4, 8), ((1, 1), (2, 2))).model_copy(update=network)
    settings = Train(
        loss="dice+ce", augment=(), steps=20, optimiser=Part(name="sgd"), schedule=Part(name="poly"), foreground=0.3,
        average=0.9,
    )  # fmt: skip
    made = Configuration(
        spacing=(1.0, 1.0), patch=(16, 16), batch=BATCH, normalise=(Part(name="none"),), resample=Part(name="keep"),
        network=topology, train=settings, memory=Memory(bytes=1, method=""),
    )  # fmt: skip
    channels = (Channel(name="a", kind="other"),)
    question = Question(reader="nifti", channels=channels, labels={"background": 0, "a": 1})
    one = build(made, question, 3, CPU, "float32")
    one.world = world.sharing(BATCH)
    return one


def trained(world: World, cramped: str = "") -> dict[str, torch.Tensor]:
    """The state after six steps, the losses, and the pieces; `cramped`: where the last process runs out of memory."""
    one = learner(world)
    if cramped and world.rank == world.size - 1:
        cramp(one.network, 1, cramped == "back")
    told = list(train.train(one, Shared(one.world), 6))
    numbers = {"losses": torch.tensor([p.loss for p in told]), "pieces": torch.tensor([p.pieces for p in told])}
    return {**one.tensors(), **numbers, "skipped": torch.tensor(one.skipped)}


def resumed(world: World) -> dict[str, torch.Tensor]:
    """The state after six steps, taken over by another learner after the third."""
    first, second = learner(world), learner(world)
    list(train.train(first, Shared(first.world), 3))
    second.load(first.tensors(), first.step, first.skipped, first.skipped_last, first.pieces)
    list(train.train(second, Shared(second.world), 6))
    return second.tensors()


def everything(world: World) -> dict[str, torch.Tensor]:
    """All that is compared, by name."""
    found = {f"gradients {case}": gradients(world, *case) for case in GRADIENTS}
    found |= {f"trained {cramped}": trained(world, cramped) for cramped in ("", "forward", "back")}
    found["resumed"] = resumed(world)
    found["sent"] = {str(n): torch.tensor(list(world.send(bytes(range(n))))) for n in (0, 1, 200)}
    found["any"] = {"any": torch.tensor([world.any(world.rank == 0), world.any(False)])}
    return {f"{name}: {key}": value for name, one in found.items() for key, value in one.items()}


def dropped(world: World) -> torch.Tensor:
    """What remains of the ones that this process's network was given."""
    network = Dropping()
    backward(network, torch.ones(2, 1, 8), lambda maps: maps[0].sum(), 0, contextlib.nullcontext, 1, None,
             world.sharing(4))  # fmt: skip
    return network.left.detach()


def member(out: Path) -> None:
    """What each process of the test does."""
    torch.set_num_threads(1)
    with joined(os.environ) as world:
        found = everything(world) | {"drawn": dropped(world)}
        torch.save(found, out / f"{world.rank}.pt")


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory, launch) -> list[dict[str, torch.Tensor]]:
    """What two processes found, which share five samples as three and two."""
    out = tmp_path_factory.mktemp("together")
    ends = [(one.communicate(timeout=120), one.returncode) for one in launch(2, __file__, str(out))]
    assert [code for _, code in ends] == [0, 0], ends
    assert not any(said for texts, _ in ends for said in texts)
    return [torch.load(out / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    return everything(ALONE)


def test_all_processes_find_the_same_to_the_last_bit(together: list[dict[str, torch.Tensor]]) -> None:
    one, other = together
    assert one.keys() == other.keys() and len(one) > 100
    bits = [{name: value.numpy().tobytes() for name, value in found.items()} for found in together]  # NaN is among them
    assert [name for name in one if bits[0][name] != bits[1][name]] == ["drawn"]  # what they drop differs


def test_the_gradients_are_those_of_the_whole_batch_whatever_the_loss(
    together: list[dict[str, torch.Tensor]], alone: dict[str, torch.Tensor]
) -> None:
    names = [name for name in alone if name.startswith("gradients")]
    assert len(names) > 4 * 20
    for name in names:  # the loss is computed in float32
        assert torch.allclose(together[0][name], alone[name], rtol=1e-4, atol=1e-6), name


def test_the_weights_are_those_of_one_process(
    together: list[dict[str, torch.Tensor]], alone: dict[str, torch.Tensor]
) -> None:
    for cramped in ("", "forward", "back"):
        names = [name for name in alone if name.startswith(f"trained {cramped}:") and "pieces" not in name]
        assert names and {"network", "average", "optimiser"} <= {name.split(": ")[1].split(".")[0] for name in names}
        for name in names:
            assert torch.allclose(together[0][name], alone[name], rtol=1e-4, atol=1e-5, equal_nan=True), name
        assert int(together[0][f"trained {cramped}: skipped"]) == 1  # that with NaN in the share of one


def test_stopped_and_resumed_equals_never_stopped(together: list[dict[str, torch.Tensor]]) -> None:
    names = [name.partition(": ")[2] for name in together[0] if name.startswith("resumed")]
    assert len(names) > 20
    for one in together:
        assert all(torch.equal(one[f"resumed: {name}"], one[f"trained : {name}"]) for name in names)


def test_where_memory_runs_out_in_one_all_go_on_in_pieces(together: list[dict[str, torch.Tensor]]) -> None:
    for one in together:
        assert one["trained : pieces"].tolist() == [1] * 6
        for cramped in ("forward", "back"):
            assert one[f"trained {cramped}: pieces"].tolist() == [2] * 6


def test_what_is_sent_and_asked_comes_from_all(together: list[dict[str, torch.Tensor]]) -> None:
    for one in together:
        assert [one[f"sent: {n}"].tolist() for n in (0, 1, 200)] == [list(range(n)) for n in (0, 1, 200)]
        assert one["any: any"].tolist() == [True, False]


def test_a_process_that_is_lost_ends_the_others_with_a_word(tmp_path: Path, launch) -> None:
    script = tmp_path / "lost.py"
    script.write_text(
        "import os\nfrom autoseg.errors import RunFailed\nfrom autoseg.steps.world import joined\n"
        "try:\n    with joined(os.environ) as world:\n        if world.rank:\n            os._exit(9)\n"
        "        while True:\n            world.any(False)\n"
        "except RunFailed as problem:\n    print(problem)\n"
    )
    first, second = launch(2, str(script))
    assert "process 0 of 2 has lost the others" in first.communicate(timeout=60)[0]
    assert first.returncode == 0 and second.communicate(timeout=60) and second.returncode == 9


def test_shares_are_contiguous_and_differ_by_one_at_most() -> None:
    for size in (1, 2, 3, 5):
        worlds = [World(rank, size).sharing(5) for rank in range(size)]
        assert [n for world in worlds for n in range(5)[world.share]] == list(range(5))
        assert max(worlds[0].counts) - min(worlds[0].counts) <= 1
    with pytest.raises(BadUsage, match=r"6 processes cannot share a batch of 5.*one process per sample.*start 5"):
        World(0, 6).sharing(5)


def test_devices_are_those_of_the_machine_in_order() -> None:
    assert [ALONE.device(wish) for wish in ("auto", "cuda:3", "mps")] == ["auto", "cuda:3", "mps"]
    assert [World(rank, 8, rank % 4).device("cuda") for rank in (0, 3, 6)] == ["cuda:0", "cuda:3", "cuda:2"]
    assert World(1, 2, 1).device("cpu") == "cpu"
    with pytest.raises(BadUsage, match=r"2 processes cannot train on cuda:1.*auto, cpu or cuda"):
        World(1, 2, 1).device("cuda:1")


def test_the_environment_tells_which_process_this_is() -> None:
    assert told({}) == ALONE == told({"WORLD_SIZE": "1", "RANK": "0"}) == told({**VARIABLES, "WORLD_SIZE": ""})
    assert told(VARIABLES) == World(1, 2, 1)
    with joined({"RANK": "3"}) as world:
        assert world == ALONE


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"RANK": ""}, "RANK is missing"),
        ({"LOCAL_RANK": "", "MASTER_ADDR": ""}, "LOCAL_RANK and MASTER_ADDR are missing"),
        ({"RANK": "2"}, "contradict each other"),
        ({"WORLD_SIZE": "two"}, "contradict each other"),
    ],
)
def test_an_environment_that_is_incomplete_is_refused(change: dict[str, str], message: str) -> None:
    with pytest.raises(BadUsage, match=rf"{message}.*torchrun"):
        told({**VARIABLES, **change})


if __name__ == "__main__":
    member(Path(sys.argv[1]))
