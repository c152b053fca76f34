"""The command line: parse, call, echo. Nothing heavy is imported before a command runs."""

from __future__ import annotations

import atexit
import gc
import os
import sys
from pathlib import Path
from typing import Any

import rich_click as click

from autoseg import __version__
from autoseg.cli import choice, demo, doctor, models, parts, predict, runs, scores, tasks
from autoseg.cli.session import Session
from autoseg.errors import AutosegError


class Commands(click.RichGroup):
    """The commands in the order of the pipeline, and the end of every error."""

    def list_commands(self, context: click.Context) -> list[str]:
        """In the order in which they were added."""
        return list(self.commands)

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is to run. Raises: BadUsage for one that several processes cannot run together."""
        name, command, rest = super().resolve_command(context, args)
        if name is not None and name != "train" and not {*rest} & {*context.help_option_names}:
            runs.require_alone(name)
        return name, command, rest

    def invoke(self, context: click.Context) -> Any:
        """Runs the command; an error of ours is one line on stderr and an exit code, a traceback only with -v."""
        atexit.register(gc.freeze)  # torch's modules are not searched for cycles when Python ends: 0.75 s
        try:
            return super().invoke(context)
        except AutosegError as problem:
            if context.params.get("verbose"):
                raise
            click.echo(f"autoseg: {problem}", err=True)
            context.exit(problem.exit_code)
        except BrokenPipeError:
            # whoever read the output has gone: so may we
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            context.exit(1)
        except OSError as problem:
            if context.params.get("verbose"):
                raise
            click.echo(f"autoseg: {problem.filename or 'file'}: {problem.strerror or problem}", err=True)
            context.exit(1)
        except KeyboardInterrupt:
            click.echo("autoseg: stopped; the same command goes on from here", err=True)
            context.exit(130)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="autoseg")
@click.option("-v", "--verbose", is_flag=True, help="Tracebacks and warnings in full.")
@click.option(
    "--home",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder with datasets/, plans/ and work/ (default: the current one).",
)
@click.option(
    "--plugin",
    "plugins",
    type=click.Path(path_type=Path),
    multiple=True,
    help="Python file that adds parts of your own.",
)
@click.pass_context
def main(context: click.Context, verbose: bool, home: Path, plugins: tuple[Path, ...]) -> None:
    """Segmentation of medical and remote-sensing images that configures itself.

    autoseg measures a folder of labelled images, plans, preprocesses, trains, predicts and scores.
    """
    context.obj = Session.open(home, plugins, verbose)


for command in (
    demo.demo,
    doctor.doctor,
    tasks.add,
    tasks.check,
    tasks.plan,
    runs.preprocess,
    runs.train,
    runs.batch,
    choice.crossval,
    choice.choose,
    choice.report,
    choice.suspects,
    choice.view,
    predict.predict,
    scores.evaluate,
    models.export,
    models.models,
    parts.parts,
):
    main.add_command(command)
