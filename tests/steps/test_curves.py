"""The curves of a run: what is drawn is what was logged, thinned to what a page can show."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.steps.curves import COLOURS, LEFT, LOSS, POINTS, TOP, WIDE, curves, smoothed, thinned, ticks

SVG = "{http://www.w3.org/2000/svg}"
maybe = st.none() | st.floats(-1e3, 1e3)


def log(steps: int, classes: int = 2, every: int = 50) -> Iterator[dict[str, Any]]:
    """The entries of a run: a falling loss that is missing now and then, and class 1 that occurs late."""
    for step in range(1, steps + 1):
        loss = None if step % 97 == 0 else math.exp(-5 * step / steps)
        line: dict[str, Any] = {"step": step, "loss": loss, "rate": 1e-3 * (1 - (step - 1) / steps), "seconds": 0.3}
        if step % every == 0 or step == steps:
            line["pseudo_dice"] = {f"class {n}": None if n == 1 and step < steps / 2 else 0.5 for n in range(classes)}
        yield line


def drawn(entries: Iterator[dict[str, Any]], title: str = "title") -> ElementTree.Element:
    return ElementTree.fromstring(curves(entries, title))


def texts(page: ElementTree.Element) -> list[str]:
    return [text.text or "" for text in page.iter(f"{SVG}text")]


def places(page: ElementTree.Element, look: str) -> list[tuple[float, float]]:
    """The points of the first line of a class."""
    line = next(line for line in page.iter(f"{SVG}polyline") if line.attrib.get("class") == look)
    return [(float(x), float(y)) for x, y in (pair.split(",") for pair in line.attrib["points"].split())]


def test_the_loss_of_every_step_stands_at_its_place() -> None:
    entries = [{"step": n + 1, "loss": loss, "rate": 0.1, "seconds": 60} for n, loss in enumerate((3.0, 1.0, 2.0))]
    page = drawn(iter(entries))
    x, y = zip(*places(page, "raw"), strict=True)
    assert np.allclose(x, [LEFT + WIDE * share for share in (1 / 3, 2 / 3, 1)], atol=0.06)
    low, high = 1 - 0.08, 3 + 0.08
    assert np.allclose(y, [TOP + LOSS * (high - loss) / (high - low) for loss in (3, 1, 2)], atol=0.06)
    assert any("3 steps, 3.0 minutes" in text for text in texts(page))


@pytest.mark.parametrize("steps", [0, 1, 2, 49, 50, 1234])
def test_every_length_of_a_run_is_drawn(steps: int) -> None:
    page = drawn(log(steps))
    assert {"loss", "learning rate", "step"} <= set(texts(page))
    assert ("pseudo-Dice" in texts(page)) == (steps > 0)
    width, height = float(page.attrib["width"]), float(page.attrib["height"])
    for line in page.iter(f"{SVG}polyline"):
        pairs = [tuple(map(float, pair.split(","))) for pair in line.attrib["points"].split()]
        assert len(pairs) > 1 and all(0 <= x <= width and 0 <= y <= height for x, y in pairs)


def test_a_loss_that_was_never_finite_leaves_the_rate() -> None:
    entries = [{"step": n, "loss": None, "rate": 0.1, "seconds": 1} for n in range(1, 9)]
    page = drawn(iter(entries))
    assert len(list(page.iter(f"{SVG}polyline"))) == 1 and not any("smoothed" in text for text in texts(page))


def test_a_long_run_of_many_classes_stays_small() -> None:
    assert len(curves(log(250_000, every=2500), "long").encode()) < 50_000
    assert len(curves(log(20_000, classes=104, every=200), "many").encode()) < 200_000


def test_a_line_is_broken_where_a_class_does_not_occur() -> None:
    entries = [
        {"step": n, "loss": 1.0, "rate": 1.0, "seconds": 1, "pseudo_dice": {"road": None if n == 3 else 0.5}}
        for n in range(1, 6)
    ]
    colour = "#0072b2"
    lines = [line for line in drawn(iter(entries)).iter(f"{SVG}polyline") if line.attrib.get("stroke") == colour]
    assert len(lines) == 3  # two pieces, and the one beside the name


def test_names_of_classes_do_not_touch_and_are_text() -> None:
    entries = [{"step": 1, "loss": 1.0, "rate": 1.0, "seconds": 1, "pseudo_dice": {f"<{n}>": 1.0 for n in range(30)}}]
    page = drawn(iter(entries), "<script>")
    rows = sorted(float(text.attrib["y"]) for text in page.iter(f"{SVG}text") if (text.text or "").startswith("<"))
    names = rows[1:]  # the first is the title
    assert len(names) == 30 and min(np.diff(names)) > 14 and not list(page.iter(f"{SVG}script"))


def test_lines_of_the_log_that_tell_of_no_step_are_passed_over() -> None:
    assert curves([{"said": "started"}, *log(5)], "") == curves(log(5), "")


@given(st.lists(maybe, max_size=40), st.integers(1, 12))
def test_thinning_keeps_the_mean_of_what_is_known(values: list[float | None], most: int) -> None:
    points = [(float(step), value) for step, value in enumerate(values)]
    kept = thinned(points, most)
    assert len(kept) <= most
    size = math.ceil(len(points) / most)
    for number, (step, value) in enumerate(kept):
        those = values[number * size : (number + 1) * size]
        known = [one for one in those if one is not None]
        assert step == pytest.approx(number * size + (len(those) - 1) / 2)
        assert value is None if not known else value == pytest.approx(np.mean(known), abs=1e-9)


@given(st.lists(maybe, max_size=POINTS // 10))
def test_smoothing_stays_between_the_values_and_keeps_what_is_not_known(values: list[float | None]) -> None:
    smooth = [value for _, value in smoothed([(0.0, value) for value in values])]
    known = [value for value in values if value is not None]
    assert [value is None for value in smooth] == [value is None for value in values]
    assert all(min(known) - 1e-6 <= value <= max(known) + 1e-6 for value in smooth if value is not None)


def test_smoothing_lags_nowhere() -> None:
    ramp = [(float(n), float(n)) for n in range(500)]
    assert all(abs(value - step) < 1e-6 for step, value in smoothed(ramp)[120:-120] if value is not None)


@given(st.floats(-1e6, 1e6), st.floats(1e-4, 1e6), st.integers(2, 8))
def test_ticks_are_round_and_within(low: float, size: float, about: int) -> None:
    upper = low + size
    found = ticks(low, upper, about)
    slack = size * 1e-6 + abs(low) * 1e-9
    assert all(low - slack <= one <= upper + slack for one in found) and about / 2.5 - 1 <= len(found) <= about + 1


def test_whole_cases_are_dots_in_the_colour_of_their_class() -> None:
    entries = [
        {"step": n, "loss": 1.0, "rate": 1.0, "seconds": 1, "pseudo_dice": {"a": 0.2, "b": 0.4},
         **({"whole_dice": {"a": 0.5, "b": None}} if n in (4, 8) else {})}
        for n in range(1, 9)
    ]  # fmt: skip
    page = drawn(iter(entries))
    circles = [one.attrib for one in page.iter(f"{SVG}circle")]
    spots = [(float(at["cx"]), float(at["cy"]), at["fill"]) for at in circles]
    (first, height, colour), (second, also, _) = spots
    assert first < second and height == also and colour == COLOURS[0]
    assert "pseudo-Dice (lines), Dice of whole cases (dots)" in texts(page)
