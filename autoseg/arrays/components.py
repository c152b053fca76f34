"""Connected components of masks and labels; voxels that share a corner belong together."""

from __future__ import annotations

from typing import Any, NamedTuple

import cc3d
import numpy as np
from numpy.typing import NDArray

from autoseg.image import Mask

CONNECTIVITY = {(2, True): 8, (3, True): 26, (2, False): 4, (3, False): 6}  # by axes, and whether over corners


class Components(NamedTuple):
    """The connected components of a label.

    Attributes:
        numbers: unsigned integers of the label's shape: 0 for background, else 1..N.
        classes: (N,) uint8, the label's value in component i + 1.
        sizes: (N,) int64, its voxels.
    """

    numbers: NDArray[Any]
    classes: NDArray[np.uint8]
    sizes: NDArray[np.int64]


def label_components(labels: NDArray[np.uint8]) -> Components:
    """The components of every class at once: touching voxels of one value, 8 (2-D) or 26 (3-D) neighbours.

    Args:
        labels: (y, x) or (z, y, x); 0 is background; every other value, 255 too, has components.

    Returns: components numbered in the order in which they are met; none for an empty label.
    """
    numbers, found = numbered(labels)
    classes = np.zeros(found + 1, dtype=np.uint8)
    classes[numbers.ravel()] = labels.ravel()
    sizes = np.bincount(numbers.ravel(), minlength=found + 1)
    return Components(numbers, classes[1:], sizes[1:].astype(np.int64))


def touching(components: Components, where: Mask) -> Mask:
    """Which components, bool (N,), have a voxel where the mask (*S) is True."""
    touched = np.zeros(len(components.sizes) + 1, bool)
    touched[components.numbers[where]] = True
    return touched[1:]


def count(mask: Mask) -> int:
    """Number of components of a mask (y, x) or (z, y, x); 0 when it is empty."""
    return numbered(mask)[1]


def sizes(mask: Mask) -> NDArray[np.int64]:
    """Voxels of each component of a mask, (N,); empty for an empty mask."""
    numbers, found = numbered(mask)
    return np.bincount(numbers.ravel(), minlength=found + 1)[1:].astype(np.int64)


def keep_largest(mask: Mask) -> Mask:
    """The largest component of a mask, the first met among equals; all False for an empty mask."""
    numbers, found = numbered(mask)
    if found == 0:
        return np.zeros(mask.shape, dtype=bool)
    voxels = np.bincount(numbers.ravel(), minlength=found + 1)
    largest: Mask = numbers == 1 + int(voxels[1:].argmax())
    return largest


def numbered(labels: NDArray[Any], corners: bool = True) -> tuple[NDArray[Any], int]:
    """The number of the component of every voxel, from 1, 0 for background, and how many there are.

    Args:
        corners: whether voxels that share no more than a corner belong together.
    """
    if labels.ndim not in (2, 3):
        raise ValueError(f"components of {labels.ndim} axes: want (y, x) or (z, y, x)")
    if not labels.size:
        return np.zeros(labels.shape, dtype=np.uint16), 0
    if labels.dtype == bool:  # cc3d 4.1 fails on bool volumes one voxel thick: its table is too short
        labels = labels.view(np.uint8)
    numbers, found = cc3d.connected_components(
        np.ascontiguousarray(labels), connectivity=CONNECTIVITY[labels.ndim, corners], return_N=True
    )
    return numbers, int(found)
