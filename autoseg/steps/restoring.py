"""Logits on their way from the plan's grid to the image's, row by row as a sweep finishes them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from autoseg.arrays.boxes import Box
from autoseg.arrays.lines import Line, lines
from autoseg.steps.sweep import Slab, Sweep


def needed(shape: Sequence[int], target: Sequence[int], coarse: int | None, cut: Box) -> Box:
    """The box of the plan's grid that a cut of the target grid is made of."""
    return tuple(one.needs(part) for one, part in zip(lines(shape, target, coarse), cut, strict=True))


class Stream:
    """The logits of a sweep on the target grid, as they come.

    The swept axis is in front: rows of it can be had up to `ready`, and none again before the row that was asked for.

    Args:
        sweep: of the box that `needed` says.
        target: (z, y, x) that the whole source becomes; coarse: the axis along which the nearest slice is taken.
        cut: the box of the target that is wanted.
    """

    def __init__(self, sweep: Sweep, target: Sequence[int], coarse: int | None, cut: Box) -> None:
        along = lines(sweep.source.shape, target, coarse)
        order = [sweep.axis, *(axis for axis in range(3) if axis != sweep.axis)]
        self.row, *others = (along[axis] for axis in order)
        self.plane: tuple[Line, Line] = (others[0], others[1])
        self.rows, *cuts = (cut[axis] for axis in order)
        self.cut: tuple[slice, slice] = (cuts[0], cuts[1])
        self.origin = [sweep.box[axis].start for axis in order[1:]]
        self._slabs: Iterator[Slab] = iter(sweep)
        self._slab = Slab(sweep.box[sweep.axis].start, torch.empty(0))
        self._before: Tensor | None = None  # the last row of the slab before
        self.ready = self.rows.start

    def advance(self) -> None:
        """Lets the sweep finish more rows."""
        held = self._slab.logits
        self._before = held[:, -1:].clone() if held.numel() else None
        self._slab = next(self._slabs)
        stop = self._slab.first + self._slab.logits.shape[1]
        self.ready = min(self.rows.stop, self.row.ready(stop))

    def source(self, rows: slice, output: int | slice) -> tuple[Tensor, int]:
        """The plan's rows that `rows` are made of, of one output (n, a, b) or several (K, n, a, b), and the first's
        number."""
        part = self.row.needs(rows)
        slab, first = self._slab.logits[output], self._slab.first
        axis = slab.ndim - 3
        if part.start >= first:
            return slab.narrow(axis, part.start - first, part.stop - part.start), part.start
        assert self._before is not None and part.start == first - 1
        rest = slab.narrow(axis, 0, part.stop - first)
        return torch.cat([self._before[output], rest], axis), part.start

    def logits(self, rows: slice) -> Tensor:
        """(K, n, a, b) float32 of these rows of the target."""
        values, first = self.source(rows, slice(None))
        values = self.row.take(values, 1, rows, first)
        return self._in_plane(values)

    def _in_plane(self, values: Tensor) -> Tensor:
        """(…, a, b) of the plan's grid on the target's."""
        linear = [one.share.any() for one in self.plane]
        uncut = all(part == slice(0, len(one.near)) for part, one in zip(self.cut, self.plane, strict=True))
        if all(linear) and uncut:
            size = tuple(len(one.near) for one in self.plane)
            return F.interpolate(values, size=size, mode="bilinear", align_corners=False)
        for axis, one, part, origin in zip((-2, -1), self.plane, self.cut, self.origin, strict=True):
            values = one.take(values, values.ndim + axis, part, origin)
        return values

    def classes(self, rows: slice, least: Sequence[float] = ()) -> Tensor:
        """uint8 (n, a, b): the output of the largest logit; ties go to the lower one.

        An output that is nowhere above the first one near a voxel cannot win there, as interpolation lies between what
        it interpolates: each costs the box in which it is.

        Args:
            least: of every output but the first, by how much it must be above that, if it is the largest of the others.
        """
        base, first = self.source(rows, 0)
        size = [rows.stop - rows.start, *(part.stop - part.start for part in self.cut)]
        floor = best = self._one(base, rows, first, self.cut).expand(size).clone()
        lowest = min(least, default=0.0)  # who is not above that is not above its own
        bar = base
        if least:
            best, bar = floor + lowest, base + lowest
        result = torch.zeros(size, dtype=torch.uint8, device=best.device)
        for output in range(1, len(self._slab.logits)):
            values, _ = self.source(rows, output)
            if (box := self._reach(values > bar)) is None:
                continue
            there = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, self.cut, strict=True))
            score = self._one(values, rows, first, box)
            part = best[:, there[0], there[1]]
            result[:, there[0], there[1]].masked_fill_(score > part, output)
            torch.maximum(part, score, out=part)
        if least:
            wanted = torch.tensor([lowest, *least], device=best.device)[result.int()]
            result.masked_fill_(best - floor <= wanted, 0)
        return result

    def regions(self, rows: slice, written: Sequence[int]) -> Tensor:
        """uint8 (n, a, b): the class `written[k]` where logit k is above 0, the later over the earlier, else 0."""
        size = [rows.stop - rows.start, *(part.stop - part.start for part in self.cut)]
        result = torch.zeros(size, dtype=torch.uint8, device=self._slab.logits.device)
        for output, index in enumerate(written):
            values, first = self.source(rows, output)
            if (box := self._reach(values > 0)) is not None:
                there = tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, self.cut, strict=True))
                result[:, there[0], there[1]].masked_fill_(self._one(values, rows, first, box) > 0, index)
        return result

    def _reach(self, there: Tensor) -> tuple[slice, slice] | None:
        """The box of the cut, in the target's grid, that what is True (n, a, b) can reach; None where nothing is."""
        box = []
        for axis, one, part, origin in zip((2, 1), self.plane, self.cut, self.origin, strict=True):
            hits = there.amax((0, axis)).nonzero()[:, 0]
            if not len(hits):
                return None
            reached = one.within(slice(int(hits[0]) + origin, int(hits[-1]) + 1 + origin))
            box.append(slice(max(part.start, reached.start), min(part.stop, reached.stop)))
            if box[-1].start >= box[-1].stop:
                return None
        return box[0], box[1]

    def _one(self, values: Tensor, rows: slice, first: int, box: tuple[slice, slice]) -> Tensor:
        """One output (n, a, b) in a box of the target's plane; rows that become more come last, which is cheaper."""
        shrinks = values.shape[0] > rows.stop - rows.start
        values = self.row.take(values, 0, rows, first) if shrinks else values
        for axis, one, part, origin in zip((1, 2), self.plane, box, self.origin, strict=True):
            need = one.needs(part)
            values = values.narrow(axis, need.start - origin, need.stop - need.start)
            values = one.take(values, axis, part, need.start)
        return values if shrinks else self.row.take(values, 0, rows, first)


def steps(first: int, stop: int, each: int) -> Iterator[slice]:
    """The rows from `first` to `stop`, `each` at a time."""
    for start in range(first, stop, each):
        yield slice(start, min(stop, start + each))


def logits_on_grid(sweep: Sweep) -> Tensor:
    """All logits (K, z, y, x) of a sweep, on the source's grid."""
    sizes = [part.stop - part.start for part in sweep.box]
    order = [sweep.axis, *(axis for axis in range(3) if axis != sweep.axis)]
    found = torch.empty((sweep.outputs, *(sizes[axis] for axis in order)), device=sweep.kept)
    for slab in sweep:
        at = slab.first - sweep.box[sweep.axis].start
        found[:, at : at + slab.logits.shape[1]] = slab.logits
    return found.permute(0, *(1 + int(axis) for axis in np.argsort(order)))
