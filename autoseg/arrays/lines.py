"""Linear interpolation along the axes of an array, in parts: any rows of the result out of the rows that they need.

Voxels are areas, as in `resample`: voxel j of m lies at (j + 0.5) n / m − 0.5 among n, and at the edges the last voxel
counts alone (`torch.nn.functional.interpolate` with `align_corners=False`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from torch import Tensor

Index = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Line:
    """The voxels of an axis: which two of the n that there were each of the m lies between, and the share of `far`."""

    n: int
    near: Index
    far: Index
    share: NDArray[np.float32]

    @property
    def still(self) -> bool:
        """Whether nothing changes along the axis."""
        return self.n == len(self.near) and not self.share.any() and bool((self.near == np.arange(self.n)).all())

    def needs(self, rows: slice) -> slice:
        """Which of the n the rows are made of."""
        return slice(int(self.near[rows.start]), int(self.far[rows.stop - 1]) + 1)

    def within(self, part: slice) -> slice:
        """The rows that are made of the voxels before `part.stop` and none before `part.start` alone: from the first
        that has a share of any of these to the last."""
        first = int(np.searchsorted(self.far, part.start))
        last = int(np.searchsorted(self.near, part.stop))
        return slice(first, last)

    def ready(self, stop: int) -> int:
        """How many rows can be made of the voxels below `stop`."""
        return int(np.searchsorted(self.far, stop))

    def take(self, values: Tensor, axis: int, rows: slice, first: int) -> Tensor:
        """`rows` made of `values`, whose index 0 along the axis is the voxel `first`."""
        import torch

        near, far = self.near[rows] - first, self.far[rows] - first
        if len(near) == values.shape[axis] and not self.share[rows].any() and (near == np.arange(len(near))).all():
            return values
        one = values.index_select(axis, torch.from_numpy(near).to(values.device))
        if not self.share[rows].any():
            return one
        other = values.index_select(axis, torch.from_numpy(far).to(values.device))
        view = [-1 if n == axis % values.ndim else 1 for n in range(values.ndim)]
        return one.lerp_(other, torch.from_numpy(self.share[rows]).to(values.device).reshape(view))


@lru_cache(maxsize=64)
def line(n: int, m: int, nearest: bool = False) -> Line:
    """The line of m voxels over n; of `nearest` neighbours: the one that holds the voxel's centre."""
    rows = np.arange(m)
    if nearest:
        index = (2 * rows + 1) * n // (2 * m)
        return Line(n, index, index, np.zeros(m, np.float32))
    position = np.clip((rows + 0.5) * (n / m) - 0.5, 0, n - 1)
    near = position.astype(np.int64)
    share = (position - near).astype(np.float32)
    return Line(n, near, np.where(share > 0, np.minimum(near + 1, n - 1), near), share)


def lines(shape: Sequence[int], size: Sequence[int], coarse: int | None = None) -> tuple[Line, ...]:
    """One per axis, from `shape` to `size`; along the axis `coarse` that of nearest neighbours."""
    return tuple(line(n, m, axis == coarse) for axis, (n, m) in enumerate(zip(shape, size, strict=True)))
