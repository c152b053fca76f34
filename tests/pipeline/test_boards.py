"""TensorBoard and MLflow themselves, where they are installed: what was logged is found again, once."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest

from autoseg.pipeline.boards import MLflow, TensorBoard, parameters
from autoseg.pipeline.fold_cases import Wish
from autoseg.pipeline.tracking import Trackers
from autoseg.records import Scores
from autoseg.store import RunFolder, save_record
from tests.pipeline.test_tracking import RUN, Said


def picture() -> bytes:
    from matplotlib.image import imsave

    file = io.BytesIO()
    imsave(file, np.linspace(0, 1, 48).reshape(4, 4, 3), format="png")
    return file.getvalue()


def test_tensorboard_shows_every_step_once_after_a_stop(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    shown = threading.excepthook
    for first, steps in ((0, range(1, 8)), (4, range(5, 11))):  # killed after step 7, the last checkpoint is of step 4
        board = TensorBoard(tmp_path, first)
        for step in steps:
            board.scalars(step, {"loss/all": step / 10})
        board.picture(steps[0], picture)
        board.close("FINISHED")
    threading.excepthook = shown
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [(one.step, pytest.approx(one.value)) for one in found.Scalars("loss/all")] == [
        (step, step / 10) for step in range(1, 11)
    ]
    assert [(one.step, one.width, one.height) for one in found.Images("patches")] == [(1, 4, 4), (5, 4, 4)]


@pytest.mark.filterwarnings("ignore")  # of its many libraries
def test_mlflow_finds_its_run_again(tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    uri, file = f"sqlite:///{tmp_path}/runs.db", tmp_path / "mlflow.json"
    for status, steps in (("FAILED", range(1, 8)), ("FINISHED", range(5, 11))):
        one = MLflow(uri, RUN, file)
        for step in steps:
            one.scalars(step, {"loss/all": step / 10, "seconds/step": 1.0})
        if status == "FINISHED":
            one.finish(10, {"dice/mean": 0.5}, {"scores.json": "{}"})
        one.close(status)
    client = mlflow.MlflowClient(tracking_uri=uri)
    (experiment,) = [one for one in client.search_experiments() if one.name == RUN.task]
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.run_name, run.info.status) == ("default/2d/0/3", "FINISHED")
    assert [m.step for m in client.get_metric_history(run.info.run_id, "loss/all")] == [*range(1, 11)]
    assert run.data.params == parameters(RUN) and run.data.metrics["dice/mean"] == 0.5
    assert [one.path for one in client.list_artifacts(run.info.run_id)] == ["scores.json"]
    assert "runs.db" not in file.read_text()


@pytest.mark.filterwarnings("ignore")  # of its many libraries
@pytest.mark.parametrize(("broken", "kept"), [("log_text", {"dice/mean": 0.5}), ("log_batch", {})])
def test_where_a_store_fails_at_the_end_mlflow_has_what_was_sent_and_a_run_that_ended(
    tmp_path: Path, broken: str, kept: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    mlflow = pytest.importorskip("mlflow")

    def fail(*given: object, **named: object) -> None:
        assert isinstance(one, MLflow) and one.client.get_run(one.id).data.metrics == kept  # what was sent before
        raise OSError("no space left")

    folder, uri, voice = RunFolder(tmp_path / "run"), f"sqlite:///{tmp_path}/runs.db", Said()
    save_record(folder.scores_file, Scores(rule="", unit="mm³", cases={}, mean={}, dice=0.5))
    with Trackers(Wish("2d", mlflow=uri), voice) as trackers:
        trackers.begin(RUN, folder, 0)
        (one,) = trackers.trackers.values()
        assert isinstance(one, MLflow)
        monkeypatch.setattr(one.client, broken, fail)
        trackers.finish(folder)
    found = mlflow.MlflowClient(tracking_uri=uri).get_run(one.id)
    assert found.info.status == "FAILED" and found.data.metrics == kept
    assert voice.lines == ["MLflow failed: no space left; the training goes on without it"]


def test_the_parameters_are_the_settings_with_dotted_names_and_no_case() -> None:
    found = parameters(RUN)
    assert found["train.steps"] == "9" and found["patch"] == "[8, 8]" and found["fold"] == "0"
    assert found["train.optimiser.name"] == "sgd" and found["network.block.name"] == RUN.settings.network.block.name
    assert not any("ball_07" in text for pair in found.items() for text in pair)
