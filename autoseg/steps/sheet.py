"""A batch as a picture: every sample a row, each view of it beside the same with its label."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from autoseg.image import IGNORE

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDE = {2: 3.1, 3: 2.0}  # of a view, in inches
TALLEST = 1.7  # a view's height as a multiple of its width
MARGIN, LINE, GAP, HEAD = 0.25, 0.165, 0.1, 0.75  # in inches
SHARPNESS, PIXELS = 110, 60_000  # dots per inch, but for pages that would be higher than that
SHOWN = (0.5, 99.5)  # percentiles of a channel between black and white
COLOURS = ("#e69f00", "#56b4e9", "#cc79a7", "#009e73", "#f0e442", "#d55e00", "#0072b2")  # Okabe and Ito, 2008
STYLES = ("solid", (0, (3, 1.5)), (0, (1, 1)))  # where there are more classes than colours
LEFT_OUT = "#9a9a9a"
MOST = 10_000  # edges of an outline that is drawn: more are noise, which the tint shows, and take long


@dataclass(frozen=True)
class Row:
    """A sample as the network is given it: image (C, *S), label (*S) of class indices or IGNORE, and what it is."""

    title: str
    told: str
    image: NDArray[np.float32]
    label: NDArray[np.uint8]


@dataclass(frozen=True)
class View:
    """One picture of a sample: (h, w) or (h, w, 3) within 0 to 1, its label (h, w), height over width of a pixel."""

    name: str
    picture: NDArray[np.float32]
    label: NDArray[np.uint8]
    pixel: float

    @property
    def tall(self) -> float:
        """Height as a multiple of the width."""
        high, wide = self.label.shape
        return float(high / wide * self.pixel)


def draw(
    file: BinaryIO, title: str, rows: Sequence[Row], classes: Sequence[str], axes: str, spacing: Sequence[float]
) -> None:
    """Writes the rows as a PNG.

    Args:
        classes: the names of the class indices, the background first.
        axes: the names of the patch's axes, in order: 'zyx'.
        spacing: between their voxels.
    """
    from matplotlib.figure import Figure

    wide = WIDE[len(axes)]
    shown = [list(views(row.image, row.label, axes, spacing)) for row in rows]
    width = 2 * MARGIN + len(shown[0]) * 2 * (wide + GAP) - GAP
    told = [textwrap.wrap(row.told, int((width - 2 * MARGIN) * 14)) for row in rows]
    heights = [_high(some, wide) + LINE * (len(lines) + 2.2) for some, lines in zip(shown, told, strict=True)]
    named = entries([row.label for row in rows], classes, width)
    head = HEAD + LINE * 1.3 * len(named)
    total = head + sum(heights) + GAP * 2 * len(rows) + MARGIN
    page = Figure((width, total), dpi=min(SHARPNESS, PIXELS / total))
    page.text(MARGIN / width, 1 - 0.38 / total, title, fontsize=13, fontweight="bold", parse_math=False)
    legend(page, named, total - HEAD)
    top = total - head
    for row, some, lines, height in zip(rows, shown, told, heights, strict=True):
        _row(page, row, lines, some, top, wide)
        top -= height + GAP * 2
    page.savefig(file, format="png")


# -- what is looked at ---------------------------------------------------------------------------------


def views(
    image: NDArray[np.float32],
    label: NDArray[np.uint8],
    axes: str,
    spacing: Sequence[float],
    point: Sequence[int] | None = None,
) -> Iterator[View]:
    """The patch itself in 2D, in colour where it has three channels or more; in 3D its slices through a point.

    `point`: (z, y, x), None for the `focus` of the label.
    """
    if label.ndim == 2:
        kept = image[:3] if len(image) >= 3 else image[:1]
        picture = np.stack([grey(channel) for channel in kept], -1)
        yield View(f"{axes[0]} down, {axes[1]} right", picture.squeeze(), label, spacing[0] / spacing[1])
        return
    picture, point = grey(image[0]), focus(label) if point is None else point
    for across in range(3):
        down, right = (axis for axis in range(3) if axis != across)
        name = f"{axes[across]} {point[across]}: {axes[down]} down, {axes[right]} right"
        cut = tuple(point[across] if axis == across else slice(None) for axis in range(3))
        yield View(name, picture[cut], label[cut], spacing[down] / spacing[right])


def focus(label: NDArray[np.uint8]) -> tuple[int, ...]:
    """The voxel in the middle of the list of those of the rarest foreground class; without any, the patch's middle."""
    counts = np.bincount(label.ravel(), minlength=IGNORE + 1)
    counts[[0, IGNORE]] = 0
    if not counts.any():
        return tuple(size // 2 for size in label.shape)
    rarest = np.where(counts, counts, label.size + 1).argmin()
    points = np.argwhere(label == rarest)
    return tuple(int(at) for at in points[len(points) // 2])


def grey(channel: NDArray[np.float32]) -> NDArray[np.float32]:
    """The channel between its percentiles of 0.5 and 99.5, within 0 to 1."""
    low, high = np.percentile(channel, SHOWN)
    shown: NDArray[np.float32] = ((channel - low) / max(high - low, 1e-6)).clip(0, 1).astype(np.float32)
    return shown


def outlines(mask: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The edges between pixels that are in the mask and such that are not: (n, 2, 2) of ends (x, y)."""
    ring = np.pad(mask, 1)
    row, column = np.nonzero(ring[1:, 1:-1] != ring[:-1, 1:-1])
    flat = np.stack([np.stack([column - 0.5, row - 0.5], -1), np.stack([column + 0.5, row - 0.5], -1)], 1)
    row, column = np.nonzero(ring[1:-1, 1:] != ring[1:-1, :-1])
    upright = np.stack([np.stack([column - 0.5, row - 0.5], -1), np.stack([column - 0.5, row + 0.5], -1)], 1)
    return np.concatenate([flat, upright])


# -- what is drawn -------------------------------------------------------------------------------------


def _high(some: Sequence[View], wide: float) -> float:
    return max(min(view.tall, TALLEST) for view in some) * wide


def _row(page: Figure, row: Row, lines: Sequence[str], some: Sequence[View], top: float, wide: float) -> None:
    width, total = page.get_size_inches()
    top -= LINE * 0.8
    page.text(MARGIN / width, top / total, row.title, fontsize=10, fontweight="bold", parse_math=False)
    for line in lines:
        top -= LINE
        page.text(MARGIN / width, top / total, line, fontsize=9, color="#444", parse_math=False)
    top -= LINE * 1.4
    for number, view in enumerate(some):
        size = min(wide, wide * TALLEST / view.tall)
        for column in (2 * number, 2 * number + 1):
            left = MARGIN + column * (wide + GAP)
            high = size * view.tall
            box = page.add_axes((left / width, (top - high) / total, size / width, high / total))
            show(box, view, labelled=column % 2 == 1)


def show(box: Axes, view: View, labelled: bool) -> None:
    """Draws the view into the box: with its label, or without it under its name."""
    from matplotlib.collections import LineCollection

    box.set_axis_off()
    box.imshow(view.picture, cmap="gray", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    if not labelled:
        box.set_title(view.name, fontsize=7.5, color="#666", loc="left", pad=2)
        return
    box.imshow(tint(view.label), aspect="auto", interpolation="nearest")
    for index in np.setdiff1d(view.label, (0, IGNORE)).tolist():
        colour, style = _look(index)
        edges = outlines(view.label == index)
        if len(edges) <= MOST:
            box.add_collection(LineCollection(list(edges), colors=colour, linestyles=style, lw=1.3))


def tint(label: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(h, w, 4): a breath of every class's colour, and grey stripes where the label is ignored."""
    from matplotlib.colors import to_rgba

    out = np.zeros((*label.shape, 4), np.float32)
    for index in np.setdiff1d(label, (0, IGNORE)).tolist():
        out[label == index] = to_rgba(_look(index)[0], 0.22)
    row, column = np.indices(label.shape)
    stripe = (row + column) // max(1, max(label.shape) // 48) % 3 == 0
    out[label == IGNORE] = to_rgba(LEFT_OUT, 0.35)
    out[(label == IGNORE) & stripe] = to_rgba(LEFT_OUT, 0.9)
    return out


def _look(index: int) -> tuple[str, Any]:
    """Colour and style of a foreground class's outline."""
    return COLOURS[(index - 1) % len(COLOURS)], STYLES[(index - 1) // len(COLOURS) % len(STYLES)]


Entry = tuple[str, str, Any]


def entries(labels: Sequence[NDArray[np.uint8]], classes: Sequence[str], width: float) -> list[list[Entry]]:
    """Name, colour and style of what the labels hold, in lines that fit a page of so many inches."""
    there = np.unique(np.concatenate([np.unique(label) for label in labels])).tolist()
    found: list[Entry] = [(classes[index], *_look(index)) for index in there if index not in (0, IGNORE)]
    found += [("ignored", LEFT_OUT, "solid")] if IGNORE in there else []
    lines: list[list[Entry]] = [[]]
    for entry in found:
        if lines[-1] and sum(_wide(one) for one in [*lines[-1], entry]) > width - 2 * MARGIN:
            lines.append([])
        lines[-1].append(entry)
    return lines


def _wide(entry: Entry) -> float:
    return 0.65 + 0.08 * len(entry[0])


def legend(page: Figure, named: Sequence[Sequence[Entry]], top: float) -> None:
    """Draws the lines of entries from `top` inches above the page's lower edge downwards."""
    from matplotlib.lines import Line2D

    width, total = page.get_size_inches()
    for line in named:
        left = MARGIN
        for name, colour, style in line:
            ends = (left / width, (left + 0.35) / width)
            page.add_artist(Line2D(ends, ((top + 0.06) / total,) * 2, color=colour, linestyle=style, lw=3))
            page.text((left + 0.42) / width, top / total, name, fontsize=9, parse_math=False)
            left += _wide((name, colour, style))
        top -= LINE * 1.3
