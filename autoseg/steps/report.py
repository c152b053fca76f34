"""A report as one HTML file that needs nothing else: sections of text, tables, charts and cases."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from autoseg.steps.charts import Chart as Drawn
from autoseg.steps.charts import table as as_csv
from autoseg.steps.frames import ERRORS, LAYERS, Frame, Plane


@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str
    kind: ClassVar[str] = "text"


@dataclass(frozen=True)
class Table:
    """Rows of cells as they are read, and their numbers.

    Attributes:
        numeric: which columns hold numbers; taken: the row that stands out.
    """

    name: str
    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    csv: str
    numeric: frozenset[int] = frozenset()
    taken: int = -1
    kind: ClassVar[str] = "table"


@dataclass(frozen=True)
class Chart:
    """A chart, or a drawing without numbers."""

    name: str
    title: str
    said: str
    svg: str
    csv: str = ""
    kind: ClassVar[str] = "chart"

    @classmethod
    def of(cls, made: Drawn) -> Chart:
        """A drawn chart as a part of a page."""
        return cls(made.name, made.title, made.said, made.svg, made.csv)


@dataclass(frozen=True)
class Layers:
    """Switches of what is shown over the cases that follow, and the colours of the classes."""

    keys: Sequence[tuple[str, str]]
    errors: Sequence[tuple[str, str]] = ERRORS
    kind: ClassVar[str] = "layers"


@dataclass(frozen=True)
class Case:
    """A case to look at."""

    title: str
    said: str
    planes: Sequence[Plane]
    kind: ClassVar[str] = "case"


Block = Text | Table | Chart | Layers | Case


@dataclass(frozen=True)
class Section:
    """A heading and what stands under it; `key` is its anchor."""

    key: str
    title: str
    blocks: Sequence[Block]


def table(name: str, title: str, header: Sequence[str], rows: Sequence[Sequence[object]], taken: int = -1) -> Table:
    """A table whose cells are written as they are: numbers with four digits behind the point, None as a dash."""
    numeric = frozenset(
        column for column in range(len(header))
        if any(isinstance(row[column], int | float) for row in rows)
        and all(row[column] is None or isinstance(row[column], int | float) for row in rows)
    )  # fmt: skip
    cells = [[_written(cell) for cell in row] for row in rows]
    return Table(name, title, header, cells, as_csv(header, rows), numeric, taken)


def _written(cell: object) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, float):
        return f"{cell:.4f}" if abs(cell) < 1000 else f"{cell:,.0f}"
    return f"{cell:,}" if isinstance(cell, int) else str(cell)


def page(title: str, said: str, sections: Sequence[Section]) -> str:
    """The HTML. Everything but drawings is escaped."""
    kept = [section for section in sections if section.blocks]
    return rendered("report.html", {"title": title, "said": said, "sections": kept, "names": LAYERS})


def rendered(name: str, fields: Mapping[str, object]) -> str:
    """A page of ours, filled in."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    made = Environment(
        loader=PackageLoader("autoseg", "pages"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    made.filters["base64"] = lambda text: base64.b64encode(f"\ufeff{text}".encode()).decode()
    made.filters["frames"] = _frames
    return made.get_template(name).render(fields)


def _frames(frames: Sequence[Frame]) -> list[list[str]]:
    return [[frame.name, frame.image, *frame.layers] for frame in frames]
