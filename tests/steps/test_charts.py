"""Charts: SVG for any page, with all their numbers."""

from __future__ import annotations

import csv
import io
import re
from xml.etree import ElementTree

import pytest

from autoseg.steps import charts
from autoseg.steps.charts import Chart

MADE = {
    "boxes": charts.boxes("one", "Dice", "said", {"a $x_1$": [("c1", 0.5), ("c2", 0.75)], "b<&": []}, "Dice"),
    "log": charts.boxes("two", "Volumes", "said", {"a": [("c1", 10.0), ("c2", 0.0)]}, "mm³", log=True),
    "scatter": charts.scatter("three", "Volumes", "said", {"a": [("c1", 1.0, 2.0)]}, "mm³"),
    "lines": charts.lines("four", "Loss", "said", {"fold 0": [(1, 2.0), (2, 1.0)], "fold 1": []}, "step", "loss"),
    "confused": charts.confused("five", "Confusion", "said", [[8, 2], [0, 0]], ["background", "a"]),
    "calibration": charts.calibration("six", "Calibration", "said", [(0.5, 0.0, 0), (0.9, 0.8, 10)]),
}
every = pytest.mark.parametrize("chart", MADE.values(), ids=MADE)


@every
def test_a_chart_is_a_part_of_a_page(chart: Chart) -> None:
    ElementTree.fromstring(chart.svg)
    assert chart.svg.startswith('<svg role="img" aria-label="')
    assert charts.INK not in chart.svg and "currentColor" in chart.svg
    assert not re.search(r' id="(figure|axes|patch)_\d', chart.svg)


def test_charts_share_no_ids() -> None:
    ids = [name for chart in MADE.values() for name in re.findall(r' id="([^"]+)"', chart.svg)]
    assert len(set(ids)) == len(ids)
    for chart in MADE.values():
        used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', chart.svg))
        assert used <= set(re.findall(r' id="([^"]+)"', chart.svg))


def test_all_numbers_are_in_the_table() -> None:
    rows = list(csv.reader(io.StringIO(MADE["boxes"].csv)))
    assert rows == [["class", "case", "Dice"], ["a $x_1$", "c1", "0.5"], ["a $x_1$", "c2", "0.75"]]
    rows = list(csv.reader(io.StringIO(MADE["confused"].csv)))
    assert ["background", "a", "2", "0.2"] in rows and ["a", "a", "0", ""] in rows


def test_names_are_shown_as_they_are() -> None:
    assert "a $x_1$" in "".join(ElementTree.fromstring(MADE["boxes"].svg).itertext())


def test_the_same_numbers_give_the_same_picture() -> None:
    again = charts.scatter("three", "Volumes", "said", {"a": [("c1", 1.0, 2.0)]}, "mm³")
    assert again == MADE["scatter"]


def test_many_classes_are_not_all_drawn_and_all_listed() -> None:
    many = {f"class {n}": [("c", 0.5)] for n in range(60)}
    chart = charts.boxes("many", "Dice", "Said.", many, "Dice")
    assert "The first 40 of 60 are drawn." in chart.said and len(chart.csv.splitlines()) == 61
