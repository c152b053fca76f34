"""demo."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import rich_click as click
from click.exceptions import Exit

from autoseg.cli.session import Session, current, device_option
from autoseg.errors import RunFailed

TASKS = {"medical": "Task90_DemoMedical", "aerial": "Task91_DemoAerial"}
CONFIGURATION = {"medical": "3d", "aerial": "2d"}
LEAST_DICE = {"medical": 0.85, "aerial": 0.75}
BUDGET = "100s"


@click.command()
@click.argument("kind", type=click.Choice(list(TASKS)), default="medical")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of the synthetic images.")
@click.option("--budget", default=BUDGET, show_default=True, help="Time to train.")
@device_option
@click.pass_context
def demo(context: click.Context, kind: str, seed: int, budget: str, device: str) -> None:
    """Make a synthetic task and run every stage on it with its real command, in a few minutes.

    Exits with 1 when the mean Dice is below what the task is known to reach.
    """
    session = current(context)
    task = TASKS[kind]
    _make(session, kind, task, seed)
    out = session.home.root / "work" / task / "demo"
    shutil.rmtree(out, ignore_errors=True)
    images = session.home.task_folder(task) / "imagesTs"
    for arguments in (
        ["check", task],
        ["plan", task, "--budget", budget, "--device", device],
        ["preprocess", CONFIGURATION[kind]],
        ["train", CONFIGURATION[kind], "0", "--budget", budget, "--fresh", "--device", device],
        ["predict", "-i", str(images), "-o", str(out / "predictions"), "--device", device],
        ["evaluate", "-p", str(out / "predictions"), "-r", str(_truth(session, task)), "-o", str(out), "-t", task],
    ):
        _run(context, session, arguments)
    _judge(session, kind, out)


def _make(session: Session, kind: str, task: str, seed: int) -> None:
    """The task's folder, made anew so that the seed holds, and nothing left of an earlier demo."""
    from autoseg.steps import synthetic

    make: dict[str, Callable[..., None]] = {"medical": synthetic.medical, "aerial": synthetic.aerial}
    for place in (session.home.task_folder(task), session.home.root / "work" / task):
        shutil.rmtree(place, ignore_errors=True)
    session.home.folds_file(task).unlink(missing_ok=True)
    make[kind](session.home.task_folder(task), seed=seed)
    session.voice.say(f"made {session.home.task_folder(task)}")


def _truth(session: Session, task: str) -> Path:
    return session.home.task_folder(task) / "labelsTs"


def _run(context: click.Context, session: Session, arguments: list[str]) -> None:
    """One command of autoseg, in this process, shown as one would type it."""
    session.voice.say(f"\n$ autoseg {' '.join(arguments)}")
    group = context.find_root().command
    assert isinstance(group, click.RichGroup)
    command = group.get_command(context, arguments[0])
    assert command is not None
    with command.make_context(arguments[0], arguments[1:], parent=context.parent) as inner:
        try:
            command.invoke(inner)
        except Exit as ended:
            if ended.exit_code:
                raise RunFailed(f"autoseg {arguments[0]} ended with {ended.exit_code}") from None


def _judge(session: Session, kind: str, out: Path) -> None:
    from autoseg.records import Scores
    from autoseg.store import load_record

    dice = load_record(Scores, out / "scores.json").dice or 0.0
    verdict = f"mean Dice on images the network never saw: {dice:.3f} (to pass: {LEAST_DICE[kind]})"
    if dice < LEAST_DICE[kind]:
        raise RunFailed(verdict)
    session.voice.say(f"{verdict}\npredictions and scores: {out}")
    sys.stdout.flush()
