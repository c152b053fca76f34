"""Where a step's time goes: every stage is counted once, and what is not measured costs and changes nothing."""

from __future__ import annotations

import time

import pytest
import torch

from autoseg.steps import stages, train
from autoseg.steps.batches import Batches
from autoseg.steps.stages import SELDOM, STAGES, Stages
from tests.steps.test_batches import Memorised, cases, configuration
from tests.steps.test_train import Squares, learner, same

CPU = torch.device("cpu")


class Clock:
    """Time that passes only when it is told to."""

    def __init__(self) -> None:
        self.now = 5.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    one = Clock()
    monkeypatch.setattr(stages.time, "perf_counter", one)
    return one


def test_seconds_add_up_and_what_no_stage_explains_is_the_rest(clock: Clock) -> None:
    one = Stages()
    for step, (read, forward, between) in enumerate([(1.0, 2.0, 0.5), (3.0, 4.0, 1.5)]):
        one.begin(step)
        for stage, seconds in (("read", read), ("forward", forward / 2), ("forward", forward / 2)):
            with one(stage):
                clock.now += seconds
            clock.now += between / 3
        one.end()
        clock.now += 100  # between two steps
    found = one.taken()
    assert [*found] == [*STAGES, "rest"]
    assert found == pytest.approx(dict.fromkeys(STAGES, 0.0) | {"read": 2.0, "forward": 3.0, "rest": 1.0})
    assert one.taken() == {}


def test_a_stage_that_fails_has_taken_its_time(clock: Clock) -> None:
    one = Stages()
    one.begin(0)
    with pytest.raises(MemoryError), one("forward"):
        clock.now += 2
        raise MemoryError
    one.end()
    assert one.taken()["forward"] == 2


def test_before_a_step_is_begun_and_after_it_ended_nothing_is_measured(clock: Clock) -> None:
    one = Stages()
    with one("forward"):
        clock.now += 1
    one.begin(0)
    one.end()
    with one("forward"):
        clock.now += 1
    assert one.taken() == dict.fromkeys([*STAGES, "rest"], 0.0)


def test_a_gpu_is_waited_for_in_one_of_fifty_steps(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[torch.device] = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    one = Stages(torch.device("cuda"))
    for step in range(2 * SELDOM):
        one.begin(step)
        with one("forward"):
            clock.now += 1
        one.end()
    assert one.steps == 2 and len(waited) == 2 * 4  # where the step and its stage begin and end
    assert one.taken()["forward"] == 1


def test_pieces_add_to_their_stages_and_measuring_changes_no_weight() -> None:
    watched, plain = learner(), learner()
    for one in (watched, plain):
        one.pieces = 2
    progress = list(train.train(watched, Squares(), 4, every=2))
    for step in range(4):
        train.learn(plain, *Squares().batch(step))
    assert same(watched.tensors(), plain.tensors())
    assert [bool(one.stages) for one in progress] == [False, True, False, True]
    assert all(progress[1].stages[stage] > 0 for stage in ("forward", "loss", "backward", "optimiser"))


def test_waiting_for_patches_is_read_and_changing_them_is_augment() -> None:
    class Slow(Memorised):
        def read(self, box):
            time.sleep(0.02)
            return super().read(box)

    (known,) = cases(1)
    one = Stages()
    batches = Batches([Slow(known.image, known.label)], configuration(batch=2), 1, 0, CPU)
    one.begin(0)
    for _ in batches.stream(0, 1, one):
        one.end()
    found = one.taken()
    assert 0.04 <= found["read"] < 1 and 0 < found["augment"] < 1
