"""Connected objects of labels that are looked at some rows at a time."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from autoseg.arrays.components import numbered
from autoseg.image import Mask

Labels = NDArray[np.uint8]


class Rows(Protocol):
    """A label (y, x) or (z, y, x), of which rows along the first axis are read and written."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, rows: slice, /) -> Labels: ...

    def __setitem__(self, rows: slice, values: Labels, /) -> None: ...


@dataclass(frozen=True, eq=False)
class Joined:
    """The connected objects of a mask.

    Attributes:
        objects: for each strip, in the order of `numbered` there, which object its parts belong to.
        sizes: (N,), in voxels; open: (N,), whether an object reaches the edge along an axis of several voxels.
    """

    objects: list[NDArray[np.int64]]
    sizes: NDArray[np.int64]
    open: Mask


def parts(label: Rows, each: int) -> Iterator[slice]:
    """The strips, `each` rows at a time."""
    for first in range(0, label.shape[0], each):
        yield slice(first, min(first + each, label.shape[0]))


def joined(label: Rows, each: int, mask: Callable[[Labels], Labels], *, corners: bool = True) -> Joined:
    """The connected objects of what `mask` makes of the label, 1 or 0, strip by strip.

    Args:
        corners: as of `numbered`.
    """
    counts, sizes, opens, edges = [0], list[NDArray[Any]](), list[Mask](), list[NDArray[np.int64]]()
    above: NDArray[np.int64] | None = None  # numbers, over all strips, in the last row of the strip before
    for rows in parts(label, each):
        local, count = numbered(mask(label[rows]), corners)
        reaches = np.zeros(count + 1, bool)
        for axis in range(local.ndim):
            if label.shape[axis] > 1:
                ends = (rows.start == 0, rows.stop == label.shape[0]) if axis == 0 else (True, True)
                for at, there in zip((0, -1), ends, strict=True):
                    reaches[local.take(at, axis)] |= there
        first, last = (np.where(local[at] > 0, local[at].astype(np.int64) + counts[-1], 0) for at in (0, -1))
        if above is not None:
            edges.append(_touching(above, first, corners))
        above = last
        counts.append(counts[-1] + count)
        sizes.append(np.bincount(local.ravel(), minlength=count + 1)[1:])
        opens.append(reaches[1:])
    pairs = np.concatenate([np.zeros((0, 2), np.int64), *edges]) - 1
    graph = coo_matrix((np.ones(len(pairs), bool), (pairs[:, 0], pairs[:, 1])), shape=(counts[-1],) * 2)
    total, owner = connected_components(graph, directed=False) if counts[-1] else (0, np.zeros(0, np.int64))
    of = owner.astype(np.int64)
    return Joined(
        [of[start:stop] for start, stop in itertools.pairwise(counts)],
        np.bincount(of, np.concatenate(sizes), total).astype(np.int64),
        np.bincount(of, np.concatenate(opens), total) > 0,
    )


def _touching(above: NDArray[np.int64], below: NDArray[np.int64], corners: bool) -> NDArray[np.int64]:
    """(n, 2): the numbers that touch, each pair once."""
    found = []
    for shift in itertools.product((-1, 0, 1) if corners else (0,), repeat=above.ndim):
        one = above[tuple(slice(max(0, s), size + min(0, s)) for s, size in zip(shift, above.shape, strict=True))]
        other = below[tuple(slice(max(0, -s), size + min(0, -s)) for s, size in zip(shift, below.shape, strict=True))]
        both = (one > 0) & (other > 0)
        found.append(np.unique(np.stack([one[both], other[both]], 1), axis=0))
    return np.unique(np.concatenate(found), axis=0)
