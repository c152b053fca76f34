"""How the pipeline speaks, without knowing of terminals."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol, TypeVar

T = TypeVar("T")


class Voice(Protocol):
    """What whoever runs the pipeline provides."""

    def say(self, text: str) -> None:
        """One line to the user."""
        ...

    def track(self, items: Iterable[T], total: int, label: str, done: int = 0) -> Iterator[T]:
        """The items, with a progress bar and the remaining time while they come."""
        ...

    def status(self, *parts: str) -> None:
        """Short words beside the progress bar that runs, the most important first: those at the end may not fit."""
        ...


class Silent:
    """Says nothing."""

    def say(self, text: str) -> None:
        """Nothing."""

    def track(self, items: Iterable[T], total: int, label: str, done: int = 0) -> Iterator[T]:
        """The items."""
        yield from items

    def status(self, *parts: str) -> None:
        """Nothing."""
