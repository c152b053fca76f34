"""The report: one page that needs nothing else, with all that was measured."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from autoseg.errors import BadUsage
from autoseg.pipeline import reporting
from autoseg.pipeline.reporting import report, report_of_scores
from autoseg.pipeline.scoring import evaluate_folders
from autoseg.pipeline.voice import Silent
from autoseg.store import Home
from tests.pipeline.conftest import PLAN, TASK
from tests.pipeline.test_scoring import Listening, save
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


def test_evaluate_writes_one_too_with_pictures(copy: Path) -> None:
    labels, images = (copy / "datasets" / TASK / name for name in ("labelsTr", "imagesTr"))
    sizes = {}
    for number, more in enumerate(((), ("-i", str(images)), ("-t", "Task01"))):
        out = copy / f"scores{number}"
        teller(copy)("evaluate", "-p", str(labels), "-r", str(labels), "-o", str(out), *more)
        text, page = read(out / "report.html")
        assert page.faults == [] and "Mean Dice 1.0000 over 10 cases" in text
        assert text.count('class="case"') == 10 and ">Confusion<" in text
        sizes[number] = sum(len(str(picture["src"])) for picture in page.pictures if "jpeg" in str(picture["src"])[:20])
    assert sizes[1] == sizes[2] > sizes[0]  # the task has the same images; a ground without one holds nothing


def test_images_that_do_not_fit_cost_their_pictures_alone(tmp_path: Path) -> None:
    for name in "abcd":
        save(tmp_path / "r" / f"{name}.nii.gz", 1)
    save(tmp_path / "i" / "a.nii.gz", 1, shape=(4, 4, 5))
    save(tmp_path / "i" / "b.nii.gz", 1)
    (tmp_path / "i" / "b.nii.gz").write_bytes(b"no image")
    save(tmp_path / "i" / "c.nii.gz", 1, shift=50.0)
    found = evaluate_folders(tmp_path / "r", tmp_path / "r", tmp_path / "out", Silent())
    (tmp_path / "empty").mkdir()
    for folder, wanted in (
        ("i", ("the image is 5×4×4 voxels", "b.nii.gz: cannot be read", "50 mm away", "holds none of its name")),
        ("empty", ("holds no image",) * 4),
    ):
        voice = Listening()
        report_of_scores(found, "x", tmp_path / "report.html", tmp_path / folder, voice)
        text, page = read(tmp_path / "report.html")
        assert text.count('class="case"') == 4 and page.faults == []
        assert len(voice.heard) == 4
        for name, line, why in zip("abcd", sorted(voice.heard), wanted, strict=True):
            assert line.startswith(f"{name} is drawn without its image: ") and why in line


def test_one_image_is_that_of_the_one_case(tmp_path: Path) -> None:
    save(tmp_path / "a.nii.gz", 1)
    save(tmp_path / "scan.nii.gz", 1)
    voice = Listening()
    found = evaluate_folders(tmp_path / "a.nii.gz", tmp_path / "a.nii.gz", tmp_path / "out", Silent())
    report_of_scores(found, "x", tmp_path / "report.html", tmp_path / "scan.nii.gz", voice)
    assert voice.heard == []


def test_the_task_s_images_are_drawn_under_its_own_labels_alone(copy: Path) -> None:
    task, test = copy / "datasets" / TASK, copy / "test"
    test.mkdir()
    (test / "ball_00.nii.gz").write_bytes((task / "labelsTr" / "ball_01.nii.gz").read_bytes())
    for name, labels, drawn in (("own", task / "labelsTr", 10), ("other", test, 0)):
        teller(copy)("evaluate", "-p", str(labels), "-r", str(labels), "-o", str(copy / name), "-t", "Task01")
        first = re.findall(
            r'<img alt="ball[^"]*" src="data:image/jpeg;base64,([^"]*)"', (copy / name / "report.html").read_text()
        )
        bright = [  # a black JPEG is not quite black
            np.asarray(Picture.open(io.BytesIO(base64.b64decode(one)))).max() > 9 for one in first
        ]
        assert sum(bright) == 3 * drawn and len(bright) in (3, 30)


def test_an_image_too_large_to_be_held_is_not_read_for_its_picture(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    monkeypatch.setattr(reporting, "MOST", 8)
    for name in ("r", "i"):
        (tmp_path / name).mkdir()
        Picture.fromarray(np.eye(3, dtype=np.uint8)).save(tmp_path / name / "a.png")
    voice = Listening()
    found = evaluate_folders(tmp_path / "r", tmp_path / "r", tmp_path / "out", Silent())
    report_of_scores(found, "x", tmp_path / "report.html", tmp_path / "i", voice)
    assert read(tmp_path / "report.html")[0].count('class="case"') == 1
    assert len(voice.heard) == 1 and "9.0e+00 values" in voice.heard[0]
