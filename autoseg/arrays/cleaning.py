"""What is taken from a predicted label, or filled in, afterwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod

import cc3d
import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.boxes import bounding_box
from autoseg.arrays.components import label_components
from autoseg.image import Mask

Labels = NDArray[np.uint8]  # (*S), class indices; 0 is the background
Act = Callable[[Labels, Sequence[float]], Labels]  # with the spacing


def keep_largest(classes: dict[str, int], label: str | None = None) -> Act:
    """Keeps the largest connected object of a class, or of all classes taken as one, which is nnU-Net's rule.

    Args:
        classes: the index of every class above the background, by name.
        label: the class; all of them as one where none is named.
    """
    chosen = _chosen(classes, label)

    def act(labels: Labels, spacing: Sequence[float]) -> Labels:
        return _kept(labels, chosen, lambda sizes: np.arange(len(sizes)) == (sizes.argmax() if len(sizes) else 0))

    return act


def remove_small(classes: dict[str, int], size: float, label: str | None = None) -> Act:
    """Takes away the connected objects of a class, or of all classes taken as one, that are smaller than a size.

    Args:
        classes, label: as of `keep_largest`.
        size: in mm³ of volumes, m² of rasters, pixels of pictures without spacing.
    """
    if not size > 0:
        raise ValueError(f"size is {size}: want above 0")
    chosen = _chosen(classes, label)

    def act(labels: Labels, spacing: Sequence[float]) -> Labels:
        return _kept(labels, chosen, lambda sizes: sizes * prod(spacing) >= size)

    return act


def fill_holes(classes: dict[str, int], label: str) -> Act:
    """Gives a class the background that it encloses on all sides; other classes inside stay.

    Args:
        classes, label: as of `keep_largest`.
    """
    (index,) = _chosen(classes, label)

    def act(labels: Labels, spacing: Sequence[float]) -> Labels:
        filled: Labels = labels.copy()
        filled[holes(labels == index) & (labels == 0)] = index
        return filled

    return act


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
    numbers = cc3d.connected_components(outside.view(np.uint8), connectivity=6 if mask.ndim == 3 else 4)
    around = tuple(slice(wall, -wall or None) for wall in walls)
    enclosed[box] = (outside & (numbers != numbers.flat[0]))[around]
    return enclosed


def _chosen(classes: dict[str, int], label: str | None) -> list[int]:
    if label is None:
        return [*classes.values()]
    if label not in classes:
        raise ValueError(f"label is {label!r}: want one of {', '.join(classes)}")
    return [classes[label]]


def _kept(labels: Labels, chosen: Sequence[int], which: Callable[[NDArray[np.int64]], Mask]) -> Labels:
    """The labels without the objects of the chosen classes, as one, whose sizes are not `which`."""
    table = np.zeros(256, np.uint8)
    table[list(chosen)] = 1
    found = label_components(table[labels])
    keep = np.concatenate([[True], which(found.sizes)])
    kept: Labels = np.where(keep[found.numbers], labels, 0).astype(np.uint8)
    return kept
