"""What the home holds: preprocessed cases, runs, tasks."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import BadFile, BadTask, BadUsage
from autoseg.records import Folds
from autoseg.store import Current, Home, Preprocessed, RunFolder, save_record

POINTS = {1: np.array([[0, 1, 2], [3, 4, 5]], np.int32), 3: np.zeros((0, 3), np.int32)}


def arrays(shape: tuple[int, ...], channels: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    image = rng.normal(0, 3, (channels, *shape)).astype(np.float32)
    return image, rng.integers(0, 256, shape).astype(np.uint8)


# -- preprocessed cases --------------------------------------------------------------------------------


@settings(max_examples=12, deadline=None)
@given(st.data())
def test_any_box_reads_what_was_saved(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    shape = data.draw(st.tuples(st.integers(1, 40), st.integers(1, 140), st.integers(1, 40)))
    image, label = arrays(shape, data.draw(st.integers(1, 2)), 0)
    folder = Preprocessed(tmp_path_factory.mktemp("cases"))
    folder.save("c.1", "signed", image, {0: label}, POINTS)
    stored = folder.open("c.1")
    assert stored.shape == shape and folder.signature("c.1") == "signed"
    for _ in range(3):
        ends = [sorted(data.draw(st.tuples(st.integers(0, n), st.integers(0, n)))) for n in shape]
        box = tuple(slice(a, b) for a, b in ends)
        read, read_label = stored.read(box)
        assert read.dtype == np.float16 and read_label.dtype == np.uint8
        assert np.array_equal(read, image[(slice(None), *box)].astype(np.float16))
        assert np.array_equal(read_label, label[box])


def test_points_come_back_by_class(tmp_path: Path) -> None:
    image, label = arrays((3, 4, 5), 1, 0)
    Preprocessed(tmp_path).save("a", "s", image, {0: label}, POINTS)
    points = Preprocessed(tmp_path).open("a").points
    assert list(points) == [1, 3]
    assert all(np.array_equal(points[k], POINTS[k]) and points[k].dtype == np.int32 for k in POINTS)


def test_what_float16_cannot_hold_is_limited(tmp_path: Path) -> None:
    image, label = np.array([[[[1e9, -1e9, 65504.0]]]], np.float32), np.zeros((1, 1, 3), np.uint8)
    Preprocessed(tmp_path).save("a", "s", image, {0: label}, {})
    read, _ = Preprocessed(tmp_path).open("a").read((slice(None),) * 3)
    assert read.ravel().tolist() == [65504, -65504, 65504]


@pytest.mark.parametrize("number", range(3))
def test_a_case_that_lacks_a_file_or_has_a_damaged_one_is_not_there(tmp_path: Path, number: int) -> None:
    folder = Preprocessed(tmp_path)
    assert folder.signature("a") is None
    image, label = arrays((5, 6, 7), 1, 0)
    folder.save("a", "s", image, {0: label}, POINTS)
    file = sorted(tmp_path.iterdir())[number]
    content = file.read_bytes()
    for length in (0, 5, 40, len(content) // 2, len(content) - 1):
        file.write_bytes(content[:length])
        assert folder.signature("a") is None
    file.write_bytes(content)
    assert folder.signature("a") == "s"
    file.unlink()
    assert folder.signature("a") is None


def test_a_case_is_not_there_while_it_is_saved_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoseg.store import cases

    image, label = arrays((2, 3, 4), 1, 0)
    folder = Preprocessed(tmp_path)
    folder.save("a", "old", image, {0: label}, POINTS)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(cases, "save_arrays", killed)
    with pytest.raises(KeyboardInterrupt):
        folder.save("a", "new", image + 1, {0: label}, POINTS)
    assert folder.signature("a") is None
    with pytest.raises(BadFile):
        folder.open("a")


# -- runs ----------------------------------------------------------------------------------------------


def test_a_run_that_was_not_started_has_nothing(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "seed_0")
    assert (run.run(), run.checkpoint(), run.scores(), run.set_aside()) == (None, None, None, None)
    run.rewind_log(3)
    assert not run.folder.exists()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 9), max_size=8), st.integers(0, 9), st.integers(0, 40))
def test_rewinding_drops_later_lines_and_half_a_line(
    tmp_path_factory: pytest.TempPathFactory, steps: list[int], last: int, lost: int
) -> None:
    run = RunFolder(tmp_path_factory.mktemp("seed_0"))
    entries = [{"step": step, "said": "ä\u2028\n"} for step in steps]
    for entry in entries:
        run.log(entry)
    whole = run.log_file.read_text() if entries else ""
    half = json.dumps({"step": 0, "loss": 0.25})
    run.log_file.write_text(whole + half[: min(lost, len(half) - 1)])
    run.rewind_log(last)
    left = run.log_file.read_text()
    assert [json.loads(line) for line in left.splitlines()] == [e for e in entries if e["step"] <= last]
    assert left == "" or left.endswith("\n")
    run.rewind_log(last)
    assert run.log_file.read_text() == left


def test_lines_without_a_step_are_kept(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.log({"said": "started"})
    run.log({"step": 5})
    run.rewind_log(0)
    assert run.log_file.read_text() == '{"said": "started"}\n'


def test_the_log_is_read_back_without_what_a_kill_left(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    assert [*run.logged()] == []
    entries = [{"step": step, "said": "ä\u2028\n"} for step in range(3)]
    for entry in entries:
        run.log(entry)
    with run.log_file.open("ab") as opened:
        opened.write(b'7\n\xff\n{"step": 3, "lo')
    assert [*run.logged()] == entries


def test_a_run_set_aside_lies_beside_and_is_never_overwritten(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "seed_0")
    for number in (1, 2, 3):
        run.folder.mkdir()
        run.run_file.write_text(str(number))
        assert run.set_aside() == tmp_path / f"seed_0.old{number}"
        assert not run.folder.exists()
    assert [(tmp_path / f"seed_0.old{n}" / "run.json").read_text() for n in (1, 2, 3)] == ["1", "2", "3"]


# -- home ----------------------------------------------------------------------------------------------


@pytest.fixture
def tasks(home: Path) -> Home:
    """A home with three tasks and a folder that is none."""
    for name in ("Task04_Hippocampus", "Task40_Roads", "Task41_Roofs"):
        (home / "datasets" / name).mkdir()
        (home / "datasets" / name / "dataset.json").write_text("{}")
    (home / "datasets" / "Task99_Empty").mkdir()
    return Home(home)


@pytest.mark.parametrize("beginning", ["Task04_Hippocampus", "Task04", "task04_h", "TASK0"])
def test_a_task_is_found_by_an_unambiguous_beginning(tasks: Home, beginning: str) -> None:
    assert tasks.task(beginning) == "Task04_Hippocampus"


def test_a_whole_name_is_not_ambiguous(tasks: Home) -> None:
    (tasks.task_folder("Task41")).mkdir()
    (tasks.task_folder("Task41") / "dataset.json").write_text("{}")
    assert tasks.task("Task41") == "Task41"
    assert tasks.tasks() == ["Task04_Hippocampus", "Task40_Roads", "Task41", "Task41_Roofs"]


def test_an_ambiguous_or_unknown_beginning_names_what_there_is(tasks: Home, tmp_path: Path) -> None:
    with pytest.raises(BadTask, match="'Task4' could be Task40_Roads or Task41_Roofs"):
        tasks.task("Task4")
    with pytest.raises(BadTask, match=r"begins with 'Task40_Raods' \(did you mean Task40_Roads.*one of Task04_Hipp"):
        tasks.task("Task40_Raods")
    with pytest.raises(BadTask, match="no task begins with 'Task99'"):
        tasks.task("Task99")
    with pytest.raises(BadTask, match="autoseg add"):
        Home(tmp_path / "nowhere").task("Task04")


def test_a_new_task_does_not_replace_one(tasks: Home) -> None:
    with pytest.raises(BadUsage, match="exists already"):
        tasks.new_task_file("Task40_Roads")
    assert tasks.new_task_file("Task50").parent.name == "Task50"


def test_the_current_task_and_plan_are_kept(home: Path) -> None:
    assert Home(home).current() is None
    for plan in ("default", "wide"):
        Home(home).make_current("Task04", plan)
        assert Home(home).current() == Current(task="Task04", plan=plan)


def test_what_was_not_made_yet_is_none_or_told(home: Path) -> None:
    assert Home(home).folds("Task04") is None
    assert Home(home).fingerprint("Task04") is None
    assert Home(home).runs("Task04", "default") == []
    with pytest.raises(BadUsage, match="autoseg plan Task04 --as wide"):
        Home(home).plan("Task04", "wide")
    folds = Folds(rule="r", folds=(("a",),))
    save_record(Home(home).folds_file("Task04"), folds)
    assert Home(home).folds("Task04") == folds


def test_no_two_things_share_a_file() -> None:
    home = Home(Path("h"))
    files = [home.plan_file("T", "default"), home.plan_file("T", "wide"), home.folds_file("T")]
    runs = [home.run_folder("T", "p", "2d", *which).folder for which in ((0, 0), (0, 1), (1, 0), ("all", 0))]
    assert len({*files, *runs}) == 7


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "a\\b", ".hidden", "a\nb", "folds"])
def test_a_name_that_would_lie_elsewhere_is_refused(home: Path, name: str) -> None:
    with pytest.raises(BadUsage, match="task"):
        Home(home).new_task_file(name)
    with pytest.raises(BadUsage, match="plan"):
        Home(home).plan_file("Task01", name)


def test_a_damaged_log_is_rewound(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    run.log_file.write_bytes(b'5\n\xff\n{"step": null}\n{"step": 1}\n{"step": 2}\n')
    run.rewind_log(1)
    assert run.log_file.read_text() == '{"step": 1}\n'
