"""add, check, plan."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import rich_click as click

from autoseg.cli import show
from autoseg.cli.session import (
    change,
    current,
    device_option,
    echo_json,
    gigabytes,
    json_option,
    seconds,
    workers_option,
)
from autoseg.errors import BadUsage

if TYPE_CHECKING:
    from autoseg.steps.limits import Rules


@click.command()
@click.argument("name")
@click.option("--images", multiple=True, required=True, help="Glob of images, quoted; may be given several times.")
@click.option("--labels", multiple=True, required=True, help="Glob of labels, quoted; RATER=GLOB for several raters.")
@click.option("--channels", help="Names of the channels: R,G,B or VV=db,VH=db.")
@click.option("--labels-map", help="Values or colours of the labels: 0..127=background,128..255=road; '#3c1098=roof'.")
@click.option("--group", help="Regular expression on the case name; what it finds never crosses folds.")
@click.option("--groups", help="The same by a table: FILE.csv:COLUMN, where a column names the cases.")
@click.option("--site", help="Regular expression on the case name that finds the site.")
@click.option("--sites", help="The same by a table: FILE.csv:COLUMN.")
@click.pass_context
def add(context: click.RichContext, /, name: str, **options: Any) -> None:
    """Make a task from any folders of images and labels, without copying them."""
    from autoseg.layouts import native
    from autoseg.layouts.add import from_globs
    from autoseg.layouts.units import summary
    from autoseg.store import save_text

    session = current(context)
    file = session.home.new_task_file(name)
    dataset, faults = from_globs(name, **options)
    save_text(file, native.dump(dataset))
    classes = ", ".join(f"{name} ({value})" for name, value in dataset.labels.items())
    channels = ", ".join(f"{channel.name} ({channel.kind})" for channel in dataset.channels)
    session.voice.say(f"{file}: {len(dataset.cases)} cases; channels {channels}; classes {classes}")
    if together := summary(dataset.cases):
        session.voice.say(together)
    for fault in faults:
        session.voice.say(f"{fault.fault}: {fault.detail}")


@click.command()
@click.argument("task")
@workers_option
@json_option
@click.pass_context
def check(context: click.RichContext, task: str, workers: int | None, as_json: bool) -> None:
    """Show every fault of every case of a task in one table."""
    from autoseg.pipeline.tasks import measure

    session = current(context)
    name = session.home.task(task)
    _, fingerprint = measure(session.home, name, session.voice, workers)
    faults = fingerprint.all_faults
    if as_json:
        echo_json([fault.model_dump() for fault in faults])
    else:
        show.faults(name, fingerprint)
    context.exit(2 if any(fault.fatal for fault in faults) else 0)


@click.command()
@click.argument("task")
@click.option("--memory", help="Memory of the device to plan for: 8GB.")
@device_option
@click.option("--network", help="Architecture: unet, resenc, unetpp …; autoseg parts lists all, with their options.")
@click.option("--block", help="Block of every stage: plain, residual, convnext …")
@click.option("--insert", help="What stands where: cbam@skip[0:2]+coord@encoder, attention_gate@join.")
@click.option("--loss", help="For example dice+ce or 0.3*ce+0.7*tversky(alpha=0.3).")
@click.option("--mirror-swap", "swaps", multiple=True, metavar="LEFT=RIGHT", help="Classes that a flip exchanges.")
@click.option("--budget", help="Time for the training of one fold, which patch, width and steps are fitted to: 2h.")
@click.option("--rules", type=click.Choice(["default", "nnunet"]), default="default", help="nnunet: as nnU-Net plans.")
@click.option("--explain", metavar="FIELD", help="Why a field of the plan is what it is: 3d.patch. Changes nothing.")
@click.option("--preprocess", is_flag=True, help="Preprocess all configurations too; train does when it is due.")
@click.option("--draw", is_flag=True, help="Draw the networks as SVG pictures beside the plan.")
@click.option("--set", "changes", multiple=True, help="FIELD=VALUE: change the plan, e.g. configurations.2d.batch=8.")
@click.option("--as", "name", default="default", help="Name of the plan.")
@click.option("--folds", type=click.IntRange(min=2), help="How many folds to draw (default: 5).")
@click.option("--folds-by", help="What shares a fold: groups (default), site (leave one out), blocks:2km:200m (map).")
@click.option("--splits", type=click.Path(path_type=Path), help="Folds from nnU-Net's splits_final.json.")
@click.option("--force-splits", is_flag=True, help="Take --splits even if a group is in training and validation.")
@workers_option
@json_option
@click.pass_context
def plan(
    context: click.RichContext,
    task: str,
    memory: str | None,
    device: str,
    network: str | None,
    block: str | None,
    insert: str | None,
    loss: str | None,
    swaps: tuple[str, ...],
    budget: str | None,
    rules: Rules,
    explain: str | None,
    preprocess: bool,
    draw: bool,
    changes: tuple[str, ...],
    name: str,
    folds: int | None,
    folds_by: str | None,
    splits: Path | None,
    force_splits: bool,
    workers: int | None,
    as_json: bool,
) -> None:
    """Measure a task and decide everything that can be decided."""
    from autoseg.pipeline import planning, tasks
    from autoseg.pipeline.folds import FoldsWish

    session = current(context)
    if explain is not None:
        others = (memory, network, block, insert, loss, swaps, budget, folds, folds_by, splits)
        if any(others) or changes or preprocess or draw:
            what = "tells of a plan that is made, and goes with no option that makes another"
            raise BadUsage(what, where="--explain", remedy="plan first, then ask")
        show.explained(planning.explained(session.home, session.home.task(task), name, explain))
        return
    made = planning.make_plan(
        session.home, session.home.task(task), session.voice, name=name, device=device, rules=rules,
        minutes=seconds(budget) / 60 if budget else None,
        memory=gigabytes(memory) if memory else None, variant=planning.variant(network, block, insert, loss),
        changes=dict(map(change, changes)), folds=FoldsWish(folds, folds_by, splits, force_splits),
        swaps=swaps, workers=workers,
    )  # fmt: skip
    pictures = planning.draw(session.home, made) if draw else []
    if as_json:
        echo_json(made.model_dump(mode="json"))
    else:
        drawn = session.home.folds(made.task)
        show.plan(made, session.home.plan_file(made.task, made.name), len(drawn.folds) if drawn else 0)
    for picture in pictures:
        session.voice.say(f"drawn: {picture}")
    if preprocess:
        tasks.prepare(session.home, made, made.configurations, session.voice, workers)
