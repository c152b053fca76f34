"""What lies near a border between classes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from autoseg.arrays.margins import near_borders


@pytest.mark.parametrize("radius", [1, 3])
@pytest.mark.parametrize("shape", [(20, 24), (9, 10, 11)])
def test_a_voxel_is_near_when_the_nearest_one_of_another_class_is(shape: tuple[int, ...], radius: int) -> None:
    labels = np.random.default_rng(0).integers(0, 3, [-(-side // 4) for side in shape]).astype(np.uint8)
    for axis, side in enumerate(shape):
        labels = np.take(labels.repeat(4, axis), range(side), axis)
    wanted = np.zeros(shape, bool)
    for value in range(3):
        mine = labels == value
        wanted |= mine & (distance_transform_edt(mine) <= radius)
    np.testing.assert_array_equal(near_borders(labels, radius), wanted)


def test_an_even_label_has_no_border() -> None:
    assert not near_borders(np.ones((5, 5), np.uint8), 3).any()
    assert not near_borders(np.ones((1, 1), np.uint8), 3).any()
