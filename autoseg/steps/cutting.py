"""Which parts of an image are swept one after the other, so that what is open fits into the memory."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from math import ceil

from autoseg.arrays.boxes import Box
from autoseg.errors import BadUsage
from autoseg.records import Question
from autoseg.steps.answering import sweep_of
from autoseg.steps.preprocess import Geometry
from autoseg.steps.restoring import steps
from autoseg.steps.views import How, View

EDGE = 256  # what cuts of a raster are multiples of: the blocks of a tiled file


def plan_cuts(seen: Sequence[View], question: Question, how: How) -> tuple[int, list[Box]]:
    """The axis of the image that is swept, and the parts of the crop that are swept one after the other.

    The axis is the one whose open front is the smallest, which as a rule is the longest; of rasters the rows are
    swept. Where the room does not hold the front, the crop is cut across the other axes; what tiles of two parts
    share is predicted twice.
    Raises: BadUsage where no cut is small enough.
    """
    geometry = seen[0].prepared.geometry
    crop = [part.stop - part.start for part in geometry.box]
    axes = [1] if geometry.dims == 2 else [2, 1, 0]
    whole = tuple(slice(0, size) for size in crop)
    axis = min(axes, key=lambda one: _front(seen, question, how, one, whole))
    room, parts = how.room * 3 // 4, [1, 1, 1]
    while (front := _front(seen, question, how, axis, _cuts(crop, parts, axis, geometry)[0])) > room:
        widths = [0 if a == axis else ceil(size / n) for a, (size, n) in enumerate(zip(crop, parts, strict=True))]
        widest = max(range(3), key=widths.__getitem__)
        if widths[widest] < 8:
            what = f"the memory holds no part of the image: a front needs {front / 1e9:.2f} GB"
            left = f"beside the image and the networks {how.room / 1e9:.2f} GB are left"
            raise BadUsage(f"{what}, {left}", where="--ram", remedy="allow more, or use a machine with more")
        parts[widest] += 1
    return axis, _cuts(crop, parts, axis, geometry)


def _cuts(crop: Sequence[int], parts: Sequence[int], axis: int, geometry: Geometry) -> list[Box]:
    """The crop in so many parts along every axis; those of a raster end where blocks of the file do."""
    along = []
    for size, count in zip(crop, parts, strict=True):
        edge = ceil(size / count)
        if geometry.dims == 2 and count > 1 and edge > EDGE:
            edge = ceil(edge / EDGE) * EDGE
        along.append(list(steps(0, size, edge)))
    return [tuple(box) for box in itertools.product(*along)]


def _front(seen: Sequence[View], question: Question, how: How, axis: int, cut: Box) -> int:
    """Bytes of the open fronts of all views, and of what is restored of them."""
    total = 0
    for one in seen:
        turned = tuple(cut[a] for a in one.prepared.geometry.axes)
        total += sweep_of(one, question, how, axis, turned).front
    return total
