"""A task is measured once: what has not changed is not measured again, what has is never reused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from skimage.io import imread, imsave

from autoseg.pipeline.tasks import measure
from autoseg.pipeline.voice import Silent
from autoseg.records import CaseFacts, Fingerprint
from autoseg.steps import fingerprint
from autoseg.store import Home

TASK = "Task02_Discs"


@pytest.fixture
def measured(balls_2d: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Home, list[str]]:
    """A home whose task is measured, and a list of the cases that are measured from now on."""
    home, seen = Home(balls_2d), []
    measure(home, TASK, Silent(), workers=1)
    examine = fingerprint.examine

    def noted(folder, files, question) -> CaseFacts:
        seen.append(files.id)
        return examine(folder, files, question)

    monkeypatch.setattr(fingerprint, "examine", noted)
    return home, seen


def again(home: Home) -> Fingerprint:
    return measure(home, TASK, Silent(), workers=1)[1]


def image(home: Home, case: str) -> Path:
    return home.task_folder(TASK) / "imagesTr" / f"{case}_0000.png"


def label(home: Home, case: str) -> Path:
    return home.task_folder(TASK) / "labelsTr" / f"{case}.png"


def test_nothing_unchanged_is_measured_again(measured: tuple[Home, list[str]]) -> None:
    home, seen = measured
    before = home.fingerprint(TASK)
    assert again(home) == before and seen == [] and before is not None and before.version == fingerprint.VERSION


def test_a_new_case_and_a_changed_one_are_all_that_is_measured(measured: tuple[Home, list[str]]) -> None:
    home, seen = measured
    for place in (image, label):
        place(home, "disc_99").write_bytes(place(home, "disc_00").read_bytes())
    found = again(home)
    assert seen == ["disc_99"]
    assert [(fault.case, fault.fault) for fault in found.faults] == [("disc_99", "duplicate")]
    values = imread(label(home, "disc_03"))
    imsave(label(home, "disc_03"), np.rot90(values), check_contrast=False)
    assert again(home).cases["disc_03"] != found.cases["disc_03"] and seen == ["disc_99", "disc_03"]
    for place in (image, label):
        place(home, "disc_99").unlink()
    assert "disc_99" not in again(home).cases and len(seen) == 2


def test_facts_of_another_version_are_measured_again(
    measured: tuple[Home, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    home, seen = measured
    monkeypatch.setattr(fingerprint, "VERSION", fingerprint.VERSION + 1)
    again(home)
    assert len(seen) == 10
    again(home)
    assert len(seen) == 10


def test_facts_of_before_there_were_versions_are_measured_again(measured: tuple[Home, list[str]]) -> None:
    home, seen = measured
    file = home.fingerprint_file(TASK)
    fields = json.loads(file.read_text())
    del fields["version"]
    file.write_text(json.dumps(fields))
    assert again(home).version == fingerprint.VERSION and len(seen) == 10


def test_another_question_is_measured_again(measured: tuple[Home, list[str]]) -> None:
    home, seen = measured
    file = home.task_folder(TASK) / "dataset.json"
    file.write_text(file.read_text().replace("255", "254"))
    assert not again(home).usable and len(seen) == 10
