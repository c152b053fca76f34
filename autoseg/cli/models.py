"""export, models."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import rich_click as click

from autoseg.cli.session import current, echo_json, json_option, plan_option, table, task_option

if TYPE_CHECKING:
    from autoseg.records import Member, PackedModel, Span


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--config", help="Configuration, or several: 2d,3d (default: the model that was chosen, or else the best by Dice)."
)
@click.option("--folds", help="Folds to pack: 0,1,2 (default: all that are trained).")
@task_option
@plan_option
@click.pass_context
def export(
    context: click.RichContext, target: Path, config: str | None, folds: str | None, task: str | None, plan: str | None
) -> None:
    """Write the trained folds as a model that predicts anywhere: TARGET.autoseg is one file, else a folder."""
    from autoseg.pipeline.choosing import choose_runs, runs_of, standing
    from autoseg.pipeline.exporting import export as write

    session = current(context)
    wanted = [fold.strip() for fold in folds.split(",")] if folds else None
    made, voice = session.plan(task, plan), session.voice
    choice = None if config or folds else standing(session.home, made, voice)
    if choice is not None:
        found = runs_of(session.home, choice)
    else:
        titles = [title.strip() for title in config.split(",")] if config else [None]
        found = [choose_runs(session.home, made, voice, title, wanted) for title in titles]
    write(session.home, [run for runs in found for run in runs], target, voice, session.plugins, choice)
    click.echo(str(target))


@click.command()
@click.argument("model", type=click.Path(path_type=Path))
@json_option
def models(model: Path, as_json: bool) -> None:
    """Say what a model (a .autoseg file, or a folder) is: what it wants, answers and is worth. Checks every byte."""
    from autoseg.store.archive import digest_of, open_packed, require_whole

    packed, record = open_packed(model)
    require_whole(packed, record)
    if as_json:
        echo_json({"sha256": digest_of(packed), **record.model_dump(mode="json")})
        return
    table(_plain(f"{record.task}, plan {record.plan}"), ["", ""], _facts(record))
    rows = [tuple(map(_plain, row)) for row in _networks(record)]
    table("networks", ["configuration", "fold", "steps", "network", "patch", "spacing"], rows)
    scores = [
        (_plain(title), _plain(name), "–" if means.dice is None else f"{means.dice:.4f}", str(means.cases))
        for title, classes in record.validation.items()
        for name, means in classes.items()
    ]
    if scores:
        table("held-out cases", ["configuration", "class", "Dice", "cases"], scores)
    click.echo(f"sha256 {digest_of(packed)}")


def _facts(record: PackedModel) -> Iterator[tuple[str, str]]:
    """What it is, as a table has it."""
    question, seen = record.question, record.seen
    yield "predicts with", _plain(", ".join(record.configurations))
    yield "channels", _plain(", ".join(f"{channel.name} ({channel.kind})" for channel in question.channels))
    yield "classes", _plain(", ".join(f"{name} = {question.labels[name]}" for name in question.classes))
    if question.regions:
        yield "regions", _plain(", ".join(question.regions))
    if seen is not None:
        spacing = " × ".join(map(_span, seen.spacing))
        yield "trained on", f"{seen.cases} images" + ("" if seen.unit == "pixels" else f" of {spacing} {seen.unit}")
    if done := record.cleaning.texts:
        yield "postprocessing", _plain(", ".join(done))
    if plugins := sorted({name for member in record.members for name in member.plugins}):
        yield "plug-ins", _plain(", ".join(plugins))
    yield "made", _plain(f"{record.created} by autoseg {record.version}")


def _networks(record: PackedModel) -> Iterator[tuple[str, ...]]:
    for member in record.members:
        one = member.settings
        yield (
            member.configuration, _fold(member), f"{member.steps:,}", one.network.architecture.text,
            " × ".join(map(str, one.patch)), " × ".join(f"{edge:g}" for edge in one.spacing),
        )  # fmt: skip


def _fold(member: Member) -> str:
    return f"{member.fold} (seed {member.seed})" if member.seed else str(member.fold)


def _span(span: Span) -> str:
    least, most = f"{span.least:.4g}", f"{span.most:.4g}"
    return least if least == most else f"{least} to {most}"


def _plain(text: str) -> str:
    """Without what could steer the terminal: a model may come from anybody."""
    return "".join(letter if letter.isprintable() else "?" for letter in text)
