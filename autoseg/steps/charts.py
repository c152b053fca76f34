"""Charts of a report as SVG that takes the page's colours, each with its numbers as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"  # is replaced by the page's own colour
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999933")  # Okabe and Ito, 2008
WIDE = 7.2  # inches
MOST = 40  # classes that are drawn


@dataclass(frozen=True)
class Chart:
    """A picture with its numbers.

    Attributes:
        name: letters, digits and _, once in a page.
        title, said: what it is called, and what is to be seen.
        svg: without a declaration; csv: the numbers that are drawn.
    """

    name: str
    title: str
    said: str
    svg: str
    csv: str


Row = Sequence[object]
Draw = Callable[["Axes"], None]


def drawn(
    name: str, title: str, said: str, header: Sequence[str], rows: Sequence[Row], draw: Draw, high: float = 2.6
) -> Chart:
    """A chart of one pair of axes.

    Args:
        header, rows: the numbers.
        draw: puts them on the axes; high: inches.
    """
    import matplotlib as mpl
    from cycler import cycler
    from matplotlib.figure import Figure

    look: Any = {
        "svg.fonttype": "none", "svg.hashsalt": name, "font.family": "sans-serif", "font.size": 9, "text.color": INK,
        "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "grid.color": INK, "grid.alpha": 0.12, "axes.axisbelow": True,
        "axes.prop_cycle": cycler(color=COLOURS), "legend.frameon": False,
    }  # fmt: skip
    with mpl.rc_context(look):
        figure = Figure((WIDE, high), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return Chart(name, title, said, _inline(text.getvalue(), title), table(header, rows))


def _inline(svg: str, title: str) -> str:
    """The picture as a part of a page: no ids that the page could have twice, the page's colour, a name to be read."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r' id="[\w.]+_\d+"', "", svg).replace(INK, "currentColor")
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    return svg.replace("<svg", f'<svg role="img" aria-label="{escape(title, quote=True)}"', 1).strip()


def apart(svg: str, name: str, title: str) -> str:
    """A drawing of that title, whose ids are its own in a page of several."""
    svg = svg[svg.index("<svg") :].replace("<svg", f'<svg role="img" aria-label="{escape(title, quote=True)}"', 1)
    for known in dict.fromkeys(re.findall(r' id="([^"]+)"', svg)):
        svg = svg.replace(f'id="{known}"', f'id="{name}-{known}"').replace(f"#{known})", f"#{name}-{known})")
    return svg


def table(header: Sequence[str], rows: Sequence[Row]) -> str:
    """Rows as CSV; None is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows([[plain(cell) for cell in row] for row in rows])
    return text.getvalue()


def plain(cell: object) -> object:
    """A cell that no spreadsheet takes for a formula; None is empty."""
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return f"'{cell}"
    return "" if cell is None else cell


# -- scores --------------------------------------------------------------------------------------------


def boxes(
    name: str, title: str, said: str, values: Mapping[str, Sequence[tuple[str, float]]], unit: str, log: bool = False
) -> Chart:
    """A box per name over its (case, value), with every case as a point beside its neighbours."""
    shown = dict([*values.items()][:MOST])

    def draw(axes: Axes) -> None:
        for at, pairs in enumerate(shown.values(), 1):
            numbers = np.array([value for _, value in pairs])
            if numbers.size:
                axes.boxplot(numbers, positions=[at], widths=0.55, orientation="horizontal", showfliers=False,
                             medianprops={"color": INK, "linewidth": 1.6}, boxprops={"color": INK},
                             whiskerprops={"color": INK}, capprops={"color": INK})  # fmt: skip
                spread = np.random.default_rng(0).uniform(-0.2, 0.2, numbers.size)
                axes.scatter(numbers, at + spread, s=10, alpha=0.8, linewidths=0, color=COLOURS[0])
        axes.set_yticks(range(1, len(shown) + 1), [_short(label) for label in shown])
        axes.set_ylim(len(shown) + 0.6, 0.4)
        axes.set_xlabel(unit)
        every = [value for pairs in shown.values() for _, value in pairs]
        least = min((value for value in every if value > 0), default=None)
        if log and least is not None:
            if min(every) > 0:
                axes.set_xscale("log")
            else:  # zeros stay on the axis
                axes.set_xscale("symlog", linthresh=least)
                axes.set_xlim(left=-0.3 * least)

    rows = [(label, case, value) for label, pairs in values.items() for case, value in pairs]
    more = f" The first {MOST} of {len(values)} are drawn." if len(values) > MOST else ""
    return drawn(name, title, said + more, ("class", "case", unit), rows, draw, 1.0 + 0.38 * max(1, len(shown)))


def scatter(
    name: str, title: str, said: str, points: Mapping[str, Sequence[tuple[str, float, float]]], unit: str
) -> Chart:
    """(case, there, predicted) of every class, over the line on which they are equal."""
    shown = dict([*points.items()][: len(COLOURS)])

    def draw(axes: Axes) -> None:
        for label, found in shown.items():
            there, predicted = ([one[side] for one in found] for side in (1, 2))
            axes.scatter(there, predicted, s=14, alpha=0.65, linewidths=0, label=_short(label))
        most = max((max(a, b) for found in shown.values() for _, a, b in found), default=1.0)
        axes.plot([0, most], [0, most], color=INK, linewidth=0.8, alpha=0.5)
        axes.set_xlabel(f"reference, {unit}")
        axes.set_ylabel(f"prediction, {unit}")
        axes.legend(loc="upper left")

    rows = [(label, *one) for label, found in points.items() for one in found]
    more = f" The first {len(COLOURS)} of {len(points)} classes are drawn." if len(points) > len(COLOURS) else ""
    return drawn(name, title, said + more, ("class", "case", "reference", "prediction"), rows, draw, 4.2)


def lines(
    name: str, title: str, said: str, curves: Mapping[str, Sequence[tuple[float, float]]], x: str, y: str
) -> Chart:
    """A line per name through its points."""

    def draw(axes: Axes) -> None:
        for number, (label, points) in enumerate(curves.items()):
            style = ("-", "--", ":", "-.")[number % 4]  # told apart without colours, too
            dots = "o" if len(points) < 10 else ""
            axes.plot(*zip(*points, strict=True), style + dots, linewidth=1.4, label=_short(label)) if points else None
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if len(curves) > 1:
            axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))

    rows = [(label, *point) for label, points in curves.items() for point in points]
    return drawn(name, title, said, ("curve", x, y), rows, draw, max(2.6, 0.8 + 0.2 * len(curves)))


def confused(name: str, title: str, said: str, counts: Sequence[Sequence[int]], classes: Sequence[str]) -> Chart:
    """Where the voxels of every class (rows) went (columns), as shares of the row."""
    numbers = np.asarray(counts, np.float64)
    sums = numbers.sum(1, keepdims=True)
    shares = np.divide(numbers, sums, out=np.full_like(numbers, np.nan), where=sums > 0)
    wrong = (numbers - np.diag(np.diag(numbers))).sum(0) + (numbers - np.diag(np.diag(numbers))).sum(1)
    kept = np.sort(np.argsort(-wrong, kind="stable")[:MOST])
    few = shares[np.ix_(kept, kept)]
    if len(classes) > MOST:
        said += f" The {MOST} most confused of {len(classes)} classes are drawn."

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        axes.imshow(few, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        for row, column in np.ndindex(few.shape) if len(kept) <= 12 else ():
            share = few[row, column]
            told, dark = "–" if np.isnan(share) else f"{share:.1%}", share > 0.5
            ink = "gray" if np.isnan(share) else "white" if dark else "black"
            axes.text(column, row, told, ha="center", va="center", fontsize=8, color=ink)
        names = [_short(classes[n]) for n in kept]
        turned: Any = {"rotation": 45, "ha": "right"} if len(kept) > 5 else {}
        axes.set_xticks(range(len(kept)), names, **turned)
        axes.set_yticks(range(len(kept)), names)
        axes.set_xlabel("predicted")
        axes.set_ylabel("reference")

    rows = [
        (classes[row], classes[at], int(numbers[row, at]), float(shares[row, at]) if sums[row] else None)
        for row, at in np.ndindex(shares.shape)
    ]  # fmt: skip
    header = ("reference", "predicted", "voxels", "share")
    return drawn(name, title, said, header, rows, draw, 1.2 + 0.42 * max(2, min(MOST, len(classes))))


def calibration(name: str, title: str, said: str, bins: Sequence[tuple[float, float, int]]) -> Chart:
    """How often the networks are right, (confidence, share, voxels) per bin, over the line on which they are honest."""

    def draw(axes: Axes) -> None:
        known = [one for one in bins if one[2]]
        axes.plot([0, 1], [0, 1], color=INK, linewidth=0.8, alpha=0.5)
        axes.plot([one[0] for one in known], [one[1] for one in known], "o-", markersize=4)
        axes.set_xlabel("confidence")
        axes.set_ylabel("share that is right")
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)

    return drawn(name, title, said, ("confidence", "right", "voxels"), bins, draw, 3.2)


def _short(text: str, most: int = 24) -> str:
    """A name that has room beside the axes; matplotlib reads no mathematics into it."""
    short = (text if len(text) <= most else text[: most - 1] + "…").replace("$", "\\$")
    return f"\u200b{short}" if short.startswith("_") else short  # a legend leaves out what begins so
