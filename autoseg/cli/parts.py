"""parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import rich_click as click

from autoseg.cli.session import echo_json, json_option, out

if TYPE_CHECKING:
    from autoseg.catalogue import Entry, Option

BUILT_IN = "built-in"


@click.command()
@click.argument("name", required=False)
@click.option("--kind", help="Those of a kind alone: insert, block, loss …")
@json_option
def parts(name: str | None, kind: str | None, as_json: bool) -> None:
    """List what can be put into a plan, or say all about the parts of one NAME."""
    from autoseg.catalogue import entries

    found = entries(name, kind)
    if as_json:
        echo_json([{**_short(entry), **(_long(entry) if name else {})} for entry in found])
    elif name is None:
        _list(found)
    else:
        for entry in found:
            _describe(entry)


def _list(entries: Sequence[Entry]) -> None:
    """Every part under its kind: what it is, and below that the options with their defaults."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    shown.add_column(no_wrap=True)
    shown.add_column(overflow="fold")
    kind = ""
    for entry in entries:
        if entry.kind != kind:
            if kind:
                shown.add_row()
            kind = entry.kind
            shown.add_row(Text(kind, style="bold"))
        options = ", ".join(option.text for option in entry.options)
        source = "" if entry.source == BUILT_IN else f"from {entry.source}"
        below = [Text(line, style=style) for line, style in ((options, "dim"), (source, "italic")) if line]
        shown.add_row(f"  {entry.name}", Text("\n").join([Text(entry.what or "–"), *below]))
    console = out()
    console.print(shown)
    console.print("\nWhat is not said to come from a plug-in is built in. autoseg parts NAME says all about one.")


def _describe(entry: Entry) -> None:
    """All about a part."""
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    options = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    for option in entry.options:
        options.add_row(option.name, option.type, "to be given" if option.default is None else option.default)
    sections = {
        f"{entry.name}, {entry.kind}, {entry.source}": Text(entry.doc or "It says nothing of itself."),
        "Options": options if entry.options else Text("none"),
        "Stands at": Text(", ".join(entry.places)),
        f"What every {entry.kind} is called with, and answers": Text(entry.contract),
    }
    console = out()
    for title, body in sections.items():
        if body:
            console.print(Text(title, style="bold"), Padding(body, (0, 0, 1, 2)))


def _short(entry: Entry) -> dict[str, Any]:
    options = [{"name": one.name, "type": one.type, **_default(one)} for one in entry.options]
    return {
        "kind": entry.kind, "name": entry.name, "source": entry.source, "what": entry.what, "options": options
    }  # fmt: skip


def _default(option: Option) -> dict[str, Any]:
    return {} if option.default is None else {"default": json.loads(option.default)}


def _long(entry: Entry) -> dict[str, Any]:
    return {"doc": entry.doc, "contract": entry.contract, "places": list(entry.places)}
