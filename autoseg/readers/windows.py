"""Images that are too large to be held: open, and read window by window."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autoseg.image import Image

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
