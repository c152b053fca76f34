"""A volume swept by tiles along one axis: only the open front is kept, and what is finished goes on."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.arrays.boxes import Box, crop
from autoseg.steps.pieces import Source
from autoseg.steps.tiling import gaussian, starts

LEAST = 1e-30  # weight of a voxel that no tile answers; that of a tile's corner is above 1e-12
Answer = Callable[[Tensor], Tensor]  # (B, C, *patch) -> (B, K, *patch), float32


class Slab(NamedTuple):
    """Logits (K, n, a, b) of n finished rows from `first` on, the swept axis in front; valid until the next one."""

    first: int
    logits: Tensor


class Tile(NamedTuple):
    """Where a tile begins in the padded volume, its box in the source, and in itself what lies in the source."""

    start: tuple[int, ...]
    read: Box
    inside: Box


@dataclass(frozen=True)
class ArraySource:
    """A whole image in memory, (C, z, y, x)."""

    array: NDArray[np.float32]

    @property
    def shape(self) -> tuple[int, int, int]:
        z, y, x = self.array.shape[1:]
        return z, y, x

    @property
    def channels(self) -> int:
        return len(self.array)

    def read(self, box: Box) -> NDArray[np.float32]:
        return crop(self.array, box)

    def valid(self, box: Box) -> bool:
        return True


class Sweep:
    """Tiles of a source, in rows along `axis`; iterating gives its finished slabs in order.

    Where the source is smaller than a patch it lies in the middle of zeros. Each voxel is the mean of the tiles that
    hold it, weighted by `gaussian`. A tile without a measurement is left out (logits 0 where no tile answers), and
    of tiles whose channels are constant, those of the same constants are answered once.

    Args:
        patch: (z, y, x) of a tile; step: distance of neighbouring tiles as a share of the patch.
        outputs: K, what `answer` gives per voxel.
        box: the part of the source that is wanted; tiles that do not meet it are not looked at.
        batch: tiles that are answered together.
        device: where tiles are answered; kept: where the front is.
    """

    def __init__(
        self, source: Source, patch: tuple[int, ...], step: float, axis: int, outputs: int, answer: Answer, *,
        box: Box | None = None, batch: int = 1, device: torch.device | str = "cpu", kept: torch.device | str = "cpu",
    ) -> None:  # fmt: skip
        self.source, self.patch, self.axis, self.answer, self.batch = source, patch, axis, answer, batch
        self.device, self.kept, self.outputs = torch.device(device), torch.device(kept), outputs
        self.box = box or tuple(slice(0, size) for size in source.shape)
        self.before = [max(0, edge - size) // 2 for edge, size in zip(patch, source.shape, strict=True)]
        self.starts = [
            [start for start in starts(max(size, edge), edge, step) if _meet(start - pad, edge, part)]
            for size, edge, pad, part in zip(source.shape, patch, self.before, self.box, strict=True)
        ]
        self.bell = gaussian(patch).to(self.kept)
        self._constant: tuple[bytes, Tensor] | None = None

    @property
    def tiles(self) -> int:
        """How many there are."""
        return prod(map(len, self.starts))

    @property
    def front(self) -> int:
        """Bytes of the open front."""
        others = (part.stop - part.start for axis, part in enumerate(self.box) if axis != self.axis)
        return int(4 * (self.outputs + 1) * self._length() * prod(others))

    def __iter__(self) -> Iterator[Slab]:
        """Rows of `box` from its first to its last."""
        part, pad, edge = self.box[self.axis], self.before[self.axis], self.patch[self.axis]
        groups = self._groups()
        sizes = [p.stop - p.start for axis, p in enumerate(self.box) if axis != self.axis]
        length, begin = self._length(), part.start
        total = torch.zeros((self.outputs, length, *sizes), device=self.kept)
        weight = torch.zeros((length, *sizes), device=self.kept)
        for number, group in enumerate(groups):
            self._add(group, begin, total, weight)
            last = number + 1 == len(groups)
            end = part.stop if last else max(begin, min(part.stop, groups[number + 1][0] - pad))
            if (done := end - begin) > 0:
                finished = total[:, :done].div_(weight[:done].clamp_(min=LEAST))
                yield Slab(begin, finished)
                rest = min(length, group[-1] - pad + edge - begin) - done
                _move(total, done, rest, 1)
                _move(weight, done, rest, 0)
            begin = end

    def _groups(self) -> list[list[int]]:
        """Starts along the axis whose tiles are answered together: several where a row holds less than a batch."""
        along = self.starts[self.axis]
        each = max(1, self.batch // max(1, self.tiles // len(along)))
        return [along[first : first + each] for first in range(0, len(along), each)]

    def _length(self) -> int:
        """Rows that are open at once."""
        part, edge = self.box[self.axis], self.patch[self.axis]
        spans = [group[-1] - group[0] for group in self._groups()]
        return int(min(part.stop - part.start, max(spans) + edge))

    def _add(self, group: Sequence[int], begin: int, total: Tensor, weight: Tensor) -> None:
        """Answers the tiles of some rows and adds them to the front, whose first row is `begin`."""
        waiting: list[tuple[Tile, NDArray[np.float32]]] = []
        along = [group if axis == self.axis else found for axis, found in enumerate(self.starts)]
        for start in itertools.product(*along):
            tile = self._tile(start)
            if not self.source.valid(tile.read):
                continue
            values = self._values(tile)
            if self._known(values, tile, begin, total, weight):
                continue
            waiting.append((tile, values))
            if len(waiting) == self.batch:
                self._answer(waiting, begin, total, weight)
                waiting = []
        if waiting:
            self._answer(waiting, begin, total, weight)

    def _tile(self, start: tuple[int, ...]) -> Tile:
        first = [s - pad for s, pad in zip(start, self.before, strict=True)]
        sizes = zip(first, self.patch, self.source.shape, strict=True)
        read = tuple(slice(max(0, a), min(size, a + edge)) for a, edge, size in sizes)
        inside = tuple(slice(part.start - a, part.stop - a) for a, part in zip(first, read, strict=True))
        return Tile(tuple(first), read, inside)

    def _values(self, tile: Tile) -> NDArray[np.float32]:
        found = self.source.read(tile.read)
        if found.shape[1:] == self.patch:
            return found
        padded = np.zeros((self.source.channels, *self.patch), np.float32)
        crop(padded, tile.inside)[:] = found
        return padded

    def _known(self, values: NDArray[np.float32], tile: Tile, begin: int, total: Tensor, weight: Tensor) -> bool:
        """Whether a tile is constant, and so was its like, whose answer it is then given."""
        key = _constants(values)
        if key is None:
            return False
        if self._constant is None or self._constant[0] != key:
            self._constant = key, self._through(values[None])[0]
        self._place(self._constant[1], tile, begin, total, weight)
        return True

    def _answer(
        self, waiting: Sequence[tuple[Tile, NDArray[np.float32]]], begin: int, total: Tensor, weight: Tensor
    ) -> None:
        answers = self._through(np.stack([values for _, values in waiting]))
        for (tile, _), answer in zip(waiting, answers, strict=True):
            self._place(answer, tile, begin, total, weight)

    def _through(self, values: NDArray[np.float32]) -> Tensor:
        """Weighted answers (B, K, *patch) to tiles (B, C, *patch)."""
        batch = torch.from_numpy(np.ascontiguousarray(values)).to(self.device)
        with torch.inference_mode():
            return self.answer(batch).to(self.kept) * self.bell

    def _place(self, answer: Tensor, tile: Tile, begin: int, total: Tensor, weight: Tensor) -> None:
        """Adds what of a tile lies in the box to the front."""
        cut = [
            slice(max(part.start, a), min(part.stop, a + edge))
            for a, edge, part in zip(tile.start, self.patch, self.box, strict=True)
        ]
        mine = tuple(slice(part.start - a, part.stop - a) for a, part in zip(tile.start, cut, strict=True))
        origin = [begin if axis == self.axis else part.start for axis, part in enumerate(self.box)]
        there = tuple(slice(part.start - o, part.stop - o) for o, part in zip(origin, cut, strict=True))
        order = [self.axis, *(axis for axis in range(3) if axis != self.axis)]
        front = tuple(there[axis] for axis in order)
        every = slice(None)
        inner, outer = (every, *mine), (every, *front)
        total[outer] += answer[inner].permute(0, *(axis + 1 for axis in order))
        weight[front] += self.bell[mine].permute(order)


def _meet(first: int, edge: int, part: slice) -> bool:
    """Whether a tile has a voxel in the part of the axis."""
    return bool(first < part.stop and first + edge > part.start)


def _constants(values: NDArray[np.float32]) -> bytes | None:
    """The value of every channel (C, …) where each has one only."""
    flat = values.reshape(len(values), -1)
    first = flat[:, 0]
    if not np.array_equal(flat[:, -1], first) or (flat != first[:, None]).any():
        return None
    return first.tobytes()


def _move(tensor: Tensor, done: int, rest: int, axis: int) -> None:
    """Moves the `rest` rows after those that are done to the front, and clears what is behind them."""
    rest, length = max(0, rest), tensor.shape[axis]
    for first in range(0, rest, done):  # in steps that do not overlap
        count = min(done, rest - first)
        tensor.narrow(axis, first, count).copy_(tensor.narrow(axis, first + done, count))
    tensor.narrow(axis, rest, length - rest).zero_()
