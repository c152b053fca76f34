"""Early signs: whole cases are predicted as often as the run can afford, and counted as scores count."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from autoseg.arrays.metrics import dice
from autoseg.records import Channel, Configuration, Memory, Network, Part, Question, Train
from autoseg.steps import predict
from autoseg.steps.batches import Batches
from autoseg.steps.early import CASES, FORWARD, LOOKS, SHARE, _tiles, averaged, looks, whole_dice
from autoseg.steps.learner import build
from autoseg.steps.preprocess import foreground_points

CPU = torch.device("cpu")
QUESTION = Question(
    reader="nifti", channels=(Channel(name="a", kind="other"),), labels={"background": 0, "a": 1, "b": 2}
)


class Held:
    """A case in memory."""

    def __init__(self, shape, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.shape, self.image = shape, rng.normal(size=(1, *shape)).astype(np.float16)
        self.label = rng.integers(0, 3, shape).astype(np.uint8)
        self.label[0, 0] = 255
        self.points = foreground_points(self.label, range(1, 3))

    def read(self, box):
        return self.image[(slice(None), *box)], self.label[box]

    def earlier(self, box):
        raise AssertionError("no cascade")


def configuration(patch=(8, 8, 8), batch=2, steps=1000, average=None) -> Configuration:
    dims = len(patch)
    settings = Train(
        loss="ce", augment=(), steps=steps, optimiser=Part(name="sgd"), schedule=Part(name="poly"), foreground=0.3,
        average=average,
    )  # fmt: skip
    return Configuration(
        spacing=(1.0,) * dims, patch=patch, batch=batch, normalise=(Part(name="none"),), resample=Part(name="keep"),
        network=Network.plain((2, 4), ((1,) * dims, (2,) * dims)), train=settings, memory=Memory(bytes=1, method=""),
    )  # fmt: skip


def validation(shapes, settings: Configuration) -> Batches:
    cases = [Held(shape, number) for number, shape in enumerate(shapes)]
    return Batches(cases, settings, 1, 0, CPU, augmented=False)


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
@pytest.mark.parametrize("steps", [1, 7, 40, 300, 5000])
@pytest.mark.parametrize("shapes", [[(8, 8, 8)] * 9, [(20, 30, 40)] * 3, [(5, 6, 7), (40, 40, 40)]])
@pytest.mark.parametrize("processes", [1, 4])
def test_what_is_looked_at_costs_no_more_than_its_share(patch, steps, shapes, processes) -> None:
    settings = configuration(patch, steps=steps)
    found = looks(validation(shapes, settings), settings, 3, processes)
    if found is None:
        fewest = min(_tiles(shape, settings) for shape in [shapes[0]])
        assert fewest * FORWARD > SHARE * steps * settings.batch / processes
        return
    assert 1 <= len(found.cases) <= CASES and len(set(found.cases)) == len(found.cases)
    assert 1 <= len(found.steps) <= LOOKS and max(found.steps) == steps and min(found.steps) >= 1
    tiles = sum(_tiles(shapes[number], settings) for number in found.cases)
    assert len(found.steps) * tiles * FORWARD <= SHARE * steps * settings.batch / processes


def test_a_long_run_looks_at_the_most_cases_as_often_as_it_may() -> None:
    settings = configuration(steps=100_000)
    found = looks(validation([(8, 8, 8)] * 9, settings), settings, 3)
    assert found is not None and found.cases == (0, 3, 5, 8)
    assert found.steps == frozenset(range(10_000, 100_001, 10_000))


def test_cases_whose_prediction_would_not_fit_the_memory_are_left_alone() -> None:
    settings = configuration(steps=10**6)
    held = validation([(8, 8, 8), (10, 8, 8)], settings)
    held.cases[0].shape = (1000, 1000, 1000)  # type: ignore[misc]
    found = looks(held, settings, 3)
    assert found is not None and found.cases == (1,)


class Brightest(nn.Module):
    """Class 0, 1 or 2 for values below 0, up to 0.5 and above."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [torch.cat([-x.abs() * (x > 0) + (x <= 0), (x > 0) & (x <= 0.5), x > 0.5], 1).float()]


def test_the_dice_of_whole_cases_is_that_of_the_measures() -> None:
    settings = configuration(steps=100_000)
    held = validation([(12, 9, 10), (8, 16, 8)], settings)
    learner = build(settings, QUESTION, 0, CPU, "float32")
    learner.network = Brightest()
    found = looks(held, settings, 3)
    assert found is not None
    expected = []
    for case in held.cases:
        prediction = np.digitize(case.image[0], [0, 0.5], right=True)
        keep = case.label != 255
        expected.append([dice((prediction == n)[keep], (case.label == n)[keep]) for n in (1, 2)])
    assert np.allclose(whole_dice(learner, found), np.mean(expected, 0), atol=1e-12)


def test_the_running_average_is_there_within_and_the_weights_are_back_after() -> None:
    learner = build(configuration(average=0.9), QUESTION, 0, CPU, "float32")
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    for value in learner.average.values():
        value.add_(1)
    with averaged(learner):
        assert all(torch.equal(value, before[name] + 1) for name, value in learner.network.named_parameters())
    assert all(torch.equal(value, before[name]) for name, value in learner.network.state_dict().items())


def test_memory_that_does_not_hold_a_case_leaves_its_dice_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = configuration(steps=100_000)
    found = looks(validation([(12, 9, 10)], settings), settings, 3)
    learner = build(settings, QUESTION, 0, CPU, "float32")
    assert found is not None

    def full(*_: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(predict, "predict_logits", full)
    assert whole_dice(learner, found) == (None, None)
    monkeypatch.setattr(predict, "predict_logits", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        whole_dice(learner, found)
