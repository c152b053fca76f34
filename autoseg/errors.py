"""What autoseg says when it cannot go on: what, where, what was expected, the remedy."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AutosegError(Exception):
    """A failure that is told to the user in one line.

    Args:
        what: what is wrong, with the value met.
        where: the file, field or case it was met in.
        expected: what would have been right.
        remedy: what the user can do, as an imperative sentence without a full stop.
    """

    exit_code = 1

    def __init__(self, what: str, *, where: str = "", expected: str = "", remedy: str = "") -> None:
        self.what, self.where, self.expected, self.remedy = what, where, expected, remedy
        parts = [f"{where}: {what}" if where else what]
        if expected:
            parts.append(f"expected {expected}")
        if remedy:
            parts.append(remedy)
        super().__init__(" ".join("; ".join(parts).split()))

    def __reduce__(self) -> tuple[object, ...]:
        """Errors cross process boundaries: rebuild from the keywords, not from the sentence."""
        return _rebuild, (type(self), self.what, self.where, self.expected, self.remedy)


def _rebuild(kind: type[AutosegError], what: str, where: str, expected: str, remedy: str) -> AutosegError:
    return kind(what, where=where, expected=expected, remedy=remedy)


class RunFailed(AutosegError):
    """The run itself failed: a full disk, a dead worker, a diverged loss."""


class BadInput(AutosegError):
    """What the user gave is at fault; the command exits with 2."""

    exit_code = 2


class BadUsage(BadInput):
    """An argument or option of a command is wrong."""


class BadData(BadInput):
    """An image, a label or a folder of them cannot be used."""


class BadTask(BadInput):
    """A task's description cannot be read or contradicts itself."""


class BadPlan(BadInput):
    """A plan, or a part named in it, is not valid."""


class BadFile(BadInput):
    """A file that autoseg wrote is damaged, cut short or of another kind."""


class Busy(BadInput):
    """Another process holds what this one needs."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Up to three names of `known` that look like `word`, as ' (did you mean a or b?)', or nothing."""
    close = difflib.get_close_matches(word, list(known), n=3, cutoff=0.5)
    return f" (did you mean {' or '.join(close)}?)" if close else ""
