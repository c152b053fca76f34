"""What all commands share: the home, the current task and plan, and the terminal."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import rich_click as click

from autoseg.errors import BadUsage

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Task

    from autoseg.records import Plan
    from autoseg.store import Home

T = TypeVar("T")
NUMBER = r"(\d+(?:\.\d+)?)"
BYTES = {"": 10**9, "gb": 10**9, "g": 10**9, "mb": 10**6, "m": 10**6, "gib": 1024**3, "mib": 1024**2}
SIZE = re.compile(rf"{NUMBER} ?(|[gm]|[gm]b|[gm]ib)")
AMOUNTS = re.compile(rf"(?:{NUMBER}h)?(?:{NUMBER}m)?(?:{NUMBER}s)?|{NUMBER}")
QUIET_SECONDS = 15.0  # between lines of progress where there is no terminal
BAR, WIDE = 10, 70  # columns of the bar, and of a terminal that has room for it


class Terminal:
    """The pipeline's voice: messages and progress bars on stderr."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True, highlight=False)
        self._parts: tuple[str, ...] = ()

    def say(self, text: str) -> None:
        """One line."""
        self.console.print(text, markup=False, soft_wrap=True)

    def status(self, *parts: str) -> None:
        """Beside the bar that runs, as many as fit."""
        self._parts = parts

    def track(self, items: Iterable[T], total: int, label: str, done: int = 0) -> Iterator[T]:
        """The items behind a progress bar; where stderr is no terminal, a line now and then."""
        self._parts = ()
        if total == done:
            yield from items
        elif self.console.is_terminal:
            yield from self._bar(items, total, label, done)
        else:
            yield from self._lines(items, total, label, done)

    def _bar(self, items: Iterable[T], total: int, label: str, done: int) -> Iterator[T]:
        from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn
        from rich.text import Text

        terminal = self

        class Rest(ProgressColumn):
            """What stands after the bar."""

            def render(self, task: Task) -> Text:
                return Text(terminal._rest(task), no_wrap=True, overflow="ellipsis")

        bar = [BarColumn(BAR)] if self.console.width >= WIDE else []
        with Progress(TextColumn("{task.description}"), *bar, Rest(), console=self.console) as progress:
            shown = progress.add_task(label, total=total, completed=done)
            for item in items:
                yield item
                progress.update(shown, advance=1)

    def _rest(self, task: Task) -> str:
        """How far it is, how long it still takes, and as much of the status as the terminal is wide."""
        used = len(task.description) + 1 + (BAR + 1 if self.console.width >= WIDE else 0)
        known = task.elapsed if task.finished else task.time_remaining
        time = "" if known is None else f"{'in' if task.finished else 'left'} {timedelta(seconds=int(known))}"
        text = f"{task.completed:.0f}/{task.total:.0f}"
        for part in (*self._parts[:1], time, *self._parts[1:]):
            if part and used + len(text) + 2 + len(part) > self.console.width:
                break
            text += f"  {part}" if part else ""
        return text

    def _lines(self, items: Iterable[T], total: int, label: str, done: int) -> Iterator[T]:
        began = last = time.monotonic()
        for number, item in enumerate(items, 1):
            yield item
            now = time.monotonic()
            if now - last > QUIET_SECONDS or done + number == total:
                left = (now - began) / number * (total - done - number)
                self.say(f"{label}: {done + number}/{total}, {left:.0f} s left  {'  '.join(self._parts)}".rstrip())
                last = now


@dataclass(frozen=True)
class Session:
    """One invocation of the command line."""

    home: Home
    voice: Terminal
    plugins: Mapping[str, str]
    verbose: bool

    @classmethod
    def open(cls, home: Path, plugins: Iterable[Path], verbose: bool) -> Session:
        """Loads the plug-ins: the files that the user named first, which have their way, then the installed ones."""
        from autoseg.plugins import load_files, load_installed
        from autoseg.store import Home

        if not verbose:
            warnings.simplefilter("ignore")
        voice, named = Terminal(), load_files(plugins)
        load_installed(voice.say)
        return cls(Home(home), voice, named, verbose)

    def task(self, wish: str | None) -> str:
        """The task the user named, or the current one, which is said."""
        if wish:
            return self.home.task(wish)
        current = self.home.current()
        if current is None:
            raise BadUsage("no task is current", remedy="name one with -t, or plan one: autoseg plan TASK")
        self.voice.say(f"task {current.task}")
        return current.task

    def plan(self, task: str | None, plan: str | None) -> Plan:
        """The plan the user named, or the current one, which is said."""
        name, current = self.task(task), self.home.current()
        title = plan or (current.plan if current and current.task == name else "default")
        if plan is None and title != "default":
            self.voice.say(f"plan {title}")
        return self.home.plan(name, title)


def current(context: click.Context) -> Session:
    """The session of a command."""
    session: Session = context.obj
    return session


def echo_json(fields: Any) -> None:
    """JSON to stdout."""
    click.echo(json.dumps(fields, indent=1))


def out() -> Console:
    """Stdout; as wide as need be where it is no terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=240)


def table(title: str, columns: list[str], rows: Iterable[Iterable[str]]) -> None:
    """A table to stdout."""
    from rich.table import Table
    from rich.text import Text

    shown = Table(title=Text(title), title_justify="left", header_style="bold")
    for column in columns:
        shown.add_column(column, overflow="fold")
    for row in rows:
        shown.add_row(*row)
    out().print(shown, markup=False)


def gigabytes(text: str, option: str = "--memory") -> int:
    """Bytes of '8GB', '500 MB' or '16' (gigabytes)."""
    found = SIZE.fullmatch(text.strip().lower())
    if found is None:
        raise BadUsage(f"{text!r} is no amount of memory", where=option, expected="for example 8GB")
    size = int(float(found[1]) * BYTES[found[2]])
    if size < 100_000_000:
        raise BadUsage(f"{text!r} is too little memory", where=option, expected="at least 100MB")
    return size


def seconds(text: str) -> float:
    """Seconds of '2h', '15m', '1h30m', '90s' or '15' (minutes)."""
    found = AMOUNTS.fullmatch(text.strip().lower())
    if found is None or not any(found.groups()):
        raise BadUsage(f"{text!r} is no time", where="--budget", expected="for example 30m or 2h")
    hours, minutes, rest, bare = (float(part or 0) for part in found.groups())
    total = hours * 3600 + (minutes + bare) * 60 + rest
    if total <= 0:
        raise BadUsage(f"{text!r} is no time", where="--budget", expected="for example 30m or 2h")
    return total


def change(text: str) -> tuple[str, Any]:
    """(field, value) of 'a.b=value', the value as JSON where it is JSON and as text where not."""
    field, equals, value = text.partition("=")
    if not equals or not field:
        raise BadUsage(f"{text!r} sets nothing", where="--set", expected="FIELD=VALUE")
    try:
        return field.strip(), json.loads(value)
    except ValueError:
        return field.strip(), value


measure_option = click.option(
    "-m", "--measure", "measures", multiple=True, metavar="NAME[(OPTION=VALUE)]",
    help="Measured beside Dice and its like, instead of hd95, assd and nsd; may be given several times; none: nothing. "
    "See autoseg parts.",
)  # fmt: skip
task_option = click.option("-t", "--task", help="Task, by any unambiguous beginning (default: the current one).")
plan_option = click.option("-p", "--plan", help="Plan (default: the current one).")
device_option = click.option("--device", default="auto", help="auto, cpu, cuda, cuda:N or mps.")
workers_option = click.option(
    "--workers",
    type=click.IntRange(1),
    help="Processes for reading and preprocessing (default: one per core).",
)
json_option = click.option("--json", "as_json", is_flag=True, help="JSON to stdout instead of a table.")


def measures_asked(given: tuple[str, ...]) -> tuple[str, ...]:
    """What --measure asks for. Raises: BadPlan for what is no measure."""
    from autoseg.pipeline.scoring import USUAL
    from autoseg.steps.evaluate import measures_named

    asked = () if given == ("none",) else given or USUAL
    measures_named(asked, voxel=1.0)
    return asked
