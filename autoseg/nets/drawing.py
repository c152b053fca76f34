"""A network as a picture: stages, shapes, inserts, parameters and FLOPs, as an SVG for a paper."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from xml.sax.saxutils import escape

from autoseg.nets.survey import Cost, Survey
from autoseg.records import Network, Shape

WIDE, HIGH, CHIP = 168, 46, 20  # of a box, in pixels; a chip is a line that names an insert
ACROSS, DOWN = WIDE + 72, 56  # from one column to the next; between two rows
MARGIN, TOP, BOTTOM = 28, 74, 46
COLOURS = {"encoder": "#dbe9f6", "bottleneck": "#e4dcf1", "decoder": "#dcf0e3", "head": "#f7ead3", "skip": "#ffffff"}
EDGES = {"encoder": "#3b6ea5", "bottleneck": "#7253a6", "decoder": "#3c8757", "head": "#b07d1e", "skip": "#b3402a"}
MARKED = "#b3402a"  # inserts
COLUMNS = ("encoder", "skip", "decoder", "head")
NESTED = "; every node takes all that stand before it in its row"
NOTE = "channels · size; parameters · FLOPs of one patch forward, two per multiply-add"


@dataclass(frozen=True)
class Box:
    """A unit on the page: its corner, in pixels."""

    unit: Cost
    x: float
    y: float

    @property
    def high(self) -> int:
        return HIGH + CHIP * len(self.unit.inserts)

    @property
    def right(self) -> float:
        return self.x + WIDE

    @property
    def middle(self) -> tuple[float, float]:
        return self.x + WIDE / 2, self.y + self.high / 2


def svg(network: Network, found: Survey, patch: Shape, title: str) -> str:
    """The picture of a network. Units of one stage stand in one row, the finest on top."""
    boxes = list(_placed(found.units))
    width = max([box.right for box in boxes], default=0) + MARGIN
    height = max([box.y + box.high for box in boxes], default=TOP) + BOTTOM
    width = max(width, 620)
    parts = [
        opened(width, height),
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 8 4 0 8z" fill="#555"/></marker></defs>',
        f'<rect width="{width:g}" height="{height:g}" fill="#fff"/>',
        text_at(MARGIN, 30, title, 17, weight="bold"),
        text_at(MARGIN, 52, _summary(network, found, patch), 12, "#555"),
        *_arrows(boxes),
        *(_drawn(box) for box in boxes),
        text_at(MARGIN, height - 16, NOTE + (NESTED if is_nested(found.units) else ""), 11, "#777"),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _summary(network: Network, found: Survey, patch: Shape) -> str:
    blocks = network.block.text
    if network.decoder_block != network.block:
        blocks += f", decoder {network.decoder_block.text}"
    return (
        f"{network.architecture.text} · {blocks} · {network.norm.text} norm · patch {'×'.join(map(str, patch))} · "
        f"{count(found.parameters)} parameters · {count(found.flops)}FLOPs"
    )


def count(number: float) -> str:
    """1,353,145 as '1.35 M'."""
    for size, letter in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= size:
            return f"{number / size:.3g} {letter}"
    return f"{number:g} "


# -- where things stand --------------------------------------------------------------------------------


def _placed(units: Sequence[Cost]) -> Iterator[Box]:
    """Encoder units on the left, decoder units right of them, heads on the far right, the bottleneck in between.

    Where the finest stage has several heads, they stand above the decoder units that they belong to.
    """
    nested, crowned = is_nested(units), len(_rows(units, "head").get(0, [])) > 1
    lefts, left = {}, 0
    for place in COLUMNS:
        lefts[place] = left
        left += max((len(row) for row in _rows(units, place).values()), default=0)
    if crowned:
        lefts["head"] = lefts["decoder"]
    middle = 0.0 if nested else max(0.0, (lefts["head"] - 1) / 2)
    rows = _heights(units, TOP + (HIGH + DOWN if crowned else 0))
    for place in COLUMNS:
        widest = 0
        for stage, row in sorted(_rows(units, place).items()):
            shift = max(0, widest - len(row)) if place == "encoder" else 0  # branches that begin later
            widest = max(widest, len(row))
            for index, unit in enumerate(row):
                y = TOP if crowned and place == "head" else _centred(rows[stage], unit)
                yield Box(unit, MARGIN + (lefts[place] + shift + index) * ACROSS, y)
    for unit in units:
        if unit.place not in lefts:
            yield Box(unit, MARGIN + middle * ACROSS, _centred(rows[unit.stage], unit))


def is_nested(units: Sequence[Cost]) -> bool:
    """Whether a stage has several decoder units."""
    return any(len(row) > 1 for row in _rows(units, "decoder").values())


def _rows(units: Sequence[Cost], place: str) -> dict[int, list[Cost]]:
    rows: dict[int, list[Cost]] = {}
    for unit in units:
        if unit.place == place:
            rows.setdefault(unit.stage, []).append(unit)
    return rows


def _heights(units: Sequence[Cost], top: float) -> dict[int, tuple[float, float]]:
    """Where the row of every stage begins, and how high its highest box is."""
    rows = {}
    for stage in sorted({unit.stage for unit in units}):
        high = HIGH + CHIP * max(len(unit.inserts) for unit in units if unit.stage == stage)
        rows[stage] = (top, float(high))
        top += high + DOWN
    return rows


def _centred(row: tuple[float, float], unit: Cost) -> float:
    top, high = row
    return top + (high - HIGH - CHIP * len(unit.inserts)) / 2


def opened(width: float, height: float) -> str:
    """The first tag of a picture of that size, in pixels."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" '
        f'height="{height:g}" font-family="Helvetica, Arial, sans-serif">'
    )


# -- what is drawn -------------------------------------------------------------------------------------


def _drawn(box: Box) -> str:
    unit = box.unit
    fill, edge = COLOURS.get(unit.place, "#eee"), EDGES.get(unit.place, "#555")
    x, _ = box.middle
    size = "×".join(map(str, unit.size)) if unit.size else ""
    lines = [
        f'<rect x="{box.x:g}" y="{box.y:g}" width="{WIDE}" height="{box.high}" rx="6" fill="{fill}" stroke="{edge}"/>',
        text_at(x, box.y + 19, f"{unit.channels} · {size}" if size else f"{unit.channels}", 13, anchor="middle"),
        text_at(x, box.y + 36, f"{count(unit.parameters)} · {count(unit.flops)}FLOPs", 11, "#555", anchor="middle"),
    ]
    for index, name in enumerate(unit.inserts):
        top = box.y + HIGH + CHIP * index
        size = f'width="{WIDE - 16}" height="{CHIP - 4}"'
        lines.append(f'<rect x="{box.x + 8:g}" y="{top:g}" {size} rx="8" fill="{MARKED}"/>')
        lines.append(text_at(x, top + 12, name, 11, "#fff", anchor="middle"))
    return "\n".join(lines)


def _arrows(boxes: Sequence[Box]) -> Iterator[str]:
    """Down the encoder, along the rows, up the decoder, up to heads that stand above."""
    rows: dict[int, list[Box]] = {}
    crown = [box for box in boxes if box.unit.place == "head" and box.y == TOP]
    for box in sorted(boxes, key=lambda box: box.x):
        if len(crown) < 2 or box not in crown:
            rows.setdefault(box.unit.stage, []).append(box)
    ways_up = {"decoder", "bottleneck", *(["encoder"] if is_nested([box.unit for box in boxes]) else [])}
    for stage, row in rows.items():
        for left, right in pairwise(row):
            yield _arrow(left.right, left.middle[1], right.x, right.middle[1])
        below = rows.get(stage + 1, [])
        if below and row[0].unit.place == "encoder" and below[0].unit.place in ("encoder", "bottleneck"):
            yield _vertical(row[0], below[0], downward=True)
        sources = [box for box in below if box.unit.place in ways_up]
        decoders = [box for box in row if box.unit.place == "decoder"]
        for index, box in enumerate(decoders):
            if sources:
                yield _vertical(box, sources[min(index, len(sources) - 1)], downward=False)
        if stage == 0 and len(crown) > 1:
            for head, box in zip(crown, decoders, strict=False):
                yield _vertical(head, box, downward=False)


def _vertical(upper: Box, lower: Box, downward: bool) -> str:
    a, b = (upper.middle[0], upper.y + upper.high), (lower.middle[0], lower.y)
    return _arrow(*a, *b) if downward else _arrow(*b, *a)


def _arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="#555" marker-end="url(#tip)"/>'


def text_at(x: float, y: float, text: str, size: int, colour: str = "#222", weight: str = "", anchor: str = "") -> str:
    """Text whose baseline begins, or has its middle or end, at a place of the page, in pixels."""
    extra = (f' font-weight="{weight}"' if weight else "") + (f' text-anchor="{anchor}"' if anchor else "")
    return f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"{extra}>{escape(text)}</text>'
