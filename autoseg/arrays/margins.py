"""Voxels near the borders between classes, which some benchmarks do not count."""

from __future__ import annotations

from itertools import product

import numpy as np
from numpy.typing import NDArray

from autoseg.image import Mask


def near_borders(labels: NDArray[np.uint8], radius: int) -> Mask:
    """Where a voxel of another value lies within so many voxels, along diagonals too (a disc or ball).

    ISPRS leaves out the pixels within 3 of a border, as where it runs is a matter of opinion.

    Args:
        labels: (*S).
        radius: at least 1, in voxels. Beyond the image's edge there is no other value.
    """
    near = np.zeros(labels.shape, bool)
    for step in product(range(-radius, radius + 1), repeat=labels.ndim):
        # one of each pair of opposite steps: both voxels of a difference are marked
        if step > (0,) * labels.ndim and sum(side * side for side in step) <= radius * radius:
            here, there = (tuple(_kept(side * sign) for side in step) for sign in (1, -1))
            differ = labels[here] != labels[there]
            near[here] |= differ
            near[there] |= differ
    return near


def _kept(step: int) -> slice:
    """What of an axis has a neighbour so many voxels on."""
    return slice(-step, None) if step < 0 else slice(0, -step or None)
