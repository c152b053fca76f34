"""Labels that lie beside what they draw."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from autoseg.arrays.alignment import best_shift, borders


def blobs(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image and the label of what is bright in it."""
    rng = np.random.default_rng(seed)
    label = (ndimage.gaussian_filter(rng.normal(0, 1, shape), 3) > 0.02).astype(np.uint8)
    return (label * 100 + rng.normal(0, 10, shape)).astype(np.float32)[None], label


@pytest.mark.parametrize("shape", [(7, 6), (1, 5), (1, 1), (4, 5, 3)])
def test_borders_are_where_neighbours_differ(shape: tuple[int, ...]) -> None:
    label = np.random.default_rng(0).integers(0, 3, shape)
    expected = np.zeros(label.shape, bool)
    for place in np.ndindex(label.shape):
        for axis in range(label.ndim):
            for step in (-1, 1):
                other = list(place)
                other[axis] += step
                if 0 <= other[axis] < label.shape[axis]:
                    expected[place] |= label[tuple(other)] != label[place]
    assert np.array_equal(borders(label), expected)


@pytest.mark.parametrize(
    ("shape", "shift"),
    [
        ((120, 90), (0, 0)),
        ((120, 90), (5, -3)),
        ((120, 90), (-7, 7)),
        ((40, 44, 48), (3, 0, -4)),
        ((3, 90, 90), (0, 4, 4)),
    ],
)
def test_a_shift_is_found_and_undone(shape: tuple[int, ...], shift: tuple[int, ...]) -> None:
    image, label = blobs(shape)
    moved = np.roll(label, shift, axis=tuple(range(label.ndim)))
    found = best_shift(image, borders(moved))
    assert found is not None and found.voxels == tuple(-step for step in shift)
    assert found.gain == 0 if not any(shift) else found.gain > 2


def test_brightness_channels_and_invalid_voxels_do_not_matter() -> None:
    image, label = blobs((100, 100))
    border = borders(np.roll(label, 4, axis=0))
    huge = np.concatenate([image, -image * 0.2]) * np.float32(1e30)
    valid = np.ones(label.shape, bool)
    valid[50] = False
    huge[:, 50] = np.nan
    one, other = best_shift(image, border), best_shift(huge, border, valid)
    assert one is not None and other is not None and one.voxels == other.voxels == (-4, 0)


def test_a_part_of_a_large_image_is_enough() -> None:
    image, label = blobs((1400, 1100))
    found = best_shift(image, borders(np.roll(label, -6, axis=1)))
    assert found is not None and found.voxels == (0, 6)


def test_nothing_is_said_where_nothing_can_be_told() -> None:
    image, label = blobs((60, 60))
    assert best_shift(image, borders(label * 0)) is None
    assert best_shift(image * 0, borders(label)) is None
    assert best_shift(np.ones((1, 1, 1)), np.zeros((1, 1), bool)) is None
    assert best_shift(image, borders(np.roll(label, 8, axis=0))) is None  # as far as was looked, or further
