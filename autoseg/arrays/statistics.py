"""What is measured of the values of a channel and of the objects in a label; pure functions of arrays."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.arrays.components import label_components, touching
from autoseg.image import Mask
from autoseg.records import Objects, Values

DISTINCT = 64  # more values than this are not listed
QUANTILES = (0, 25, 50, 75, 100)  # percent, of the sizes of objects
IMAGE, BEFORE, AFTER = 1, 2, 3  # in a rim: the image's edge, and where a window cuts at its begin or at its end
# faces of voxels by the true border: their mean over all directions (Cauchy-Crofton)
FACES = {2: 4 / math.pi, 3: 1.5}
THUMB = (16, 18)  # rows and columns of means
TELLING = 64  # of the 256 bits of a thumb must be set
ROWS = 512  # of a table of all pairs that are held at once


def describe_values(values: NDArray[Any]) -> Values | None:
    """What kind of numbers (N,) finite values are; None when there are none."""
    if not values.size:
        return None
    low, high = values.min(), values.max()
    saturated = float(np.count_nonzero(values == high) / values.size)
    if values.dtype.kind == "f" and not _all_whole(values):
        bits = 0 if low == high else values.dtype.itemsize * 8
        return Values(whole=False, bits=bits, saturated=saturated)
    span = int(high) - int(low)
    return Values(whole=True, bits=span.bit_length(), saturated=saturated, distinct=_distinct(values, int(low)))


def _all_whole(values: NDArray[Any]) -> bool:
    few = values[:1000]
    return bool((few == np.rint(few)).all() and (values == np.rint(values)).all())


def _distinct(values: NDArray[Any], low: int) -> tuple[int, ...] | None:
    """The values, all whole, when there are few."""
    if len(np.unique(values[:1000])) > DISTINCT:
        return None
    small = values.dtype.kind in "iu" and values.dtype.itemsize <= 2
    # int32, as the difference of two values need not fit their dtype
    met = np.flatnonzero(np.bincount(values.astype(np.int32) - low)) + low if small else np.unique(values)
    return tuple(int(value) for value in met) if len(met) <= DISTINCT else None


def rim(shape: Sequence[int]) -> NDArray[np.uint8]:
    """(z, y, x) with IMAGE where an image ends, along the axes of more than one voxel; 0 inside."""
    marked = np.zeros(tuple(shape), np.uint8)
    for axis, size in enumerate(shape):
        if size > 1:
            ends = np.moveaxis(marked, axis, 0)
            ends[[0, -1]] = IMAGE
    return marked


def objects(
    labels: NDArray[np.uint8],
    classes: int,
    spacing: Sequence[float],
    rim: NDArray[np.uint8],
    *,
    flat: bool,
    scale: float = 1.0,
) -> list[Objects]:
    """The objects of the values 1 to `classes`.

    Of windows cut out of a larger image, an object counts where no window's begin cuts it (Gundersen's frame: it
    counts in one window whatever its size).

    Args:
        labels: (z, y, x); 0 belongs to no object. When `flat`, every z is an image of its own.
        spacing: (z, y, x); z does not count when flat.
        rim: (z, y, x), IMAGE at the image's edge, BEFORE and AFTER where windows cut.
        scale: what counts are multiplied by.
    """
    dims = 2 if flat else 3
    voxel = math.prod(spacing[-dims:])
    found = [_objects_of(part, edge) for part, edge in zip(*_images(labels, rim, flat), strict=True)]
    of, sizes, edge, cut, counted = (np.concatenate(columns) for columns in zip(*found, strict=True))
    border = _border(labels, spacing, dims)
    result = []
    for index in range(1, classes + 1):
        mine = of == index
        whole = mine & ~cut if (mine & ~cut).any() else mine
        quantiles = np.percentile(sizes[whole] * voxel, QUANTILES) if whole.any() else ()
        result.append(
            Objects(
                count=round(float((mine & counted).sum()) * scale),
                sizes=tuple(float(f"{size:.6g}") for size in quantiles),
                border=float(f"{border[index] * scale:.6g}"),
                edge=float(edge[mine].mean()) if mine.any() else 0.0,
            )
        )
    return result


def distances(
    labels: NDArray[np.uint8], classes: int, spacing: Sequence[float], starts: Sequence[int], shape: Sequence[int]
) -> list[float | None]:
    """How far each of the values 1 to `classes` stays from the nearest edge of the image; None where it does not occur.

    Args:
        labels: (z, y, x), a box of an image of that shape which begins at `starts`. An axis of one voxel has no edges.
    """
    axes = [axis for axis, size in enumerate(shape) if size > 1]
    found = []
    for box in ndimage.find_objects(labels, max_label=classes):
        sides = [] if box is None else [
            voxels * spacing[axis]
            for axis in axes
            for voxels in (starts[axis] + box[axis].start, shape[axis] - starts[axis] - box[axis].stop)
        ]  # fmt: skip
        found.append(float(f"{min(sides):.6g}") if sides else None)
    return found


def _images(labels: NDArray[np.uint8], rim: NDArray[np.uint8], flat: bool) -> tuple[list[Any], list[Any]]:
    return ([*labels], [*rim]) if flat else ([labels], [rim])


def _objects_of(labels: NDArray[np.uint8], rim: NDArray[np.uint8]) -> tuple[NDArray[Any], ...]:
    """Per component: its value, its voxels, whether it meets the image's edge, is cut, and counts."""
    found = label_components(labels)
    before = touching(found, rim == BEFORE)
    return found.classes, found.sizes, touching(found, rim == IMAGE), before | touching(found, rim == AFTER), ~before


def _border(labels: NDArray[np.uint8], spacing: Sequence[float], dims: int) -> NDArray[np.float64]:
    """The border (256,) of every value: mm² in three dimensions, in two the length."""
    total = np.zeros(256)
    for axis in range(3 - dims, 3):
        others = [spacing[other] for other in range(3 - dims, 3) if other != axis]
        here, there = np.moveaxis(labels, axis, 0)[:-1], np.moveaxis(labels, axis, 0)[1:]
        differ = here != there
        sides = np.bincount(here[differ], minlength=256) + np.bincount(there[differ], minlength=256)
        total += sides * math.prod(others)
    return total / FACES[dims]


def thumb(image: NDArray[Any], valid: Mask | None = None) -> str:
    """256 bits in hexadecimal that an image shares with its copies (rescaled, brighter, recompressed) but for a few.

    Each says whether the mean of a piece lies above that of its neighbours left and right, in 16 rows; "" for images
    too small or too even to tell.

    Args:
        image: (y, x), finite where valid.
    """
    rows, columns = THUMB
    if image.shape[0] < rows or image.shape[1] < columns:
        return ""
    values = image.astype(np.float64) if valid is None else np.where(valid, image, 0).astype(np.float64)
    starts = [np.arange(n) * size // n for n, size in zip(THUMB, values.shape, strict=True)]
    sums = np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    counts = [np.diff([*start, size]) for start, size in zip(starts, values.shape, strict=True)]
    means = sums / np.outer(*counts)
    bits = 2 * means[:, 1:-1] > means[:, :-2] + means[:, 2:]
    return np.packbits(bits).tobytes().hex() if bits.sum() >= TELLING else ""


def alike(thumbs: NDArray[np.uint8], most: int) -> Iterator[tuple[int, int]]:
    """The pairs (i, j), i < j, of thumbs (N, 32) that differ in at most so many of their 256 bits."""
    signs = np.unpackbits(thumbs, axis=1).astype(np.float32) * 2 - 1
    for start in range(0, len(signs), ROWS):
        same = signs[start : start + ROWS] @ signs.T
        for row, column in np.argwhere(same >= signs.shape[1] - 2 * most).tolist():
            if start + row < column:
                yield start + row, column


def outlyingness(values: NDArray[np.float64], floor: float) -> NDArray[np.float64]:
    """How many robust standard deviations (median absolute deviation, at least `floor`) each lies above the median."""
    middle = np.median(values)
    spread = 1.4826 * float(np.median(np.abs(values - middle)))
    return (values - middle) / max(spread, floor)
