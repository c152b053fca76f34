"""Voxels near the borders between classes, which some benchmarks do not count."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.image import Mask


def near_borders(labels: NDArray[np.uint8], radius: int) -> Mask:
    """Where a voxel of another value lies within so many voxels, along diagonals too (a disc or ball).

    ISPRS leaves out the pixels within 3 of a border, as where it runs is a matter of opinion.

    Args:
        labels: (*S).
        radius: at least 1, in voxels. Beyond the image's edge there is no other value.
    """
    near = np.zeros(labels.shape, bool)
    for number, box in enumerate(ndimage.find_objects(labels.astype(np.int16) + 1)):
        if box is None:
            continue
        wide = tuple(slice(max(0, side.start - radius), side.stop + radius) for side in box)
        mine = labels[wide] == number
        if not mine.all():  # without another value there is no distance to one
            near[wide] |= mine & (ndimage.distance_transform_edt(mine) <= radius)
    return near
