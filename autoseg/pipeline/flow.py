"""Stages that overlap: while one item is worked on, the next is fetched and the last is put away, each in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

A = TypeVar("A")
B = TypeVar("B")


def ahead(act: Callable[[A], B], items: Iterable[A], room: Callable[[], int], threads: int = 1) -> Iterator[B]:
    """`act` of every item, in order, in threads of their own, up to `room()` items ahead of whoever takes them.

    With no room an item is acted on when its result is asked for. What `act` raises is raised where its result would
    have come, and nothing that comes after it.
    """
    waiting: deque[Future[B]] = deque()
    source = iter(items)
    with ThreadPoolExecutor(threads) as pool:
        try:
            for item in source:
                waiting.append(pool.submit(act, item))
                while len(waiting) > room():
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()
