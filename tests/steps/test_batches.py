"""Batches: replayable, of the right share, and what lies where it should."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from autoseg.augment.spatial import source_shape
from autoseg.image import IGNORE
from autoseg.records import Configuration, Memory, Network, Part, Train
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
