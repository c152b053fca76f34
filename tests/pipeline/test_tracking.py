"""What trackers are given, and that none of them stops a run."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result

from autoseg.cli import main
from autoseg.errors import BadUsage
from autoseg.pipeline import tracking
from autoseg.pipeline.fold_cases import Wish
from autoseg.pipeline.tracking import Trackers, nameless, require, scalars_of
from autoseg.records import Channel, Checkpoint, Measures, Question, Run, Scores
from autoseg.steps.train import Progress
from autoseg.store import Home, RunFolder, load_tensors
from tests.pipeline.test_training import PLAN
from tests.steps.test_batches import configuration

QUESTION = Question(
    reader="nifti", channels=(Channel(name="a", kind="other"),), labels={"background": 0, "liver (all)": 1, "b": 2}
)
RUN = Run(
    task="Task09_A", plan="default", configuration="2d", fold=0, seed=3, settings=configuration((8, 8)),
    question=QUESTION, folds="", device="cpu", precision="float32", threads=1, skipped=("ball_07",), version="0",
)  # fmt: skip


class Recorder:
    """A tracker that keeps what it is given; `broken` fails from that step on."""

    def __init__(self, broken: float = math.inf) -> None:
        self.broken = broken
        self.numbers: dict[int, dict[str, float]] = {}
        self.pictures: dict[int, bytes] = {}
        self.files: dict[str, str] = {}
        self.ended: list[str] = []

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self.broken:
            raise OSError("no server\nat postgresql://me:geheim@host/db")
        assert step not in self.numbers
        self.numbers[step] = dict(values)

    def picture(self, step: int, draw: Callable[[], bytes]) -> None:
        self.pictures[step] = draw()

    def finish(self, step: int, values: Mapping[str, float], files: Mapping[str, str]) -> None:
        self.numbers[step] |= values
        self.files = dict(files)

    def close(self, status: str) -> None:
        self.ended.append(status)


class Said:
    """A voice that is written down."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, text: str) -> None:
        self.lines.append(text)


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *words])


@pytest.fixture
def boards(monkeypatch: pytest.MonkeyPatch) -> list[Recorder]:
    """Stands for TensorBoard, which need not be installed: a recorder for every process that trains."""
    made: list[Recorder] = []

    def board(folder: Path, step: int) -> Recorder:
        made.append(Recorder(broken=3 if len(made) == 1 else math.inf))
        return made[-1]

    monkeypatch.setattr(tracking, "TensorBoard", board)
    monkeypatch.setattr("autoseg.pipeline.training.require", lambda wish: None)
    return made


def test_a_run_is_followed_to_its_scores_and_a_failure_changes_nothing(balls_2d: Path, boards: list[Recorder]) -> None:
    assert run(balls_2d, *PLAN).exit_code == 0
    folder = Home(balls_2d).run_folder("Task02_Discs", "default", "2d", 0, 0)
    states = []
    for track in (["--track"], ["--track", "--fresh"], ["--fresh"]):
        told = run(balls_2d, "train", "2d", "0", "--steps", "4", *track)
        assert told.exit_code == 0
        states.append((told.stderr, load_tensors(Checkpoint, folder.checkpoint_file)[1]))
    whole, broken = boards
    assert [*whole.numbers] == [1, 2, 3, 4] and [*whole.pictures] == [1, 4] and whole.ended == ["FINISHED"]
    assert all(png.startswith(b"\x89PNG") for png in whole.pictures.values())
    logged = {line["step"]: line for line in folder.logged()}
    for step, numbers in whole.numbers.items():
        assert numbers["loss/all"] == pytest.approx(logged[step]["loss"], abs=1e-6)
        assert numbers["gradient_norm"] == pytest.approx(logged[step]["norm"], rel=1e-3)
        assert {"learning_rate", "memory_gb", "seconds/step"} <= numbers.keys()
    scores = folder.scores()
    assert scores is not None and whole.numbers[4]["dice/mean"] == scores.dice
    assert {"seconds/read", "seconds/rest", "pseudo_dice/disc"} <= whole.numbers[4].keys()
    assert {*whole.files} == {"progress.svg", "scores.json"}
    everything = json.dumps([whole.numbers, whole.files])
    assert not any(case in everything for case in scores.cases) and str(balls_2d) not in everything
    assert [*broken.numbers] == [1, 2] and broken.ended == ["FAILED"]
    said = [line for line in states[1][0].splitlines() if "the training goes on without it" in line]
    assert said == ["TensorBoard failed: no server; the training goes on without it"]
    for _, weights in states[1:]:
        assert all(torch.equal(states[0][1][name], value) for name, value in weights.items())


@pytest.mark.parametrize(("words", "package"), [(["--track"], "tensorboard"), (["--mlflow", "sqlite:///a"], "mlflow")])
def test_what_is_not_installed_is_told_before_anything_is_done(
    balls_2d: Path, words: list[str], package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.delitem(sys.modules, "torch.utils.tensorboard", raising=False)
    assert run(balls_2d, *PLAN).exit_code == 0
    told = run(balls_2d, "train", "2d", "0", "--steps", "2", *words)
    assert told.exit_code == 2 and told.stderr.splitlines()[-1].endswith("pip install 'autoseg[track]'")
    assert f"{words[0]}: " in told.stderr and package in told.stderr
    assert not (balls_2d / "work" / "Task02_Discs" / "runs").exists()


def test_a_tracker_that_is_refused_leaves_no_run_that_was_begun(
    balls_2d: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*given: Any) -> Recorder:
        raise OSError("no such store")

    monkeypatch.setattr(tracking, "MLflow", refused)
    monkeypatch.setattr("autoseg.pipeline.training.require", lambda wish: None)
    assert run(balls_2d, *PLAN).exit_code == 0
    told = run(balls_2d, "train", "2d", "0", "--steps", "2", "--mlflow", "ftp://host")
    assert told.exit_code == 2 and "MLflow cannot be used: no such store" in told.stderr
    told = run(balls_2d, "train", "2d", "0", "--steps", "3")
    assert told.exit_code == 0, told.stderr


def test_the_id_of_a_run_that_never_began_is_not_taken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    there: list[bool] = []

    def opened(uri: str, run: Run, file: Path) -> Recorder:
        there.append(file.exists())
        return Recorder()

    monkeypatch.setattr(tracking, "MLflow", opened)
    folder, wish = RunFolder(tmp_path), Wish("2d", mlflow="sqlite:///a")
    for record in (folder.run_file, None):
        folder.mlflow_file.write_text("{}")
        Trackers(wish, Said()).begin(RUN, folder, 0)
        if record is not None:
            record.write_text("{}")
    assert there == [False, True]


FOLDER = "keeps no runs in a folder any more"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        *((uri, FOLDER) for uri in ("mlruns", "file:mlruns", "file:///tmp/mlruns", "FILE:x", "Databricks")),
        ("", "the URI is empty"),
        (" ", "the URI is empty"),
        ("http://[::1", "that is no URI"),
        ("sqlite:////missing/x.db", "the folder /missing does not exist"),
        ("sqlite:///missing/in/x.db", "the folder missing/in does not exist"),
    ],
)
def test_what_is_no_store_of_mlflow_is_refused(uri: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    with pytest.raises(BadUsage, match=rf"--mlflow: .*{message}.*sqlite:///mlruns\.db"):
        require(Wish("2d", mlflow=uri))


def test_stores_of_mlflow_are_left_to_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", ModuleType("mlflow"))
    files = ("sqlite:///x.db", f"sqlite:///{tmp_path}/x.db", "sqlite://")
    for uri in (*files, "databricks", "databricks://me", "http://host:5000", "postgresql://me:geheim@host/db"):
        require(Wish("2d", mlflow=uri))


def test_a_password_is_not_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    uri = "postgresql://me:geheim@host/db"

    def refused(*given: Any) -> Recorder:
        raise OSError(f"cannot reach {uri}, nor me:geheim@host, with geheim")

    monkeypatch.setattr(tracking, "MLflow", refused)
    trackers = Trackers(Wish("2d", mlflow=uri), Said())
    with pytest.raises(BadUsage, match="MLflow cannot be used: cannot reach …") as told:
        trackers.begin(RUN, RunFolder(tmp_path), 0)
    assert "geheim" not in str(told.value) and "geheim" not in repr(trackers.wish)


def test_one_that_fails_leaves_the_others_and_is_said_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    good, bad, voice = Recorder(), Recorder(broken=3), Said()

    def close(status: str) -> None:
        bad.ended.append(status)
        raise OSError("still no server")

    monkeypatch.setattr(bad, "close", close)
    monkeypatch.setattr(tracking, "TensorBoard", lambda *given: bad)
    monkeypatch.setattr(tracking, "MLflow", lambda *given: good)
    steps = [Progress(step, 1.0, 0.1, 0.2, 0) for step in range(1, 10)]
    with pytest.raises(KeyError), Trackers(Wish("2d", track=True, mlflow="sqlite:///a"), voice) as trackers:
        trackers.begin(RUN, RunFolder(tmp_path), 0)
        assert [*trackers.followed(iter(steps), RUN, lambda step: b"%d" % step)] == steps
        raise KeyError
    assert voice.lines == ["TensorBoard failed: no server; the training goes on without it"]
    assert [*good.numbers] == [*range(1, 10)] and good.pictures == {1: b"1", 9: b"9"} and good.ended == ["FAILED"]
    assert bad.ended == ["FAILED"]


def test_long_runs_have_about_a_thousand_points_and_all_that_is_rare(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    one = Recorder()
    monkeypatch.setattr(tracking, "TensorBoard", lambda *given: one)
    long = RUN.model_copy(update={"settings": configuration((8, 8)).model_copy(deep=True)})
    train = long.settings.train.model_copy(update={"steps": 5000})
    long = long.model_copy(update={"settings": long.settings.model_copy(update={"train": train})})
    trackers = Trackers(Wish("2d", track=True), Said())  # type: ignore[arg-type]
    trackers.begin(long, RunFolder(tmp_path), 0)
    steps = (Progress(step, 1.0, 0.1, 0.2, 0, (0.5, None) if step == 4321 else None) for step in range(1, 5001))
    assert len([*trackers.followed(steps, long, lambda step: b"")]) == 5000
    assert [*one.numbers] == sorted({*range(5, 5001, 5), 4321})


def test_the_numbers_of_a_step_have_names_that_mlflow_takes_and_are_finite() -> None:
    progress = Progress(
        5, math.nan, 0.1, 0.2, 1, (0.5, None), norm=math.inf, heads={0: 1.5, 2: 0.5}, memory=2 * 10**9,
        stages={"read": 0.25},
    )  # fmt: skip
    assert scalars_of(progress, ("liver (all)", "b")) == {
        "learning_rate": 0.1, "seconds/step": 0.2, "memory_gb": 2.0, "loss/head_0": 1.5, "loss/head_2": 0.5,
        "seconds/read": 0.25, "pseudo_dice/liver _all_": 0.5,
    }  # fmt: skip


def test_scores_are_told_without_the_names_of_cases() -> None:
    measures = Measures(
        dice=0.5, iou=0.3, precision=None, recall=1.0, specificity=0.5, accuracy=0.5, true_positives=1,
        false_positives=2, false_negatives=0, true_negatives=2, volume_prediction=3.0, volume_reference=1.0,
    )  # fmt: skip
    scores = Scores(
        rule="", unit="mm³", cases={"Smith": {"a": measures}}, mean={}, dice=0.5, groups={"Smith": {}},
        faults={"Smith": "is missing"},
    )  # fmt: skip
    found = nameless(scores)
    assert "Smith" not in json.dumps(found) and found["cases"] == [{"a": json.loads(measures.model_dump_json())}]
    assert found["dice"] == 0.5
