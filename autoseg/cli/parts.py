"""parts."""

from __future__ import annotations

import rich_click as click

from autoseg.cli.session import current, echo_json, json_option, table


@click.command()
@click.argument("name", required=False)
@json_option
@click.pass_context
def parts(context: click.Context, name: str | None, as_json: bool) -> None:
    """List what can be put into a plan, or the options of one part."""
    from autoseg.parts import catalogue

    current(context)
    rows = catalogue(name)
    if as_json:
        echo_json(rows)
        return
    table("parts", ["kind", "name", "options", "what it is"], [tuple(map(str, row.values())) for row in rows])
