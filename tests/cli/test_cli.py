"""What a user types and what comes back, beside the story."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from autoseg import __version__
from autoseg.cli import main
from autoseg.cli.session import change, gigabytes, seconds
from autoseg.errors import BadUsage


def run(*words: str, home: Path | None = None):
    return CliRunner().invoke(main, ["--home", str(home or Path()), *words])


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from autoseg.cli import main; main(['--help'], standalone_mode=False);"
        "heavy = {'torch', 'monai', 'numpy', 'pydantic', 'rasterio', 'SimpleITK', 'nibabel'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_version() -> None:
    assert __version__ in run("--version").stdout


def test_every_command_has_help() -> None:
    for name in main.commands:
        told = run(name, "--help")
        assert told.exit_code == 0 and "Usage" in told.stdout, name


def test_several_processes_run_no_command_but_train(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    for name in main.commands:
        assert run(name, "--help", home=tmp_path).exit_code == 0 == run("--version").exit_code
        told = run(name, home=tmp_path)
        refused = f"WORLD_SIZE: {name} is the work of one process, and 2 were started; start it without" in told.stderr
        assert told.exit_code == 2 and refused == (name != "train"), told.stderr
        assert told.stderr.count("\n") == 1 or not refused
    for size in ("1", ""):
        monkeypatch.setenv("WORLD_SIZE", size)
        assert run("parts", home=tmp_path).exit_code == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [("15m", 900), ("15", 900), ("90s", 90), ("2h", 7200), ("1h30m", 5400), ("1.5h", 5400), ("1m30s", 90)],
)
def test_times(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "x", "-5m", "0", "0s", "5d", "m", "1m1h", "nan"])
def test_what_is_no_time_is_refused(text: str) -> None:
    with pytest.raises(BadUsage, match="30m or 2h"):
        seconds(text)


@pytest.mark.parametrize(("text", "expected"), [("8GB", 8e9), ("500 MB", 5e8), ("16", 16e9), ("1GiB", 1024**3)])
def test_amounts_of_memory(text: str, expected: float) -> None:
    assert gigabytes(text) == expected


@pytest.mark.parametrize("text", ["", "GB", "8 apples", "-1GB", "1MB", "nanGB", "infGB"])
def test_what_is_no_amount_of_memory_is_refused(text: str) -> None:
    with pytest.raises(BadUsage, match="--memory"):
        gigabytes(text)


def test_changes_are_json_where_they_can_be() -> None:
    assert change("a.b=3") == ("a.b", 3) and change("a=[1,2]") == ("a", [1, 2])
    assert change("loss=dice+ce") == ("loss", "dice+ce") and change("x=a=b") == ("x", "a=b")
    with pytest.raises(BadUsage, match="FIELD=VALUE"):
        change("steps")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("check", "Task99"), "no task begins with 'Task99'"),
        (("train", "3d", "0"), "no task is current"),
        (("train", "3d", "x"), "is no fold"),
        (("train", "3d", "²"), "is no fold"),
        (("train", "3d", "0", "--steps", "5", "--budget", "5m"), "exclude each other"),
        (("--plugin", "nowhere.py", "doctor"), "no file nowhere.py"),
        (("parts", "cbmam"), "no part is called 'cbmam'"),
        (("evaluate", "-p", "nowhere", "-r", "nowhere", "-o", "out"), "no such folder"),
        (("add", "Task01_X", "--images", "nothing/*.png", "--labels", "nothing/*.png"), "nothing"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_without_a_traceback(home: Path, words, message: str) -> None:
    told = run(*words, home=home)
    assert told.exit_code == 2 and message in told.stderr and "Traceback" not in told.output
    assert told.stdout == ""


def test_an_ambiguous_task_is_told(balls_2d: Path) -> None:
    other = balls_2d / "datasets" / "Task02_Other"
    other.mkdir()
    (other / "dataset.json").write_text("{}")
    told = run("check", "Task02", home=balls_2d)
    assert told.exit_code == 2 and "Task02_Discs or Task02_Other" in told.stderr
    assert "dataset.json" in run("check", "Task02_O", home=balls_2d).stderr


def test_a_misspelt_field_names_its_neighbours_and_leaves_the_plan(balls_2d: Path) -> None:
    assert run("plan", "Task02", home=balls_2d).exit_code == 0
    file = balls_2d / "plans" / "Task02_Discs.json"
    before = file.read_text()
    for wrong, message in (
        ("configurations.2d.bacth=3", "did you mean batch"),
        ("configurations.2d.batch=0", "batch"),
        ("configurations.2d.patch=[3,3]", "multiple"),
        ("configurations.3d.batch=1", "no field '3d'"),
    ):
        told = run("plan", "Task02", "--set", wrong, home=balls_2d)
        assert told.exit_code == 2 and message in told.stderr, told.output
    assert "unknown loss" in run("plan", "Task02", "--loss", "dicee", home=balls_2d).stderr
    assert file.read_text() == before


def test_a_damaged_plan_is_named(balls_2d: Path) -> None:
    run("plan", "Task02", home=balls_2d)
    file = balls_2d / "plans" / "Task02_Discs.json"
    file.write_text(file.read_text().replace('"batch"', '"bacth"'))
    told = run("train", "2d", "0", "--steps", "1", home=balls_2d)
    assert told.exit_code == 2 and "Task02_Discs.json" in told.stderr and "bacth" in told.stderr


def test_an_explanation_goes_with_no_option_that_makes_a_plan(balls_3d: Path) -> None:
    run("plan", "Task01", "--device", "cuda", "--memory", "8GB", home=balls_3d)
    told = run("plan", "Task01", "--explain", "3d.batch", home=balls_3d)
    assert told.exit_code == 0 and "what fits beside the patch" in told.stdout
    for option in (("--set", "3d.batch=9"), ("--network", "unetpp"), ("--budget", "2h"), ("--memory", "8GB")):
        refused = run("plan", "Task01", "--explain", "3d.batch", *option, home=balls_3d)
        assert refused.exit_code == 2 and "--explain" in refused.stderr


def test_a_field_of_a_configuration_is_set_by_its_short_path(balls_3d: Path) -> None:
    told = run("plan", "Task01", "--device", "cuda", "--memory", "8GB", "--set", "3d.batch=3", "--json", home=balls_3d)
    made = json.loads(told.stdout)
    assert made["configurations"]["3d"]["batch"] == 3
    assert made["because"]["configurations.3d.batch"] == "set by hand" and "3d.batch" not in made["because"]


def test_another_machine_can_be_planned_for(balls_3d: Path) -> None:
    told = run("plan", "Task01", "--device", "cuda", "--memory", "8GB", "--as", "gpu", "--json", home=balls_3d)
    plan = json.loads(told.stdout)
    target = {"device": "cuda", "memory": 8 * 10**9, "threads": None, "minutes": None, "rates": {}}
    assert plan["target"] == target
    assert plan["configurations"]["3d"]["train"]["steps"] == 100_000


def test_an_absent_device_is_told_with_the_remedy(balls_3d: Path) -> None:
    told = run("plan", "Task01", "--device", "cuda:77", home=balls_3d)
    assert told.exit_code == 2 and "there is no cuda:77 here" in told.stderr and "--memory 8GB" in told.stderr


def test_splits_of_nnunet_are_taken(balls_3d: Path) -> None:
    ids = [f"ball_{n:02d}" for n in range(10)]
    splits = [{"train": [i for i in ids if i not in ids[k::5]], "val": ids[k::5]} for k in range(5)]
    file = balls_3d / "splits_final.json"
    file.write_text(json.dumps(splits))
    assert run("plan", "Task01", "--splits", str(file), home=balls_3d).exit_code == 0
    folds = json.loads((balls_3d / "plans" / "Task01_Balls.folds.json").read_text())["folds"]
    assert folds[1] == ["ball_01", "ball_06"]
    splits[0]["val"], splits[1]["val"] = splits[1]["val"], splits[0]["val"]
    splits[0]["train"], splits[1]["train"] = splits[1]["train"], splits[0]["train"]
    file.write_text(json.dumps(splits))
    assert "other folds already" in run("plan", "Task01", "--splits", str(file), home=balls_3d).stderr


def test_parts_lists_every_part(home: Path) -> None:
    rows = json.loads(run("parts", "--json", home=home).stdout)
    assert {"unet", "dice", "mirror", "zscore", "poly"} <= {row["name"] for row in rows}
    assert all(row["what"] for row in rows)


def test_doctor_reports_as_json(home: Path) -> None:
    rows = json.loads(run("doctor", "--json", home=home).stdout)
    assert {"Python", "torch", "memory", "disk", "device"} <= {row["what"] for row in rows}


def test_add_makes_a_task_that_goes_through(balls_2d: Path) -> None:
    folder = balls_2d / "datasets" / "Task02_Discs"
    words = ("add", "Task03_Mine", "--images", f"{folder}/imagesTr/*.png", "--labels", f"{folder}/labelsTr/*.png")
    told = run(*words, "--labels-map", "0=background,255=disc", "--group", r"disc_(\d)", home=balls_2d)
    assert told.exit_code == 0 and "10 cases" in told.stderr
    assert [p.name for p in (balls_2d / "datasets" / "Task03_Mine").iterdir()] == ["dataset.json"]
    assert run("check", "Task03", home=balls_2d).exit_code == 0
    assert "exists already" in run(*words, home=balls_2d).stderr


def test_a_plan_of_what_is_not_there_is_refused_and_the_folds_stay(balls_2d: Path) -> None:
    assert run("plan", "Task02", home=balls_2d).exit_code == 0
    before = {file.name: file.read_text() for file in (balls_2d / "plans").iterdir()}
    words = ("plan", "Task02", "--device", "cuda", "--memory", "8GB")
    for field, value, message in (
        ("train.optimiser.name", "adam", "unknown optimiser"),
        ("train.loss", "dize", "unknown loss"),
        ("train.augment.0.options.degres", "1", "degrees"),
        ("normalise.0.name", "none_such", "unknown normaliser"),
    ):
        told = run(*words, "--set", f"configurations.2d.{field}={value}", home=balls_2d)
        assert told.exit_code == 2 and message in told.stderr, told.output
    for extra in (("--as", "folds"), ("--as", "../x"), ("--set", "task=../x"), ("--set", "name=y")):
        assert run(*words, *extra, home=balls_2d).exit_code == 2
    assert {file.name: file.read_text() for file in (balls_2d / "plans").iterdir()} == before


def test_a_copied_plan_is_not_taken_for_the_one_it_is_a_copy_of(balls_2d: Path) -> None:
    run("plan", "Task02", "--device", "cuda", "--memory", "8GB", home=balls_2d)
    plans = balls_2d / "plans"
    (plans / "Task02_Discs.mine.json").write_text((plans / "Task02_Discs.json").read_text())
    told = run("train", "2d", "0", "-p", "mine", home=balls_2d)
    assert told.exit_code == 2 and "is the plan 'default'" in told.stderr


def test_a_missing_file_is_told_once(balls_2d: Path) -> None:
    (balls_2d / "datasets" / "Task02_Discs" / "imagesTr" / "disc_03_0000.png").unlink()
    listed = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "disc": 255}}
    listed["dataset"] = {
        f"d{n}": {"images": [f"imagesTr/disc_{n:02d}_0000.png"], "label": f"labelsTr/disc_{n:02d}.png"} for n in (2, 3)
    }
    (balls_2d / "datasets" / "Task02_Discs" / "dataset.json").write_text(json.dumps(listed))
    faults = json.loads(run("check", "Task02", "--json", home=balls_2d).stdout)
    assert [fault["case"] for fault in faults] == ["d3"]


def test_a_damaged_fingerprint_is_said_and_made_again(balls_2d: Path) -> None:
    run("check", "Task02", home=balls_2d)
    (balls_2d / "work" / "Task02_Discs" / "fingerprint.json").write_text('{"question"')
    told = run("check", "Task02", home=balls_2d)
    assert told.exit_code == 0 and "measuring all cases again" in told.stderr


def test_splits_that_are_no_text_are_told(balls_2d: Path) -> None:
    image = balls_2d / "datasets" / "Task02_Discs" / "labelsTr" / "disc_00.png"
    told = run("plan", "Task02", "--device", "cuda", "--memory", "8GB", "--splits", str(image), home=balls_2d)
    assert told.exit_code == 2 and "disc_00.png" in told.stderr


def test_brackets_in_a_path_are_no_markup(balls_2d: Path) -> None:
    labels = balls_2d / "datasets" / "Task02_Discs" / "labelsTr"
    shown = balls_2d / "[/b]"
    shown.parent.mkdir()
    shown.symlink_to(labels)
    told = run("evaluate", "-p", str(shown), "-r", str(labels), "-o", str(balls_2d / "out"), home=balls_2d)
    assert told.exit_code == 0 and "[/b]" in told.stdout.replace("\n", "")


def test_add_says_what_each_remark_is_about(balls_2d: Path) -> None:
    folder = balls_2d / "datasets" / "Task02_Discs"
    (folder / "labelsTr" / "disc_09.png").unlink()
    words = ("add", "Task04_Less", "--images", f"{folder}/imagesTr", "--labels", f"{folder}/labelsTr")
    told = run(*words, home=balls_2d)
    assert told.exit_code == 0 and "orphan image: " in told.stderr and "left out" not in told.stderr
