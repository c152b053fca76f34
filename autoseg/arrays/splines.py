"""Interpolating cubic B-splines as products with banded matrices (Unser, IEEE SPM 16(6), 1999)."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

if TYPE_CHECKING:
    from torch import Tensor

_PAD = 12  # what scipy.ndimage repeats of the edge before it filters in the mode 'nearest'
_MARGIN = 16  # the inverse of the B-spline matrix falls by 0.268 per voxel: 0.268 ** 16 < 1e-9
WINDOW = 128  # input voxels that one matrix product sees, besides the margins


def spline(volume: Tensor, size: tuple[int, ...]) -> Tensor:
    """A float32 `volume` (z, y, x) at another size; what `resample.Spline` does to each channel."""
    shrinking_first = sorted(range(3), key=lambda axis: size[axis] / volume.shape[axis])
    for axis in shrinking_first:
        volume = _spline_axis(volume, axis, size[axis])
    return volume


def _spline_axis(volume: Tensor, axis: int, m: int) -> Tensor:
    import torch

    n = volume.shape[axis]
    if n == m:
        return volume
    before, after = math.prod(volume.shape[:axis]), math.prod(volume.shape[axis + 1 :])
    flat = volume.reshape(before, n, after)
    result = volume.new_empty(before, m, after)
    for rows, columns, weights in bands(n, m):
        matrix = torch.from_numpy(weights).to(volume.device)
        if after == 1:  # one product instead of `before` small ones
            result[:, rows, 0] = flat[:, columns, 0] @ matrix.T
        else:
            result[:, rows] = matrix @ flat[:, columns]
    return result.reshape(*volume.shape[:axis], m, *volume.shape[axis + 1 :])


class Band(NamedTuple):
    """`weights` (rows, columns) make the output voxels `rows` out of the input voxels `columns`."""

    rows: slice
    columns: slice
    weights: NDArray[np.float32]


@lru_cache(maxsize=32)
def bands(n: int, m: int) -> tuple[Band, ...]:
    """The matrix that resamples n voxels to m, as blocks along its diagonal: 512 n + 136 m bytes or less."""
    step = max(1, min(WINDOW, WINDOW * m // n))
    return tuple(_band(n, m, start, min(start + step, m)) for start in range(0, m, step))


def _band(n: int, m: int, start: int, stop: int) -> Band:
    positions = (np.arange(start, stop) + 0.5) * (n / m) - 0.5
    low = max(0, math.floor(positions[0]) - _MARGIN)
    high = min(n, math.floor(positions[-1]) + 2 + _MARGIN)
    impulses = np.pad(np.eye(high - low), ((_PAD, _PAD), (0, 0)), mode="edge")
    coefficients = ndimage.spline_filter1d(impulses, order=3, axis=0, mode="nearest")
    positions = positions - low + _PAD
    left = np.floor(positions).astype(np.int64)
    t = positions - left
    taps = ((1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3)
    weights = sum(tap[:, None] / 6 * coefficients[left - 1 + k] for k, tap in enumerate(taps))
    return Band(slice(start, stop), slice(low, high), np.asarray(weights, dtype=np.float32))
