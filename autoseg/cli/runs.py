"""preprocess, train, batch."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal

import rich_click as click

from autoseg.cli import show
from autoseg.cli.session import (
    current,
    device_option,
    echo_json,
    json_option,
    plan_option,
    seconds,
    task_option,
    workers_option,
)
from autoseg.errors import BadUsage


@click.command()
@click.argument("configuration", required=False)
@task_option
@plan_option
@workers_option
@click.pass_context
def preprocess(
    context: click.RichContext, configuration: str | None, task: str | None, plan: str | None, workers: int | None
) -> None:
    """Crop, normalise, resample and store what is not stored yet (all configurations, or one)."""
    from autoseg.pipeline.tasks import prepare

    session = current(context)
    made = session.plan(task, plan)
    titles = [configuration] if configuration else [*made.configurations]
    folders, fingerprint = prepare(session.home, made, titles, session.voice, workers)
    for title, arrays in folders.items():
        session.voice.say(f"{title}: {len(fingerprint.usable)} cases in {arrays.folder}")


@click.command()
@click.argument("configuration")
@click.argument("fold")
@click.option("--budget", help="Train as many steps as fit: 30m, 2h.")
@click.option("--steps", type=click.IntRange(1), help="Train so many steps.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("--fresh", is_flag=True, help="Start anew; the earlier run is kept beside it.")
@click.option("--skip-bad", is_flag=True, help="Leave out cases that cannot be used.")
@click.option("--pretrained", type=click.Path(path_type=Path), help="Begin with the weights of this run (its folder).")
@click.option("--freeze", type=click.Choice(["encoder"]), help="Leave these weights as they are for --freeze-steps.")
@click.option("--freeze-steps", type=click.IntRange(0), default=0, help="How long --freeze holds.")
@click.option("--track", is_flag=True, help="Write for TensorBoard too, into the run's folder.")
@click.option("--mlflow", metavar="URI", help="Write to MLflow too: sqlite:///mlruns.db, or a server's address.")
@task_option
@plan_option
@device_option
@workers_option
@json_option
@click.pass_context
def train(
    context: click.RichContext, /, configuration: str, fold: str, budget: str | None, steps: int | None,
    task: str | None, plan: str | None, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Train CONFIGURATION on FOLD (0 to 4, or all), or go on where it stopped; then score its validation cases."""
    from autoseg.pipeline.fold_cases import Wish
    from autoseg.pipeline.together import led
    from autoseg.pipeline.training import train as run
    from autoseg.pipeline.voice import Silent
    from autoseg.records import Plan
    from autoseg.steps.world import joined

    if budget and steps:
        raise click.UsageError("--budget and --steps exclude each other")
    if (options["freeze"] is None) != (options["freeze_steps"] == 0):
        raise click.UsageError("--freeze and --freeze-steps go together")
    session = current(context)
    wish = Wish(
        configuration, _fold(fold), steps, seconds(budget) if budget else None,
        plugins=session.plugins, **options,
    )  # fmt: skip
    with joined(os.environ) as world:  # the launcher's protocol: torchrun tells each process which one it is so
        made = led(world, Plan, lambda: session.plan(task, plan))
        folder = run(session.home, made, wish, session.voice if world.rank == 0 else Silent(), world)
    if world.rank > 0:
        return
    scores = folder.scores()
    if scores and as_json:
        echo_json(scores.model_dump(mode="json"))
    elif scores:
        show.scores(f"{configuration} fold {fold}", scores, folder.folder)


def require_alone(command: str) -> None:
    """Raises: BadUsage where several processes were started, as each of them would do the same to the same files."""
    size = os.environ.get("WORLD_SIZE", "")  # as torchrun sets it
    if size.isdecimal() and int(size) > 1:
        what = f"{command} is the work of one process, and {size} were started"
        raise BadUsage(what, where="WORLD_SIZE", remedy="start it without torchrun, or unset WORLD_SIZE")


def _fold(text: str) -> int | Literal["all"]:
    """The fold that the text names. Raises: BadUsage."""
    if text == "all":
        return "all"
    if not text.isdecimal():
        raise BadUsage(f"{text!r} is no fold", expected="0 to 4, or all")
    return int(text)


@click.command()
@click.argument("configuration")
@click.argument("fold")
@click.option("--step", type=int, required=True, help="Which batch; 0 is the first.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
@click.option("-o", "--output", "out", type=click.Path(path_type=Path), help="PNG (default: beside the run).")
@task_option
@plan_option
@device_option
@workers_option
@click.pass_context
def batch(
    context: click.RichContext, /, configuration: str, fold: str, step: int, out: Path | None,
    task: str | None, plan: str | None, **options: Any,
) -> None:  # fmt: skip
    """Draw what the network is given at a step of a run, trained already or not: images, labels, what was done."""
    from autoseg.pipeline.fold_cases import Wish
    from autoseg.pipeline.looking import draw_batch

    session = current(context)
    wish = Wish(configuration, _fold(fold), plugins=session.plugins, **options)
    file = draw_batch(session.home, session.plan(task, plan), wish, step, out, session.voice)
    click.echo(str(file))
