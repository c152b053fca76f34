"""Images that are too large to be held: open, and read window by window."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

import numpy as np

from autoseg.image import Array, Image

K = TypeVar("K")
V = TypeVar("V")

Window = tuple[slice, slice]  # rows, columns
LARGE = 64_000_000  # values above which a raster is looked at by windows
BUDGET = 32_000_000  # values of all those windows together
EDGE = 512  # rows and columns of one of them


@dataclass(frozen=True, eq=False)
class Windows:
    """A raster or a label that is open; a reader that can do this has `open_windows` and `open_label`.

    Attributes:
        grid: shape, spacing and placement of the whole as an image without values that takes no memory.
        channels: number of channels C of every window.
        block: rows and columns of the pieces that the file is stored in: windows of whole blocks are read fastest.
        read: a window as an Image (C, y, x), as if it had been cut out of the whole. Raises: BadData.
    """

    grid: Image
    channels: int
    block: tuple[int, int]
    read: Callable[[Window], Image]

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns of the whole."""
        rows, columns = self.grid.shape
        return rows, columns

    @property
    def all(self) -> Window:
        """The window that holds everything."""
        rows, columns = self.shape
        return slice(0, rows), slice(0, columns)

    def whole(self) -> Image:
        """All of it."""
        return self.read(self.all)

    def some(self, large: int = LARGE, budget: int = BUDGET, edge: int = EDGE) -> list[Window]:
        """All of it as one window, or where that is more than `large` values, windows spread over it: always the same.

        These hold up to `budget` values together, and are one at least.
        """
        rows, columns = self.shape
        if self.channels * rows * columns <= large:
            return [self.all]
        values = self.channels * math.prod(window_size(self.shape, self.block, edge))
        return spread(self.shape, self.block, edge, max(1, budget // values))


def blank(shape: tuple[int, int], spacing: tuple[float, float], placement: dict[str, object]) -> Image:
    """A grid without values: one zero, seen from everywhere."""
    return Image(np.broadcast_to(np.uint8(0), (1, *shape)), spacing, None, placement)


def window_size(shape: tuple[int, int], block: tuple[int, int], edge: int) -> list[int]:
    """Rows and columns of a window: `edge`, rounded up to whole blocks where these are smaller, cut to the image."""
    return [
        min(full, math.ceil(edge / step) * step if step < edge else edge)
        for full, step in zip(shape, block, strict=True)
    ]


def spread(shape: tuple[int, int], block: tuple[int, int], edge: int, count: int) -> list[Window]:
    """Up to `count` windows of one size in even rows and columns over the image, aligned to its blocks, top to bottom.

    Args:
        edge: see `window_size`.
    """
    sizes = window_size(shape, block, edge)
    places = [max(1, full // size) for full, size in zip(shape, sizes, strict=True)]
    rows = min(places[0], count, max(1, round(math.sqrt(count * shape[0] / shape[1]))))
    columns = min(places[1], max(1, count // rows))
    rows = min(places[0], max(rows, count // columns))
    starts = [
        _starts(full, size, step, number)
        for full, size, step, number in zip(shape, sizes, block, (rows, columns), strict=True)
    ]
    return [(slice(row, row + sizes[0]), slice(column, column + sizes[1])) for row in starts[0] for column in starts[1]]


def _starts(full: int, size: int, step: int, number: int) -> list[int]:
    """Where `number` windows begin: each in the middle of its share of the axis, moved back to a block's begin."""
    middles = ((place + 0.5) * full / number - size / 2 for place in range(number))
    return sorted({min(max(0, int(middle) // step * step), full - size) for middle in middles})


class Kept(Generic[K, V]):
    """What was made last, up to so many bytes; the one that is asked for is made again when it has gone."""

    def __init__(self, room: int, make: Callable[[K], V], size: Callable[[V], int]) -> None:
        self.room, self._make, self._size = room, make, size
        self._held: OrderedDict[K, V] = OrderedDict()
        self._bytes = 0

    def __getitem__(self, key: K) -> V:
        if key in self._held:
            self._held.move_to_end(key)
            return self._held[key]
        made = self._make(key)
        self._held[key] = made
        self._bytes += self._size(made)
        while self._bytes > self.room and len(self._held) > 1:
            self._bytes -= self._size(self._held.popitem(last=False)[1])
        return made


def by_rows(windows: Windows, room: int, pixels: int = 1 << 20) -> Windows:
    """The same windows out of whole rows, of which the last ones are kept: for files that can only be read by rows.

    Args:
        room: bytes of the rows that are kept; pixels: of those that are read at once.
    """
    height, width = windows.shape
    block = windows.block[0]
    step = max(1, pixels // width // block) * block if block * width <= pixels else max(1, pixels // width)

    def whole_rows(n: int) -> Image:
        return windows.read((slice(n * step, min((n + 1) * step, height)), slice(0, width)))

    rows: Kept[int, Image] = Kept(room, whole_rows, _size)

    def read(window: Window) -> Image:
        parts = []
        for n in range(window[0].start // step, (window[0].stop - 1) // step + 1):
            first, last = max(window[0].start, n * step) - n * step, min(window[0].stop, (n + 1) * step) - n * step
            parts.append(_cut(rows[n], (slice(first, last), window[1])))
        masks = [np.ones(part.shape, bool) if part.valid is None else part.valid for part in parts]
        valid = None if all(part.valid is None for part in parts) else np.concatenate(masks)
        array: Array = np.concatenate([part.array for part in parts], axis=1)
        return Image(array, windows.grid.spacing, valid, windows.grid.placement)

    return replace(windows, read=read)


def _cut(image: Image, window: Window) -> Image:
    valid = None if image.valid is None else image.valid[window]
    return Image(image.array[:, window[0], window[1]], image.spacing, valid, image.placement)


def _size(image: Image) -> int:
    return image.array.nbytes + (0 if image.valid is None else image.valid.nbytes)
