"""What overlaps comes in order, and no further ahead than there is room."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from autoseg.pipeline.flow import ahead


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize("room", [0, 1, 5])
def test_results_come_in_order_and_every_item_is_acted_on_once(room: int, threads: int) -> None:
    seen = []

    def act(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        seen.append(number)
        return number * number

    assert list(ahead(act, range(12), lambda: room, threads)) == [n * n for n in range(12)]
    assert sorted(seen) == [*range(12)]


@pytest.mark.parametrize("room", [0, 1, 4])
def test_nothing_runs_further_ahead_than_there_is_room(room: int) -> None:
    begun: list[int] = []
    for taken, _ in enumerate(ahead(begun.append, range(10), lambda: room)):
        assert len(begun) <= taken + room + 1


def test_the_next_is_fetched_while_this_one_is_worked_on() -> None:
    fetched = threading.Event()

    def fetch(number: int) -> int:
        if number == 1:
            fetched.set()
        return number

    results = ahead(fetch, range(2), lambda: 1)
    assert next(results) == 0 and fetched.wait(5)


def test_what_goes_wrong_is_raised_in_its_place_and_ends_it() -> None:
    def act(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    def endless() -> Iterator[int]:
        number = 0
        while True:
            yield number
            number += 1

    met = []
    with pytest.raises(ValueError, match="two"):
        for number in ahead(act, endless(), lambda: 1):
            met.append(number)
    assert met == [0, 1]
