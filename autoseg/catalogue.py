"""The list of all parts: what each is, where it comes from, and what may be asked of it."""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, get_args

from autoseg.errors import BadUsage, nearest
from autoseg.parts import TABLES, Table
from autoseg.plugins import LOADED
from autoseg.records import Place

SENTENCE = re.compile(r"(?<=[.!?])\s+(?=[A-Z`(])")  # between two of them
EMPTY = inspect.Parameter.empty


@dataclass(frozen=True)
class Option:
    """An option of a part. `default` is its JSON, None where the option must be given."""

    name: str
    type: str
    default: str | None

    @property
    def text(self) -> str:
        """As it is written in a plan."""
        return self.name if self.default is None else f"{self.name}={self.default}"


@dataclass(frozen=True)
class Entry:
    """A part of a table.

    Attributes:
        source: 'built-in', or the plug-in it comes from.
        doc: its whole docstring.
        contract: what all parts of its kind are called with, and answer.
        places: where it may stand in a network; empty where that is no question.
    """

    kind: str
    name: str
    source: str
    options: tuple[Option, ...]
    doc: str
    contract: str
    places: tuple[str, ...]

    @property
    def what(self) -> str:
        """The first sentence of its docstring."""
        first = " ".join(self.doc.partition("\n\n")[0].split())
        return SENTENCE.split(first)[0]


def entries(name: str | None = None, kind: str | None = None) -> list[Entry]:
    """All parts, or those of a name or a kind (`insert`, or the table's name `inserts`), kind by kind.

    Raises: BadUsage for what there is not, with what looks like it.
    """
    kinds = {title: table for title, table in TABLES.items() if kind in (None, title, table.kind)}
    if not kinds:
        known = [table.kind for table in TABLES.values()]
        what = f"no kind of part is called {kind!r}{nearest(str(kind), known)}"
        raise BadUsage(what, expected=f"one of {', '.join(known)}")
    found = [_entry(title, part) for title, table in kinds.items() for part in table if name in (None, part)]
    if not found:
        known = sorted({part for table in kinds.values() for part in table})
        what = f"no {kind or 'part'} is called {name!r}{nearest(str(name), known)}"
        raise BadUsage(what, remedy="autoseg parts lists all")
    return found


def _entry(title: str, name: str) -> Entry:
    table = TABLES[title]
    factory = table.get(name)
    return Entry(
        kind=table.kind,
        name=name,
        source=next((plugin.name for plugin in reversed(LOADED) if (title, name) in plugin.parts), "built-in"),
        options=tuple(_options(table, factory)),
        doc=inspect.cleandoc(factory.__doc__ or ""),  # inspect.getdoc would take that of a base class
        contract=table.contract,
        places=_places(title, factory),
    )


def _options(table: Table, factory: Callable[..., Any]) -> Iterator[Option]:
    """The parameters that the kind's contract does not give."""
    context = {word.partition(":")[0].strip() for word in table.contract.partition(")")[0].strip("(").split(",")}
    for name, parameter in inspect.signature(factory).parameters.items():
        if name in context or parameter.kind in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL):
            continue
        default = None if parameter.default is EMPTY else json.dumps(parameter.default, default=str)
        yield Option(name, _written(parameter.annotation), default)


def _written(annotation: Any) -> str:
    if isinstance(annotation, str):
        return annotation
    return "" if annotation is EMPTY else inspect.formatannotation(annotation)


def _places(title: str, factory: Callable[..., Any]) -> tuple[str, ...]:
    if title == "fusions":
        return ("join",)
    if title != "inserts":
        return ()
    everywhere = tuple(place for place in get_args(Place) if place != "join")
    return tuple(getattr(factory, "places", everywhere))
