"""What is taken from a predicted label, or filled in, afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import prod

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays import strips
from autoseg.arrays.boxes import bounding_box
from autoseg.arrays.components import numbered
from autoseg.arrays.strips import Rows
from autoseg.image import Mask

Labels = NDArray[np.uint8]  # (*S), class indices; 0 is the background
Act = Callable[[Labels, Sequence[float]], Labels]  # with the spacing


def keep_largest(classes: dict[str, int], label: str | None = None) -> Act:
    """Keeps the largest connected object of a class, or of all classes taken as one, which is nnU-Net's rule.

    Args:
        classes: the index of every class above the background, by name.
        label: the class; all of them as one where none is named.
    """
    return Removal(
        _chosen(classes, label), lambda sizes: np.arange(len(sizes)) == (sizes.argmax() if len(sizes) else 0)
    )  # fmt: skip


def remove_small(classes: dict[str, int], size: float, label: str | None = None) -> Act:
    """Takes away the connected objects of a class, or of all classes taken as one, that are smaller than a size.

    Args:
        classes, label: as of `keep_largest`.
        size: in mm³ of volumes, m² of rasters, pixels of pictures without spacing.
    """
    if not size > 0:
        raise ValueError(f"size is {size}: want above 0")
    return Removal(_chosen(classes, label), lambda sizes: sizes >= size)


def fill_holes(classes: dict[str, int], label: str) -> Act:
    """Gives a class the background that it encloses on all sides; other classes inside stay.

    Args:
        classes, label: as of `keep_largest`.
    """
    (index,) = _chosen(classes, label)
    return Filling(index)


@dataclass(frozen=True)
class Removal:
    """Takes away the connected objects of the chosen classes, as one, that `which` does not keep by their sizes."""

    chosen: Sequence[int]
    which: Callable[[NDArray[np.float64]], Mask]

    def __call__(self, labels: Labels, spacing: Sequence[float]) -> Labels:
        numbers, found = numbered(self._mask(labels))
        sizes = np.bincount(numbers.ravel(), minlength=found + 1)[1:].astype(np.float64)
        return _without(labels, numbers, self.which(sizes * prod(spacing)))

    def in_strips(self, label: Rows, each: int, spacing: Sequence[float]) -> None:
        """Does it to a label that is looked at `each` rows at a time."""
        found = strips.joined(label, each, self._mask)
        keep = self.which(found.sizes.astype(np.float64) * prod(spacing))
        for rows, objects in zip(strips.parts(label, each), found.objects, strict=True):
            strip = label[rows]
            label[rows] = _without(strip, numbered(self._mask(strip))[0], keep[objects])

    def _mask(self, labels: Labels) -> Labels:
        table = np.zeros(256, np.uint8)
        table[list(self.chosen)] = 1
        found: Labels = table[labels]
        return found


@dataclass(frozen=True)
class Filling:
    """Gives a class the background that it encloses."""

    index: int

    def __call__(self, labels: Labels, spacing: Sequence[float]) -> Labels:
        filled: Labels = labels.copy()
        filled[holes(labels == self.index) & (labels == 0)] = self.index
        return filled

    def in_strips(self, label: Rows, each: int, spacing: Sequence[float]) -> None:
        """As of `Removal`."""
        if sum(size > 1 for size in label.shape) < 2:
            return
        found = strips.joined(label, each, self._around, corners=False)
        for rows, objects in zip(strips.parts(label, each), found.objects, strict=True):
            strip = label[rows]
            enclosed = np.concatenate([[False], ~found.open[objects]])[numbered(self._around(strip), corners=False)[0]]
            label[rows] = np.where(enclosed & (strip == 0), np.uint8(self.index), strip)

    def _around(self, labels: Labels) -> Labels:
        around: Labels = (labels != self.index).view(np.uint8)
        return around


def holes(mask: Mask) -> Mask:
    """What a mask (y, x) or (z, y, x) encloses: what no path over faces leads out of. The image's edge is open.

    An axis of one voxel has no walls; a mask of fewer than two others encloses nothing.
    """
    enclosed = np.zeros(mask.shape, bool)
    if not mask.any() or sum(size > 1 for size in mask.shape) < 2:
        return enclosed
    box = bounding_box(mask)
    walls = [int(size > 1) for size in mask.shape]  # what is enclosed lies in the mask's box
    outside = np.pad(~mask[box], [(wall, wall) for wall in walls], constant_values=True)
    # over faces, as the mask itself is connected over corners
    numbers, _ = numbered(outside, corners=False)
    around = tuple(slice(wall, -wall or None) for wall in walls)
    enclosed[box] = (outside & (numbers != numbers.flat[0]))[around]
    return enclosed


def _chosen(classes: dict[str, int], label: str | None) -> list[int]:
    if label is None:
        return [*classes.values()]
    if label not in classes:
        raise ValueError(f"label is {label!r}: want one of {', '.join(classes)}")
    return [classes[label]]


def _without(labels: Labels, numbers: NDArray[np.unsignedinteger], keep: Mask) -> Labels:
    """The labels without the numbered objects that are not kept."""
    found: Labels = np.where(np.concatenate([[True], keep])[numbers], labels, 0).astype(np.uint8)
    return found
