"""One class as it was predicted and as it is, and what a measure of the two is."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from autoseg.image import IGNORE, Mask

DENSE = 0.05  # of a box: with more surface than this a distance map is faster than a tree


Counts = tuple[int, int, int]  # objects found, objects predicted, objects there


@dataclass(frozen=True)
class Measure:
    """A measure of a `Pair`; None where neither was predicted nor is there, whatever the measure.

    Attributes:
        of: its value where both sides have voxels.
        lacking: its value where one side has none.
        said: what it is, in a few words, with the values of its options.
        better: which of two values is the better one.
        unit: "spacing" for lengths in the unit of the spacing, "" for ratios.
        counts: what is counted for it, where it can be pooled over cases.
        ratio: its value from those counts; None where they are all 0.
    """

    of: Callable[[Pair], float | None]
    lacking: Callable[[Pair], float | None]
    said: str
    better: Literal["higher", "lower"] = "higher"
    unit: Literal["", "spacing"] = ""
    counts: Callable[[Pair], Counts] | None = None
    ratio: Callable[[int, int, int], float | None] | None = None

    def __call__(self, pair: Pair) -> float | None:
        there, found = bool(pair.reference.any()), bool(pair.prediction.any())
        if there and found:
            return self.of(pair)
        return self.lacking(pair) if there or found else None


def zero(_: Pair) -> float:
    """What a ratio is worth where one side is empty."""
    return 0.0


@dataclass(frozen=True, eq=False)
class Pair:
    """One class, or region, of one case.

    Attributes:
        prediction, reference: bool (*S), cut to the box that holds both; the voxels around it are in neither.
        spacing: along each axis, in millimetres (volumes) or metres (rasters).
        starts: where in the image the box begins.
        shape: of the whole image.
        voxels: of the image that count: all but those that are ignored.
    """

    prediction: Mask
    reference: Mask
    spacing: tuple[float, ...]
    starts: tuple[int, ...]
    shape: tuple[int, ...]
    voxels: int

    @property
    def diagonal(self) -> float:
        """Of the whole image, in the unit of the spacing."""
        return math.hypot(*(size * side for size, side in zip(self.shape, self.spacing, strict=True)))

    @property
    def axes(self) -> tuple[int, ...]:
        """The axes along which the image has more than one voxel; all of them for an image of one voxel."""
        return tuple(axis for axis, size in enumerate(self.shape) if size > 1) or tuple(range(len(self.shape)))

    @cached_property
    def distances(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """From each surface voxel of the prediction to the nearest of the reference, and the other way round.

        Both must have voxels. The surface is of the voxels with a face neighbour outside (see `surface`).
        """
        ours, theirs = (surface(mask, self.axes) for mask in (self.prediction, self.reference))
        return _towards(ours, theirs, self.spacing), _towards(theirs, ours, self.spacing)


def surface(mask: Mask, axes: Sequence[int]) -> Mask:
    """The voxels of a mask (*S) with a face neighbour along those axes that is not in it; beyond the edge none is."""
    inner = mask.copy()
    for axis in axes:
        into, of = np.moveaxis(inner, axis, 0), np.moveaxis(mask, axis, 0)
        into[:-1] &= of[1:]
        into[1:] &= of[:-1]
        into[[0, -1]] = False
    border: Mask = mask & ~inner
    return border


def _towards(here: Mask, there: Mask, spacing: Sequence[float]) -> NDArray[np.float64]:
    """The distance of every voxel of `here` to the nearest of `there`, zeros among them."""
    far = here & ~there
    distances = np.zeros(int(np.count_nonzero(here)))
    if not far.any():
        return distances
    if np.count_nonzero(far) + np.count_nonzero(there) > DENSE * here.size:
        found = ndimage.distance_transform_edt(~there, sampling=spacing)[far]
    else:
        tree = cKDTree(_places(there, spacing), leafsize=32, balanced_tree=False, compact_nodes=False)
        found = tree.query(_places(far, spacing))[0]
    distances[: len(found)] = found
    return distances


def _places(mask: Mask, spacing: Sequence[float]) -> NDArray[np.float64]:
    at = np.unravel_index(np.flatnonzero(mask), mask.shape)
    return np.stack(at, axis=1).astype(np.float64) * np.asarray(spacing, np.float64)


def pairs(
    prediction: NDArray[np.uint8], reference: NDArray[np.uint8], groups: Sequence[Sequence[int]],
    spacing: Sequence[float],
) -> Iterator[Pair]:  # fmt: skip
    """A pair for each group of class indices, taken as one: a class, or a region of several; one after the other, as
    those of many classes are large together.

    Args:
        prediction, reference: class indices (*S) on one grid. Where the reference is IGNORE, neither has anything.
    """
    ignored = reference == IGNORE
    voxels = int(reference.size - np.count_nonzero(ignored))
    if voxels < reference.size:
        prediction = np.where(ignored, IGNORE, prediction)
    boxes = [ndimage.find_objects(np.where(label == IGNORE, 0, label + 1)) for label in (prediction, reference)]
    for group in groups:
        yield _pair(prediction, reference, group, boxes, tuple(spacing), voxels)


def _pair(
    prediction: NDArray[np.uint8], reference: NDArray[np.uint8], group: Sequence[int], boxes: list[list[Any]],
    spacing: tuple[float, ...], voxels: int,
) -> Pair:  # fmt: skip
    met = [found[index] for found in boxes for index in group if index < len(found) and found[index] is not None]
    axes = range(reference.ndim)
    starts = tuple(min((box[axis].start for box in met), default=0) for axis in axes)
    ends = tuple(max((box[axis].stop for box in met), default=0) for axis in axes)
    window = tuple(slice(start, end) for start, end in zip(starts, ends, strict=True))
    masks = [_any_of(label[window], group) for label in (prediction, reference)]
    return Pair(masks[0], masks[1], spacing, starts, reference.shape, voxels)


def _any_of(label: NDArray[np.uint8], group: Sequence[int]) -> Mask:
    if len(group) == 1:
        one: Mask = label == group[0]
        return one
    table = np.zeros(256, bool)
    table[list(group)] = True
    return table[label]
