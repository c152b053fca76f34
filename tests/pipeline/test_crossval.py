"""Cross-validation, the choice of a model, and prediction with it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest

from autoseg.errors import BadUsage
from autoseg.pipeline import cleaning, crossval, ensembles, folder
from autoseg.pipeline.choosing import standing
from autoseg.pipeline.fold_cases import Wish
from autoseg.pipeline.levels import levels_beside
from autoseg.pipeline.models import load_model
from autoseg.pipeline.out_of_fold import postprocessed
from autoseg.pipeline.prediction import Model
from autoseg.pipeline.prediction import load_model as of_runs
from autoseg.records import Choice, Cleaning, Part, Postprocessing
from autoseg.steps import cases as casework
from autoseg.store import Home, save_record
from tests.pipeline.conftest import PLAN, TASK
from tests.pipeline.test_scoring import Listening
from tests.test_story import teller

TITLES = ("2d", "3d")

pytestmark = pytest.mark.xdist_group("crossed")  # one worker trains what all of these look at


def label(file: Path) -> np.ndarray:
    return np.asarray(nibabel.load(file).dataobj)


def test_all_folds_are_trained_and_all_models_compared(crossed: Path) -> None:
    home = Home(crossed)
    choice = home.choice(TASK, PLAN)
    assert choice is not None and choice == Choice.model_validate_json((crossed / "choice.json").read_text())
    assert {one.name for one in choice.table} == {"2d", "3d", "2d + 3d"} and choice.cases == 10
    for title in TITLES:
        for fold in range(2):
            assert home.run_folder(TASK, PLAN, title, fold, 0).scores() is not None
    assert choice.table[0].dice == max(one.dice for one in choice.table) and choice.table[0].behind == 0
    assert set(load_model(home.model_file(TASK, PLAN)).record.configurations) == set(choice.configurations)
    both, *single = sorted(choice.table, key=lambda one: -len(one.configurations))
    assert both.parameters == sum(one.parameters for one in single)
    assert both.seconds == pytest.approx(sum(one.seconds for one in single))


def test_the_dice_of_a_configuration_is_that_of_its_runs(crossed: Path) -> None:
    home = Home(crossed)
    choice = home.choice(TASK, PLAN)
    assert choice is not None
    for title in TITLES:
        scores = [home.run_folder(TASK, PLAN, title, fold, 0).scores() for fold in range(2)]
        dice = [case["ball"].dice for one in scores if one for case in one.cases.values()]
        (row,) = [row for row in choice.table if row.name == title]
        assert row.dice == pytest.approx(np.mean(dice))


def test_an_ensemble_says_what_its_networks_say_on_average_of_cases_they_had_not_seen(crossed: Path) -> None:
    home = Home(crossed)
    one, other = (of_runs([home.run_folder(TASK, PLAN, title, 1, 0)], "cpu", {}) for title in TITLES)
    model: Model = replace(one, beside=(other,))
    image = casework.read_image([crossed / "datasets" / TASK / "imagesTr" / "ball_07.nii.gz"], model.question)
    there = label(home.ensembles(TASK, PLAN) / "2d+3d" / "ball_07.nii.gz")
    np.testing.assert_array_equal(there, model.predict(image).transpose(2, 1, 0))


def test_what_is_done_is_not_done_again(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        raise AssertionError("trained or predicted again")

    monkeypatch.setattr(crossval, "train", never)
    monkeypatch.setattr(ensembles._Predicting, "_predict", never)
    before = (copy / "choice.json").read_text()
    again = teller(copy)("crossval", "--steps", "12", "--device", "cpu", "--json", "-t", "Task01")
    one, other = (Choice.model_validate_json(text) for text in (before, again.stdout))
    assert [row.name for row in one.table] == [row.name for row in other.table]
    assert one.cleaning == other.cleaning


def test_a_changed_ensemble_label_is_predicted_again(copy: Path) -> None:
    file = Home(copy).ensembles(TASK, PLAN) / "2d+3d" / "ball_03.nii.gz"
    before = label(file)
    file.write_bytes(b"")
    teller(copy)("choose", "--device", "cpu", "-t", "Task01")
    np.testing.assert_array_equal(label(file), before)


def test_ensembles_that_the_memory_does_not_hold_together_are_the_same(
    crossed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:  # fmt: skip
    home = Home(crossed)
    done = ensembles.finished(home, home.plan(TASK, PLAN), TITLES, 0)
    ways = [("2d", "3d"), ("2d",), ("3d",)]
    work = ensembles._Predicting(home, done, ways, tmp_path, "cpu", {})
    (files,) = (files for files, _ in done.cases if files.id == "ball_03")

    def made(name: str) -> list[bytes]:
        labels = {way: tmp_path / name / "+".join(way) / "ball_03.nii.gz" for way in ways}
        work._predict(work._models(0), files, 0, labels)
        files_of = (one for file in labels.values() for one in work._files(file))
        return [label(one).tobytes() if one.suffix == ".gz" else one.read_bytes() for one in files_of]

    together = made("together")
    monkeypatch.setattr(ensembles, "HELD", 1)
    assert made("apart") == together


def test_what_is_missing_is_named_with_its_command(copy: Path) -> None:
    home = Home(copy)
    home.run_folder(TASK, PLAN, "3d", 1, 0).scores_file.unlink()
    with pytest.raises(BadUsage, match=r"1 runs are not finished.*autoseg train 3d 1 -t Task01_Balls -p default"):
        ensembles.finished(home, home.plan(TASK, PLAN), TITLES, 0)
    assert ensembles.trained(home, home.plan(TASK, PLAN), 0) == ("2d",)
    told = teller(copy)("choose", "--device", "cpu", "-t", "Task01")
    assert "the only one" in told.stdout


def test_a_budget_is_divided_and_the_folds_get_the_same_steps(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Wish] = []
    monkeypatch.setattr(crossval, "train", lambda home, plan, wish, voice: asked.append(wish))
    home = Home(copy)
    shutil.rmtree(home.root / "work" / TASK / "runs" / PLAN / "3d")
    wish = Wish("2d", budget=120.0, device="cpu")
    voice = Listening()
    crossval.train_missing(home, home.plan(TASK, PLAN), TITLES, wish, ["cpu"], voice)
    assert [(one.configuration, one.fold, one.budget) for one in asked] == [("3d", 0, 30.0), ("3d", 1, 30.0)]
    assert voice.heard[0] == "2 of 4 runs are to be trained, those that have not begun for 0.5 minutes each"


def test_two_devices_train_at_once(copy: Path) -> None:
    home = Home(copy)
    shutil.rmtree(home.root / "work" / TASK / "runs" / PLAN / "2d")
    voice = Listening()
    wish = Wish("2d", steps=2, device="cpu")
    crossval.train_missing(home, home.plan(TASK, PLAN), ["2d"], wish, ["cpu", "cpu"], voice)
    assert sum("validation Dice" in line for line in voice.heard) == 2
    assert all(home.run_folder(TASK, PLAN, "2d", fold, 0).ended() for fold in range(2))


# -- predicting with the choice ------------------------------------------------------------------------


def chosen(home: Path, *steps: Part, thresholds: dict[str, float] | None = None) -> None:
    """The ensemble is chosen, with these steps and thresholds."""
    choice = Home(home).choice(TASK, PLAN)
    assert choice is not None
    after = Postprocessing(thresholds=thresholds or {}, steps=steps)
    changed = {"configurations": ("2d", "3d"), "cleaning": Cleaning(taken=after, tried=after)}
    save_record(Home(home).choice_file(TASK, PLAN), choice.model_copy(update=changed))


def test_predict_and_export_use_what_was_chosen(copy: Path) -> None:
    say, images = teller(copy), str(copy / "images")
    (copy / "images").mkdir()
    for name in ("ball_02.nii.gz", "ball_08.nii.gz"):
        shutil.copy(copy / "datasets" / TASK / "imagesTr" / name, copy / "images")
    small = Part(name="remove_small", options={"size": 1e6})
    chosen(copy)
    told = say("predict", "-i", images, "-o", str(copy / "plain"), "-t", "Task01")
    assert "the model that was chosen: 2d + 3d" in told.stderr
    chosen(copy, small)
    told = say("predict", "-i", images, "-o", str(copy / "cleaned"), "-t", "Task01", "--volumes")
    assert "2d + 3d, then remove_small(size=1000000.0)" in told.stderr
    say("predict", "-i", images, "-o", str(copy / "left"), "-t", "Task01", "--no-postprocessing")
    say("export", str(copy / "model.autoseg"), "-t", "Task01")
    say("predict", "-i", images, "-o", str(copy / "packed"), "-m", str(copy / "model.autoseg"))
    say("predict", "-i", images, "-o", str(copy / "raw"), "-m", str(copy / "model.autoseg"), "--no-postprocessing")
    for name in ("ball_02.nii.gz", "ball_08.nii.gz"):
        found = {out: label(copy / out / name) for out in ("plain", "cleaned", "left", "packed", "raw")}
        assert found["plain"].any() and not found["cleaned"].any() and not found["packed"].any()
        np.testing.assert_array_equal(found["plain"], found["left"])
        np.testing.assert_array_equal(found["plain"], found["raw"])
    assert (
        ",0\n" in (copy / "cleaned" / "volumes.csv").read_text()
        or ",0.0" in (copy / "cleaned" / "volumes.csv").read_text()
    )
    told = say("models", str(copy / "model.autoseg"))
    assert "remove_small" in told.stdout
    model = load_model(copy / "model.autoseg", "cpu")
    image = nibabel.load(Path(images) / "ball_02.nii.gz")
    assert not model.predict(np.asarray(image.dataobj).transpose(2, 1, 0), (2.0, 1.0, 1.0)).any()


@pytest.mark.parametrize("share", [0.1, 0.4, 0.5, 0.6, 0.9])
@pytest.mark.parametrize("way", ["2d", "3d", "2d+3d"])
def test_a_threshold_does_in_prediction_what_it_was_chosen_for(crossed: Path, way: str, share: float) -> None:
    home, after = Home(crossed), Postprocessing(thresholds={"ball": share})
    models = [of_runs([home.run_folder(TASK, PLAN, title, 1, 0)], "cpu", {}) for title in way.split("+")]
    model: Model = replace(models[0], beside=tuple(models[1:]), postprocessing=after)
    image = casework.read_image([crossed / "datasets" / TASK / "imagesTr" / "ball_07.nii.gz"], model.question)
    place = home.run_folder(TASK, PLAN, way, 1, 0).predictions
    file = (home.ensembles(TASK, PLAN) / way if "+" in way else place) / "ball_07.nii.gz"
    plain = label(file).transpose(2, 1, 0).astype(np.uint8)
    found = postprocessed(plain, file, model.question, after, image.spacing)
    np.testing.assert_array_equal(model.predict(image), found)
    grown = np.count_nonzero(found) - np.count_nonzero(plain)
    assert grown > 0 if share < 0.5 else grown < 0 if share > 0.5 else grown == 0


def test_thresholds_travel_with_the_model(copy: Path) -> None:
    say, images = teller(copy), str(copy / "images")
    (copy / "images").mkdir()
    shutil.copy(copy / "datasets" / TASK / "imagesTr" / "ball_02.nii.gz", copy / "images")
    chosen(copy, thresholds={"ball": 0.1})
    told = say("predict", "-i", images, "-o", str(copy / "low"), "-t", "Task01")
    assert "2d + 3d, then ball from 0.1" in told.stderr
    say("predict", "-i", images, "-o", str(copy / "plain"), "-t", "Task01", "--no-postprocessing")
    say("export", str(copy / "model.autoseg"), "-t", "Task01")
    say("predict", "-i", images, "-o", str(copy / "packed"), "-m", str(copy / "model.autoseg"))
    low, plain, packed = (label(copy / name / "ball_02.nii.gz") for name in ("low", "plain", "packed"))
    np.testing.assert_array_equal(low, packed)
    assert np.count_nonzero(low) > np.count_nonzero(plain)


def test_what_the_memory_does_not_hold_is_postprocessed_in_strips(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    say, images = teller(copy), str(copy / "images")
    (copy / "images").mkdir()
    for name in ("ball_02.nii.gz", "ball_08.nii.gz"):
        shutil.copy(copy / "datasets" / TASK / "imagesTr" / name, copy / "images")
    chosen(copy, Part(name="keep_largest"), Part(name="fill_holes", options={"label": "ball"}))
    say("predict", "-i", images, "-o", str(copy / "whole"), "-t", "Task01")
    monkeypatch.setattr(folder, "fits", lambda shape, room: False)
    monkeypatch.setattr(cleaning, "STRIP", 10**9)  # a row at a time
    say("predict", "-i", images, "-o", str(copy / "strips"), "-t", "Task01")
    for name in ("ball_02.nii.gz", "ball_08.nii.gz"):
        np.testing.assert_array_equal(label(copy / "strips" / name), label(copy / "whole" / name))
    assert not [*(copy / "strips").glob(".*.part.*")]


def test_runs_without_levels_are_chosen_without_thresholds(copy: Path) -> None:
    home = Home(copy)
    levels_beside(home.run_folder(TASK, PLAN, "2d", 0, 0).predictions / "x").parent.rename(copy / "gone")
    told = teller(copy)("choose", "2d", "--device", "cpu", "-t", "Task01")
    assert "no thresholds" in told.stderr


def test_a_choice_of_runs_that_have_changed_is_not_used(copy: Path) -> None:
    home, voice = Home(copy), Listening()
    plan = home.plan(TASK, PLAN)
    assert standing(home, plan, voice) is not None
    teller(copy)("train", "2d", "1", "--steps", "2", "--fresh", "-t", "Task01", "--device", "cpu")
    assert standing(home, plan, voice) is None
    assert "fold 1 of 2d has changed since a model was chosen" in voice.heard[-1]


def test_configurations_that_there_are_not_are_refused(crossed: Path) -> None:
    assert "4d" in teller(crossed)("crossval", "4d", "-t", "Task01", ends=2).stderr
    assert "exclude" in teller(crossed)("crossval", "--budget", "1m", "--steps", "3", "-t", "Task01", ends=2).stderr
