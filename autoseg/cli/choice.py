"""crossval, choose, report, suspects, view."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from autoseg.cli import show
from autoseg.cli.session import (
    Session,
    current,
    device_option,
    echo_json,
    json_option,
    measure_option,
    measures_asked,
    plan_option,
    seconds,
    table,
    task_option,
    workers_option,
)
from autoseg.errors import BadInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    from autoseg.pipeline.fold_cases import Wish
    from autoseg.pipeline.sites import SiteRow
    from autoseg.records import Plan

seed_option = click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)


@click.command()
@click.argument("configurations", nargs=-1)
@click.option("--budget", help="For all runs together, like 2h: every run gets an equal part.")
@click.option("--steps", type=click.IntRange(1), help="Of every run, in place of --budget or the plan's.")
@click.option("--fresh", is_flag=True, help="Train all of them anew; earlier runs are kept beside them.")
@click.option("--leave-site-out", is_flag=True, help="Train a fold for each site instead, beside the task's own folds.")
@click.option("--skip-bad", is_flag=True, help="Train without the cases that cannot be used.")
@measure_option
@seed_option
@task_option
@plan_option
@device_option
@workers_option
@json_option
@click.pass_context
def crossval(
    context: click.RichContext, /, configurations: tuple[str, ...], budget: str | None, steps: int | None,
    task: str | None, plan: str | None, as_json: bool, device: str, workers: int | None, leave_site_out: bool,
    measures: tuple[str, ...], **options: Any,
) -> None:  # fmt: skip
    """Train what is missing of all folds of the CONFIGURATIONS (all of the plan, if none is named), then choose."""
    from autoseg.pipeline.crossval import train_missing
    from autoseg.pipeline.fold_cases import Wish
    from autoseg.pipeline.opening import devices_of

    if budget and steps:
        raise click.UsageError("--budget and --steps exclude each other")
    if leave_site_out and measures:
        raise click.UsageError("--measure is of the model that is chosen: --leave-site-out chooses none")
    session, asked = current(context), measures_asked(measures)
    made = session.plan(task, plan)
    titles = configurations or tuple(made.configurations)
    wish = Wish(
        titles[0], steps=steps, budget=seconds(budget) if budget else None, device=device, workers=workers,
        plugins=session.plugins, **options,
    )  # fmt: skip
    devices = devices_of(device)
    if leave_site_out:
        _leave_out(session, made, titles, wish, devices, as_json)
        return
    train_missing(session.home, made, titles, wish, devices, session.voice)
    _choose(session, made, titles, options["seed"], devices[0], workers, as_json, asked)
    _report(session, made)


def _leave_out(
    session: Session, plan: Plan, titles: Sequence[str], wish: Wish, devices: list[str], as_json: bool
) -> None:  # fmt: skip
    """Folds by site, and the table."""
    from dataclasses import asdict

    from autoseg.pipeline.sites import leave_out

    found = leave_out(session.home, plan, titles, wish, devices, session.voice)
    if as_json:
        echo_json([asdict(one) for one in found])
    else:
        _sites(plan, found)
    try:
        _report(session, plan)
    except BadInput as problem:
        session.voice.say(f"no report: {problem}")


def _sites(plan: Plan, found: Sequence[SiteRow]) -> None:
    rows = [
        (one.configuration, one.site, str(one.cases), show.interval(one.unseen, one.within), show.number(one.seen),
         show.interval(one.apart, one.apart_within))
        for one in found
    ]  # fmt: skip
    columns = ["configuration", "site", "cases", "Dice, site left out", "Dice, the task's own folds", "difference"]
    table(f"{plan.task}, plan {plan.name}: sites", columns, rows)


@click.command()
@click.argument("configurations", nargs=-1)
@measure_option
@seed_option
@task_option
@plan_option
@device_option
@workers_option
@json_option
@click.pass_context
def choose(
    context: click.RichContext, /, configurations: tuple[str, ...], seed: int, task: str | None, plan: str | None,
    device: str, workers: int | None, as_json: bool, measures: tuple[str, ...],
) -> None:  # fmt: skip
    """Compare CONFIGURATIONS whose folds are all trained, and ensembles; choose one, and its postprocessing."""
    from autoseg.pipeline.ensembles import trained
    from autoseg.pipeline.opening import devices_of

    session = current(context)
    made = session.plan(task, plan)
    titles = configurations or trained(session.home, made, seed)
    _choose(session, made, titles, seed, devices_of(device)[0], workers, as_json, measures_asked(measures))


@click.command()
@task_option
@plan_option
@click.pass_context
def report(context: click.RichContext, task: str | None, plan: str | None) -> None:
    """Write what was measured, planned, trained and chosen as one HTML page that needs no network."""
    session = current(context)
    click.echo(str(_report(session, session.plan(task, plan))))


@click.command()
@click.option("--config", help="Whose networks are asked: a configuration, or an ensemble that was compared, like "
              "2d,3d (default: what was chosen, else the best by validation Dice).")  # fmt: skip
@click.option("--count", type=click.IntRange(1, 200), default=20, show_default=True, help="How many are shown.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), help="Of the runs (default: those there are).")
@task_option
@plan_option
@json_option
@click.pass_context
def suspects(
    context: click.RichContext, /, config: str | None, count: int, seed: int | None, task: str | None,
    plan: str | None, as_json: bool,
) -> None:  # fmt: skip
    """List the labels that networks which had not seen them doubt most, with pictures: where errors hide."""
    from autoseg.pipeline.choosing import choose_runs, standing
    from autoseg.pipeline.suspects import draw
    from autoseg.pipeline.suspects import suspects as doubted

    session = current(context)
    made = session.plan(task, plan)
    if config is not None:
        titles = tuple(dict.fromkeys(title.strip() for title in config.split(",") if title.strip()))
    elif (choice := standing(session.home, made, session.voice)) is not None and seed in (None, choice.seed):
        titles, seed = choice.configurations, choice.seed
    else:
        run = choose_runs(session.home, made, session.voice)[0].run()
        assert run is not None
        titles, seed = (run.configuration,), seed if seed is not None else run.seed
    found = doubted(session.home, made, titles, seed or 0, session.voice)[:count]
    if as_json:
        fields = [{"case": one.files.id, "fold": one.fold, "doubt": one.doubt} for one in found]
        doubts = [one.certainty.model_dump(mode="json")["doubts"] for one in found]
        echo_json([{**one, "doubts": places} for one, places in zip(fields, doubts, strict=True)])
        return
    first = [next(iter(one.certainty.doubts), None) for one in found]
    rows = [
        (one.files.id, str(one.fold), f"{one.doubt:.4f}", *((place.said, place.label) if place else ("", "")))
        for one, place in zip(found, first, strict=True)
    ]  # fmt: skip
    columns = ["case", "fold", "doubt", "networks say", "label says"]
    title = " + ".join(titles)
    table(f"{made.task}, {title}: the most doubted labels", columns, rows)
    click.echo(str(draw(session.home, made, title, found, session.voice)))


@click.command()
@click.option("--port", type=click.IntRange(0, 65535), default=8807, show_default=True, help="0 takes a free one.")
@click.option("-i", "--images", type=click.Path(path_type=Path), help="Folder of images to look at (default: the "
              "task's).")  # fmt: skip
@click.option("--predictions", type=click.Path(path_type=Path), help="Folder of predicted labels (default: those of "
              "the cases held out).")  # fmt: skip
@task_option
@plan_option
@click.pass_context
def view(
    context: click.RichContext, port: int, images: Path | None, predictions: Path | None, task: str | None,
    plan: str | None,
) -> None:  # fmt: skip
    """Open a page on this machine to look at images, their labels and what was predicted of them."""
    import contextlib
    import sys
    import threading
    import webbrowser

    from autoseg.pipeline.viewing import Viewer, server

    session = current(context)
    made = session.plan(task, plan)
    viewer = Viewer(session.home, made, images, predictions)
    for line in viewer.said:
        session.voice.say(line)
    with server(viewer, port) as running:
        click.echo(f"{running.address} (Ctrl-C ends it)")
        if sys.stdout.isatty():
            threading.Thread(target=webbrowser.open, args=(running.address,), daemon=True).start()
        with contextlib.suppress(KeyboardInterrupt):
            running.serve_forever()


def _report(session: Session, plan: Plan) -> Path:
    from autoseg.pipeline.reporting import report as write

    file = write(session.home, plan, session.voice)
    session.voice.say(f"report: {file}")
    return file


def _choose(
    session: Session, plan: Plan, titles: tuple[str, ...], seed: int, device: str, workers: int | None, as_json: bool,
    measures: tuple[str, ...],
) -> None:  # fmt: skip
    from autoseg.pipeline.choice import choose_model
    from autoseg.pipeline.choosing import runs_of
    from autoseg.pipeline.exporting import export

    home, voice = session.home, session.voice
    packed = home.model_file(plan.task, plan.name)
    packed.unlink(missing_ok=True)  # it is of the choice before
    choice = choose_model(home, plan, titles, seed, device, session.plugins, workers, voice, measures)
    if as_json:
        echo_json(choice.model_dump(mode="json"))
    else:
        show.choice(choice, home.choice_file(plan.task, plan.name))
    export(home, [run for runs in runs_of(home, choice) for run in runs], packed, voice, session.plugins, choice)
