"""Batches: replayable, of the right share, and what lies where it should."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from autoseg.augment.spatial import source_shape
from autoseg.image import IGNORE
from autoseg.records import Configuration, Memory, Network, Part, Question, Train
from autoseg.steps.batches import Batches
from autoseg.steps.preprocess import foreground_points

CPU = torch.device("cpu")
ALL = ("affine", "turns", "mirror", "noise", "blur", "brightness", "contrast", "low_resolution", "gamma")


class Memorised:
    """A case in memory that counts the voxels read of it."""

    def __init__(self, image: np.ndarray, label: np.ndarray) -> None:
        self.image, self.label, self.voxels = image, label, 0
        self.shape: Any = label.shape
        self.points = foreground_points(label, range(1, 4))

    def read(self, box: tuple[slice, ...]) -> tuple[np.ndarray, np.ndarray]:
        self.voxels += self.label[box].size
        return self.image[(slice(None), *box)], self.label[box]


def cases(count: int = 3, shape=(12, 20, 24)) -> list[Memorised]:
    """Images whose value is their position, so that a patch tells where it was cut."""
    made = []
    for number in range(count):
        label = np.zeros(shape, np.uint8)
        label[shape[0] // 2, 5:9, 5 + number : 9] = 1
        image = np.arange(label.size, dtype=np.float32).reshape(shape)[None] + 1
        made.append(Memorised(image, label))
    return made


def configuration(patch=(8, 8, 8), batch=4, augment=(), foreground=0.33) -> Configuration:
    dims = len(patch)
    network = Network.plain((4,), ((1,) * dims,))
    train = Train(
        loss="ce", augment=tuple(Part(name=n) for n in augment), steps=9, optimiser=Part(name="sgd"),
        schedule=Part(name="poly"), foreground=foreground,
    )  # fmt: skip
    return Configuration(
        spacing=(1.0,) * dims, patch=patch, batch=batch, normalise=(Part(name="none"),), resample=Part(name="keep"),
        network=network, train=train, memory=Memory(bytes=1, method=""),
    )  # fmt: skip


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8), (16, 32, 32), (32, 16)])
@pytest.mark.parametrize("augment", [(), ALL])
def test_any_batch_can_be_drawn_again(patch, augment) -> None:
    settings = configuration(patch, augment=augment)
    one, other = (Batches(cases(), settings, 1, 5, CPU) for _ in range(2))
    for step in (7, 0, 3):
        images, labels = one.batch(step)
        again, labels_again = other.batch(step)
        assert torch.equal(images, again) and torch.equal(labels, labels_again)
        assert images.shape == (4, 1, *patch) and labels.shape == (4, *patch)
        assert images.isfinite().all() and set(labels.unique().tolist()) <= {0, 1, IGNORE}


def test_a_stream_gives_the_same_batches() -> None:
    batches = Batches(cases(), configuration(augment=ALL), 1, 5, CPU)
    for step, (images, labels) in enumerate(batches.stream(2, 6), 2):
        expected = batches.batch(step)
        assert torch.equal(images, expected[0]) and torch.equal(labels, expected[1])


def test_seeds_and_steps_differ() -> None:
    settings = configuration()
    first = Batches(cases(), settings, 1, 0, CPU).batch(0)[0]
    assert not torch.equal(first, Batches(cases(), settings, 1, 0, CPU).batch(1)[0])
    assert not torch.equal(first, Batches(cases(), settings, 1, 1, CPU).batch(0)[0])


def test_without_augmentation_patches_are_cut_out_unchanged() -> None:
    sources = cases(1)
    batches = Batches(sources, configuration(), 1, 0, CPU)
    for sample, image in zip(batches.draw(0), batches.batch(0)[0], strict=True):
        box = tuple(slice(s, s + 8) for s in sample.start)
        assert np.array_equal(image[0].numpy(), sources[0].image[0][box])


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_a_third_of_each_batch_shows_foreground(patch) -> None:
    batches = Batches(cases(), configuration(patch, batch=6), 1, 0, CPU)
    for step in range(20):
        shown = (batches.batch(step)[1] == 1).flatten(1).any(1)
        assert shown[4:].all()
    one = Batches(cases(), configuration(patch, batch=1, foreground=1.0), 1, 0, CPU)
    assert all((one.batch(step)[1] == 1).any() for step in range(10))


def test_where_a_small_case_ends_the_label_is_ignored_and_the_image_zero() -> None:
    images, labels = Batches(cases(1, (4, 10, 10)), configuration((8, 16, 16)), 1, 0, CPU).batch(0)
    outside = labels == IGNORE
    assert outside.flatten(1).sum(1).tolist() == [8 * 16 * 16 - 400] * 4
    assert (images[:, 0][outside] == 0).all() and (images[:, 0][~outside] > 0).all()


def test_a_patch_costs_its_own_voxels() -> None:
    sources = cases(1, (40, 40, 40))
    batches = Batches(sources, configuration((16, 16, 16), augment=("mirror",)), 1, 0, CPU)
    batches.batch(0)
    assert sources[0].voxels == 4 * 16**3
    turned = Batches(sources, configuration((16, 16, 16), augment=("affine",)), 1, 0, CPU)
    samples = turned.draw(3)
    needed = sum(int(np.prod(source_shape(sample.matrix, (16, 16, 16)))) for sample in samples)
    sources[0].voxels = 0
    turned.read(samples)
    assert sources[0].voxels <= needed < 4 * 16**3 * 5


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_image_and_label_move_together(patch) -> None:
    rng = np.random.default_rng(0)
    label = (rng.random((3, 5, 5)) < 0.5).astype(np.uint8).repeat(6, 0).repeat(8, 1).repeat(8, 2)
    case = Memorised(label[None].astype(np.float32), label)
    batches = Batches([case], configuration(patch, augment=("affine", "turns", "mirror")), 1, 0, CPU)
    for step in range(10):
        images, labels = batches.batch(step)
        inside = labels != IGNORE
        agree = (images[:, 0].round() == labels)[inside].float().mean()
        assert agree > 0.97  # they part only where linear and nearest differ, at borders


# -- bending, exchanging and hiding --------------------------------------------------------------------


def with_parts(settings: Configuration, *parts: Part) -> Configuration:
    return settings.model_copy(update={"train": settings.train.model_copy(update={"augment": parts})})


BENT = Part(name="elastic", options={"probability": 0.5})
MORE = (BENT, *(Part(name=n, options={"probability": 0.5}) for n in ("cutout", "channel_dropout", "band_jitter")))


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_what_bends_and_hides_is_drawn_again_and_labels_stay_labels(patch) -> None:
    settings = with_parts(configuration(patch), Part(name="affine"), Part(name="mirror"), *MORE)
    one, other = (Batches(cases(), settings, 1, 5, CPU) for _ in range(2))
    for step in range(5):
        images, labels = one.batch(step)
        again, labels_again = other.batch(step)
        assert torch.equal(images, again) and torch.equal(labels, labels_again)
        assert images.isfinite().all() and set(labels.unique().tolist()) <= {0, 1, IGNORE}


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_what_is_not_bent_is_bit_for_bit_what_it_is_where_nothing_is(patch) -> None:
    batches = Batches(cases(), with_parts(configuration(patch), Part(name="affine"), BENT), 1, 5, CPU)
    bent = 0
    for step in range(6):
        samples = batches.draw(step)
        plain = [replace(s, fields=(), matrix=np.eye(len(patch))) if s.fields else s for s in samples]
        images, labels = batches.augment(samples, batches.read(samples))
        before, labels_before = batches.augment(plain, batches.read(plain))
        for n, sample in enumerate(samples):
            bent += bool(sample.fields)
            assert torch.equal(images[n], before[n]) == (not sample.fields)
            assert sample.fields or torch.equal(labels[n], labels_before[n])
    assert 0 < bent < 24


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_inside_a_case_a_field_reaches_nothing_that_was_not_read(patch) -> None:
    label = np.ones((30, 40, 40), np.uint8)
    case = Memorised(label[None].astype(np.float32), label)
    strong = Part(name="elastic", options={"probability": 1.0, "strength": [0.4, 0.4], "cells": [1, 1]})
    batches = Batches([case], with_parts(configuration(patch), strong, strong), 1, 0, CPU)
    samples = [replace(s, start=(14,) * len(patch)) for step in range(5) for s in batches.draw(step)]
    images, labels = batches.augment(samples, batches.read(samples))
    assert all(len(sample.fields) == 2 and not sample.exact for sample in samples)
    assert torch.allclose(images, torch.ones(()), atol=1e-4) and (labels == 1).all()


@pytest.mark.parametrize("more", [(), (Part(name="affine", options={"rotate": 1.0}),), (BENT,)])
def test_mirroring_exchanges_the_classes_of_what_it_flips_and_nothing_else(more) -> None:
    label = np.random.default_rng(0).integers(0, 4, (12, 20, 24)).astype(np.uint8)
    case = Memorised(label[None].astype(np.float32), label)
    swap = Part(name="mirror", options={"swap": [[1, 2]], "swap_axis": 2})
    plain, swapped = (
        Batches([case], with_parts(configuration(), *more, mirror), 1, 0, CPU) for mirror in (Part(name="mirror"), swap)
    )
    exchanged = np.arange(256, dtype=np.uint8)
    exchanged[[1, 2]] = 2, 1
    seen = set()
    for step in range(4):
        (images, labels), (same, others) = plain.batch(step), swapped.batch(step)
        assert torch.equal(images, same)
        for sample, one, other in zip(swapped.draw(step), labels.numpy(), others.numpy(), strict=True):
            seen.add(bool(sample.swaps))
            assert np.array_equal(other, exchanged[one] if sample.swaps else one)
            if not more:
                assert bool(sample.swaps) == (sample.matrix[2, 2] < 0)
    assert seen == {True, False}


def test_two_flips_along_the_axis_exchange_nothing() -> None:
    swap = Part(name="mirror", options={"swap": [[1, 2]], "swap_axis": 0})
    label = np.random.default_rng(0).integers(0, 4, (9, 12, 12)).astype(np.uint8)
    case = Memorised(label[None].astype(np.float32), label)
    batches = Batches([case], with_parts(configuration((8, 8)), swap, swap), 1, 0, CPU)
    counts = set()
    for step in range(8):
        for sample, image, other in zip(batches.draw(step), *batches.batch(step), strict=True):
            counts.add(len(sample.swaps))
            odd = len(sample.swaps) == 1
            assert odd == (sample.matrix[0, 0] < 0)
            expected = torch.tensor([0, 2, 1, 3] if odd else [0, 1, 2, 3])[image[0].long()]
            assert torch.equal(other.long(), expected)
    assert counts == {0, 1, 2}


def spotted(count: int = 3, shape=(12, 20, 24)) -> list[Memorised]:
    """Cases of noise with one small object each, whose value is 100 + its case."""
    made = []
    for number in range(count):
        label = np.zeros(shape, np.uint8)
        label[5:7, 9:11, 10:12] = 2
        image = np.random.default_rng(number).normal(size=(1, *shape)).astype(np.float32)
        image[0][label == 2] = 100 + number
        made.append(Memorised(image, label))
    return made


@pytest.mark.parametrize("patch", [(8, 8, 8), (16, 16)])
def test_objects_of_other_cases_are_pasted_whole_and_change_nothing_else(patch) -> None:
    settings = configuration(patch, batch=8, augment=("noise",))
    part = Part(name="copy_paste", options={"probability": 1.0, "largest": 0.1})
    train = settings.train.model_copy(update={"augment": (*settings.train.augment, part)})
    with_them = Batches(spotted(), settings.model_copy(update={"train": train}), 1, 5, CPU)
    without = Batches(spotted(), settings, 1, 5, CPU)
    pasted = 0
    for step in range(4):
        images, labels = with_them.batch(step)
        plain, plain_labels = without.batch(step)
        new = labels != plain_labels
        assert (labels[new] == 2).all() and (plain_labels[new] == 0).all()
        assert torch.equal(images[:, 0][~new], plain[:, 0][~new])
        assert (images[:, 0][new] > 90).all()
        objects = new.flatten(1).sum(1)
        assert set(objects.tolist()) <= {0, 8 if len(patch) == 3 else 4}
        pasted += int((objects > 0).sum())
    assert pasted > 8


def test_the_cases_of_a_run_that_followed_its_losses_can_be_drawn_again() -> None:
    settings = configuration(batch=2)
    hard = settings.train.model_copy(update={"sampling": Part(name="hard", options={"every": 20, "ratio": 9.0})})
    settings = settings.model_copy(update={"train": hard})
    run, losses, met = Batches(cases(6), settings, 1, 5, CPU), [], []
    for step, _ in enumerate(run.stream(0, 70)):
        met.append([sample.case for sample in run.draw(step)])
        losses.append(float("nan") if step == 9 else 1.0 + (0 in met[-1]))
        run.chooser.tell(step, losses[-1])
    for step in (0, 25, 69):
        again = Batches(cases(6), settings, 1, 5, CPU)
        again.replay(losses[:step])
        assert [sample.case for sample in again.draw(step)] == met[step]
    plain = configuration(batch=2)
    assert met[20:] != [[s.case for s in Batches(cases(6), plain, 1, 5, CPU).draw(n)] for n in range(20, 70)]


# -- the label of an earlier stage ---------------------------------------------------------------------

PAIR = Question.model_validate(
    {"reader": "nifti", "channels": [{"name": "a", "kind": "mr"}], "labels": {"no": 0, "a": 1, "b": 2, "c": 3}}
)
NESTED = PAIR.model_copy(update={"regions": {"all": (1, 2, 3), "b": (2,)}, "written": (1, 2)})
MISTAKES = (Part(name="morphology", options={"probability": 1.0}), Part(name="forget", options={"probability": 1.0}))


class Staged(Memorised):
    """A case that knows its label already."""

    def earlier(self, box: tuple[slice, ...]) -> np.ndarray:
        return self.label[box]


def staged(shape=(12, 20, 24)) -> list[Staged]:
    labels = [np.random.default_rng(n).integers(0, 4, [-(-s // 4) for s in shape]).astype(np.uint8) for n in range(3)]
    wide = [one.repeat(4, 0).repeat(4, 1).repeat(4, 2)[tuple(slice(s) for s in shape)] for one in labels]
    return [Staged(one[None].astype(np.float32), one) for one in wide]


def cascade(settings: Configuration, *parts: Part) -> Configuration:
    return with_parts(settings, *parts).model_copy(update={"previous": "3d_lowres"})


SWAP = Part(name="mirror", options={"swap": [[1, 2]], "swap_axis": 1})
MOVES = (Part(name="affine", options={"rotate": 0.5, "resize": 0.5}), BENT, SWAP)
HIDES = tuple(Part(name=n, options={"probability": 1.0}) for n in ("noise", "cutout", "channel_dropout"))


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8), (16, 32, 32)])
def test_an_earlier_label_moves_with_the_label_and_nothing_hides_it(patch) -> None:
    batches = Batches(staged(), cascade(configuration(patch), *MOVES, *HIDES), 1, 5, CPU, question=PAIR)
    for step in range(8):
        images, labels = batches.batch(step)
        assert images.shape == (4, 1 + 3, *patch) and labels.dtype == torch.uint8
        for number in range(3):
            assert torch.equal(images[:, 1 + number], (labels == number + 1).float())


@pytest.mark.parametrize("patch", [(8, 8, 8), (8, 8)])
def test_an_earlier_label_and_its_mistakes_change_nothing_else(patch) -> None:
    plain = Batches(staged(), with_parts(configuration(patch), *MOVES, *HIDES), 1, 5, CPU)
    more = Batches(staged(), cascade(configuration(patch), *MISTAKES, *MOVES, *HIDES), 1, 5, CPU, question=PAIR)
    ignoring = Batches(staged(), with_parts(configuration(patch), *MISTAKES, *MOVES, *HIDES), 1, 5, CPU, question=PAIR)
    for step in range(5):
        (images, labels), (others, same), (alike, also) = (one.batch(step) for one in (plain, more, ignoring))
        assert torch.equal(images, others[:, :1]) and torch.equal(labels, same)
        assert torch.equal(images, alike) and torch.equal(labels, also)


def test_mistakes_are_drawn_again_and_leave_zeros_and_ones() -> None:
    settings = cascade(configuration((16, 16, 16)), *MOVES, *MISTAKES)
    one, other = (Batches(staged(), settings, 1, 5, CPU, question=PAIR) for _ in range(2))
    differ = 0
    for step in (4, 0, 2):
        images, labels = one.batch(step)
        assert torch.equal(images, other.batch(step)[0])
        given = images[:, 1:]
        assert set(given.unique().tolist()) == {0, 1} and given.sum(1).max() == 1
        clean = torch.stack([labels == number for number in (1, 2, 3)], 1).float()
        differ += sum(not torch.equal(a, b) for a, b in zip(given, clean, strict=True))
    assert differ > 6
    plain = Batches(staged(), settings, 1, 5, CPU, augmented=False, question=PAIR)
    images, labels = plain.batch(0)
    assert torch.equal(images[:, 1], (labels == 1).float())


def test_an_earlier_label_becomes_the_regions_it_lies_in() -> None:
    batches = Batches(staged(), cascade(configuration(), *MOVES), 1, 5, CPU, question=NESTED)
    images, labels = batches.batch(1)
    assert torch.equal(images[:, 1], ((labels >= 1) & (labels <= 3)).float())
    assert torch.equal(images[:, 2], (labels == 2).float()) and images.shape[1] == 3
