"""Several raters: whose label a sample has, what the network is told of it, and what prediction takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from autoseg.nets.inserts.rater import Rater
from autoseg.records import Channel, Configuration, Insert, Memory, Network, Part, Question, Train
from autoseg.steps import train
from autoseg.steps.batches import Batches
from autoseg.steps.design import Variant
from autoseg.steps.learner import build
from autoseg.steps.raters import asked

CPU = torch.device("cpu")
QUESTION = Question(
    reader="raster", channels=(Channel(name="a", kind="other"),), labels={"background": 0, "a": 1},
    raters=("first", "second", "third"),
)  # fmt: skip


@dataclass
class Rated:
    """A bright square; every further rater draws it a voxel wider on all sides."""

    raters: tuple[int, ...] = (0, 1, 2)

    def __post_init__(self) -> None:
        self.shape: Any = (1, 24, 24)
        self.points = {1: np.argwhere(self.label_by(self.raters[0], (slice(None),) * 3)).astype(np.int32)}

    def label_by(self, rater: int, box) -> np.ndarray:
        label = np.zeros(self.shape, np.uint8)
        label[0, 8 - rater : 16 + rater, 8 - rater : 16 + rater] = 1
        return label[box]

    def read(self, box) -> tuple[np.ndarray, np.ndarray]:
        image = 2.0 * self.label_by(0, (slice(None),) * 3)[None] - 1
        return image[(slice(None), *box)].astype(np.float32), self.label_by(self.raters[0], box)

    def earlier(self, box) -> np.ndarray:
        raise AssertionError("no cascade")


def configuration(inserts: tuple[Insert, ...], steps: int = 120) -> Configuration:
    settings = Train(
        loss="dice+ce", augment=(Part(name="mirror"),), steps=steps, schedule=Part(name="poly"), foreground=0.3,
        optimiser=Part(name="adamw", options={"rate": 0.01}),
    )  # fmt: skip
    return Configuration(
        spacing=(1.0, 1.0), patch=(24, 24), batch=4, normalise=(Part(name="none"),), resample=Part(name="keep"),
        network=Network.plain((6, 8), ((1, 1), (2, 2)), inserts=inserts), train=settings,
        memory=Memory(bytes=1, method=""),
    )  # fmt: skip


def told() -> tuple[Insert, ...]:
    return asked(Variant(), QUESTION, {}).inserts


def test_a_vector_per_rater_is_planned_where_there_are_several_unless_the_user_places_them() -> None:
    because: dict[str, str] = {}
    assert [insert.text for insert in asked(Variant(), QUESTION, because).inserts] == ["rater(raters=3)@head"]
    assert "first, second, third" in because["question.raters"]
    own = Variant(inserts=(Insert(part=Part(name="rater", options={"raters": 3}), place="decoder"),))
    assert asked(own, QUESTION, {}) == own
    assert asked(Variant(), QUESTION.model_copy(update={"raters": ()}), {}) == Variant()


def test_a_sample_has_the_label_of_the_rater_that_its_last_channel_names() -> None:
    batches = Batches([Rated(), Rated((2, 1))], configuration(told()), 1, 5, CPU)
    met = set()
    for step in range(12):
        images, labels = batches.batch(step)
        assert images.shape == (4, 2, 24, 24)
        for image, label, sample in zip(images, labels, batches.draw(step), strict=True):
            assert (image[1] == sample.rater).all()
            assert (label == 1).sum() == (8 + 2 * sample.rater) ** 2
            met.add((sample.case, sample.rater))
    assert met == {(0, 0), (0, 1), (0, 2), (1, 2), (1, 1)}


def test_without_vectors_the_first_raters_label_is_taken_and_no_channel_added() -> None:
    images, labels = Batches([Rated((1, 0))], configuration(()), 1, 5, CPU).batch(0)
    assert images.shape == (4, 1, 24, 24) and ((labels == 1).sum((1, 2)) == 100).all()
    plain = Batches([Rated()], configuration(told()), 1, 5, CPU, augmented=False).batch(0)
    assert plain[0].shape[1] == 1


def test_with_no_rater_the_mean_of_the_vectors_is_added() -> None:
    insert = Rater(2, 3, 2)
    with torch.no_grad():
        insert.vectors.copy_(torch.tensor([[1.0, 2, 3], [5, 2, -7]]))
    x = torch.zeros(2, 3, 4, 4)
    assert torch.equal(insert(x)[0, :, 0, 0], torch.tensor([3.0, 2, -2 * 0.01]))
    insert.given = torch.tensor([1, 0])
    assert torch.equal(insert(x)[:, :, 1, 2], torch.tensor([[5.0, 2, -7 * 0.01], [1, 2, 3]]))


def test_the_network_learns_what_each_rater_draws_and_predicts_between_them() -> None:
    settings = configuration(told())
    learner = build(settings, QUESTION, 1, CPU, "float32")
    batches = Batches([Rated((0, 2))], settings, 1, 5, CPU)
    for _ in train.train(learner, batches, 120):
        pass
    learner.network.eval()
    image = torch.from_numpy(Rated().read((slice(None),) * 3)[0])[:, 0][None]

    def found(rater: int | None) -> int:
        given = image if rater is None else torch.cat([image, torch.full_like(image, rater)], 1)
        with torch.no_grad():
            return int((learner.network(given)[0].argmax(1) == 1).sum())

    narrow, wide = found(0), found(2)
    assert abs(narrow - 64) < 12 and abs(wide - 144) < 25
    assert narrow <= found(None) <= wide
