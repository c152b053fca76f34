"""The report: one page that needs nothing else, with all that was measured."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from autoseg.errors import BadUsage
from autoseg.pipeline.reporting import report
from autoseg.pipeline.voice import Silent
from autoseg.store import Home
from tests.pipeline.conftest import PLAN, TASK
from tests.pipeline.test_scoring import Listening
from tests.test_story import teller

VOID = {"meta", "input", "img", "br", "hr", "link", "path", "use", "rect", "image"}

pytestmark = pytest.mark.xdist_group("crossed")  # one worker trains what all of these look at


class Page(HTMLParser):
    """Tags that are closed in order, ids, and where links and pictures lead."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.pictures: list[dict[str, str | None]] = []
        self.faults: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if "id" in found:
            self.ids.append(str(found["id"]))
        for name in ("href", "src", "xlink:href"):
            if name in found:
                self.targets.append(str(found[name]))
        if tag == "img":
            self.pictures.append(found)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if tag in VOID:
            return
        if not self.open or self.open.pop() != tag:
            self.faults.append(tag)


def read(file: Path) -> tuple[str, Page]:
    text = file.read_text("utf-8")
    page = Page()
    page.feed(text)
    return text, page


def test_the_page_is_whole_and_needs_nothing_else(crossed: Path) -> None:
    text, page = read(Home(crossed).report_file(TASK, PLAN))
    assert page.faults == [] and page.open == []
    assert len(set(page.ids)) == len(page.ids)
    anchors = {target[1:] for target in page.targets if target.startswith("#")}
    assert anchors <= set(page.ids)
    assert all(target.startswith(("#", "data:")) for target in page.targets)
    assert "http" not in re.sub(r"http://www\.w3\.org/\S+|data:\S+", "", text)
    assert all("alt" in picture for picture in page.pictures)
    for heading in ("What was asked", "The data", "The plan", "Training", "Which model", "Results", "Cases"):
        assert f">{heading}</h2>" in text


def test_every_chart_has_its_numbers(crossed: Path) -> None:
    text, _ = read(Home(crossed).report_file(TASK, PLAN))
    files = dict(re.findall(r'download="([\w-]+)\.csv" href="data:text/csv;charset=utf-8;base64,([^"]*)"', text))
    for name in ("sizes", "losses", "dice", "volume", "confusion", "models", "scores"):
        assert len(base64.b64decode(files[name]).decode("utf-8-sig").splitlines()) > 1, name
    dice = base64.b64decode(files["dice"]).decode("utf-8-sig").splitlines()
    assert dice[0] == "class,case,Dice" and len(dice) <= 11 and dice[1].startswith("ball,ball_")


def test_names_are_shown_and_never_run(copy: Path) -> None:
    home = Home(copy)
    file = home.choice_scores_file(TASK, PLAN)
    bad = "<script>alert(1)</script>"
    text = file.read_text().replace('"ball"', f'"{bad}"').replace("ball_03", "</title>x")
    file.write_text(text)
    made, page = read(report(home, home.plan(TASK, PLAN), Silent()))
    assert bad not in made and "&lt;script&gt;alert(1)" in made and page.faults == []


def test_a_choice_whose_runs_have_changed_is_told_and_no_cases_are_drawn(copy: Path) -> None:
    home = Home(copy)
    teller(copy)("train", "3d", "0", "--steps", "3", "--fresh", "-t", "Task01", "--device", "cpu")
    text, _ = read(report(home, home.plan(TASK, PLAN), Silent()))
    assert "has changed since" in text and ">Cases</h2>" not in text


def test_a_damaged_file_costs_its_chapter_alone(copy: Path) -> None:
    home, voice = Home(copy), Listening()
    for title in ("2d", "3d"):
        home.run_folder(TASK, PLAN, title, 0, 0).certainty_file.write_text("{")
        home.run_folder(TASK, PLAN, title, 1, 0).run_file.write_text("{")
    text, page = read(report(home, home.plan(TASK, PLAN), voice))
    assert page.faults == [] and ">Results</h2>" in text
    assert all(any(name in line for line in voice.heard) for name in ("certainty.json", "run.json"))


def test_what_could_be_a_formula_is_none(copy: Path) -> None:
    home = Home(copy)
    file = home.choice_scores_file(TASK, PLAN)
    file.write_text(file.read_text().replace('"ball"', '"=HYPERLINK(1)"'))
    text, _ = read(report(home, home.plan(TASK, PLAN), Silent()))
    files = dict(re.findall(r'download="([\w-]+)\.csv" href="data:text/csv;charset=utf-8;base64,([^"]*)"', text))
    assert "'=HYPERLINK(1)" in base64.b64decode(files["dice"]).decode("utf-8-sig").splitlines()[1]


def test_without_a_choice_there_is_no_report(copy: Path) -> None:
    home = Home(copy)
    home.choice_file(TASK, PLAN).unlink()
    with pytest.raises(BadUsage, match="no model was chosen"):
        report(home, home.plan(TASK, PLAN), Silent())


def test_evaluate_writes_one_too(copy: Path) -> None:
    labels = copy / "datasets" / TASK / "labelsTr"
    out = copy / "scores"
    teller(copy)("evaluate", "-p", str(labels), "-r", str(labels), "-o", str(out))
    text, page = read(out / "report.html")
    assert page.faults == [] and "Mean Dice 1.0000 over 10 cases" in text
