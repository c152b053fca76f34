"""A part of a resampled image out of the voxels that it needs: what `resample` makes of the whole, cut out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.boxes import Box
from autoseg.arrays.resample import Keep, Linear, Spline
from autoseg.arrays.splines import WINDOW, Band, bands

if TYPE_CHECKING:
    from torch import Tensor

Shape3 = Sequence[int]
Bands = Callable[[int, int], tuple[Band, ...]]  # of an axis of n voxels that becomes m
_NOTHING = 1e-8  # of a weight: float32 itself resolves 6e-8


def bands_of(resampler: Any) -> Bands | None:
    """How a resampler mixes the voxels along an axis; None for one that has to be given the whole image."""
    if type(resampler) is Spline:
        return bands
    return linear_bands if type(resampler) in (Linear, Keep) else None


@lru_cache(maxsize=32)
def linear_bands(n: int, m: int) -> tuple[Band, ...]:
    """The matrix that interpolates n voxels to m, as blocks along its diagonal.

    Positions are rounded as torch rounds them: along a side of 30,000 that is 0.001 voxels.
    """
    scale = float(np.float32(n) / np.float32(m))
    at = np.maximum(((np.arange(m) + 0.5) * scale - 0.5).astype(np.float32), 0)
    near = np.minimum(at.astype(np.int64), n - 1)
    share = np.clip(at - near.astype(np.float32), 0, 1)
    far = np.minimum(near + 1, n - 1)
    step, found = max(1, min(WINDOW, WINDOW * m // n)), []
    for start in range(0, m, step):
        rows = slice(start, min(start + step, m))
        low, high = int(near[rows.start]), int(far[rows.stop - 1]) + 1
        weights = np.zeros((rows.stop - rows.start, high - low), np.float32)
        index = np.arange(len(weights))
        weights[index, near[rows] - low] = 1 - share[rows]
        np.add.at(weights, (index, far[rows] - low), share[rows])
        found.append(Band(rows, slice(low, high), weights))
    return tuple(found)


def needed(box: Box, old: Shape3, new: Shape3, ways: Bands) -> Box:
    """The box of the image of shape `old` that a box of the resampled one, of shape `new`, is made of."""
    return tuple(_needed(part, n, m, ways) for part, n, m in zip(box, old, new, strict=True))


def resample_part(
    array: NDArray[np.float32], begin: Sequence[int], box: Box, old: Shape3, new: Shape3, ways: Bands
) -> NDArray[np.float32]:
    """(C, *box) of an image of shape `old` that becomes one of shape `new`.

    Args:
        array: (C, z, y, x), finite: the voxels from `begin` on; all that are `needed` are among them.
    """
    import torch

    volume = torch.from_numpy(np.require(array, dtype=np.float32, requirements=["C", "W"]))
    for axis in sorted(range(3), key=lambda axis: new[axis] / old[axis]):  # the order of splines.spline
        n, m, part = old[axis], new[axis], box[axis]
        volume = _axis(volume, axis + 1, begin[axis], part, ways(n, m) if n != m else None)
    result: NDArray[np.float32] = np.ascontiguousarray(volume.numpy())
    return result


def _needed(part: slice, n: int, m: int, ways: Bands) -> slice:
    if n == m:
        return part
    columns = [band.columns for band in _cut(ways(n, m), part)]
    return slice(min(one.start for one in columns), max(one.stop for one in columns))


def _axis(volume: Tensor, axis: int, begin: int, part: slice, along: tuple[Band, ...] | None) -> Tensor:
    import torch

    if along is None:
        return volume.narrow(axis, part.start - begin, part.stop - part.start)
    before, after = math.prod(volume.shape[:axis]), math.prod(volume.shape[axis + 1 :])
    flat = volume.reshape(before, volume.shape[axis], after)
    result = volume.new_empty(before, part.stop - part.start, after)
    for rows, columns, weights in _cut(along, part):
        matrix = torch.from_numpy(weights)
        made, given = slice(rows.start - part.start, rows.stop - part.start), columns.start - begin
        used = flat.narrow(1, given, columns.stop - columns.start)
        if after == 1:
            result[:, made, 0] = used[:, :, 0] @ matrix.T
        else:
            result[:, made] = matrix @ used
    return result.reshape(*volume.shape[:axis], part.stop - part.start, *volume.shape[axis + 1 :])


def _cut(along: Sequence[Band], part: slice) -> list[Band]:
    """What of the bands makes the rows `part`, without columns that weigh nothing there."""
    found = []
    for rows, columns, weights in along:
        first, last = max(rows.start, part.start), min(rows.stop, part.stop)
        if first < last:
            kept = weights[first - rows.start : last - rows.start]
            used = np.flatnonzero(np.abs(kept).max(0) > _NOTHING)
            low, high = int(used[0]), int(used[-1]) + 1
            place = slice(columns.start + low, columns.start + high)
            found.append(Band(slice(first, last), place, np.ascontiguousarray(kept[:, low:high])))
    return found
