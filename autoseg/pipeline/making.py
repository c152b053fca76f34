"""Files that are begun in one call and ended in another: whole, or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from autoseg.errors import RunFailed
from autoseg.store import whole

DISK = "check the free disk space"


class Dropped(Exception):
    """A file is given up."""


class Making:
    """A file that is written bit by bit: `whole`, and what stands in `stack`, begun in one call, ended in another."""

    def __init__(self, target: Path) -> None:
        self.target, self.stack = target, contextlib.ExitStack()
        self.path = self.stack.enter_context(whole(target))

    def done(self) -> list[Path]:
        with writing(self.target):
            self.stack.close()
        return [self.target]

    def drop(self) -> None:
        with contextlib.suppress(Dropped):
            self.stack.__exit__(Dropped, Dropped(), None)

    @contextlib.contextmanager
    def begun(self) -> Iterator[None]:
        """What goes wrong inside leaves nothing behind."""
        try:
            with writing(self.target):
                yield
        except BaseException:
            self.drop()
            raise


@contextlib.contextmanager
def writing(file: Path) -> Iterator[None]:
    """What goes wrong with writing inside names the file. Raises: RunFailed."""
    try:
        yield
    except (OSError, RuntimeError) as problem:  # the latter is how blosc2 tells of a full disk
        raise RunFailed(f"could not be written: {problem}", where=str(file), remedy=DISK) from problem
