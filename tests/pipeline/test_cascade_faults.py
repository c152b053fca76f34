"""A cascade whose earlier stage was damaged, lost or overtaken by other images."""

from __future__ import annotations

import shutil
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch

from autoseg.errors import BadPlan, BadUsage
from autoseg.pipeline import cascade, prediction, recording
from autoseg.pipeline.fold_cases import Wish
from autoseg.pipeline.prediction import load_model
from autoseg.pipeline.voice import Silent
from autoseg.records import Checkpoint, amend
from autoseg.steps import cases as casework
from autoseg.steps.suited import require_parts
from autoseg.store import Home, load_tensors
from tests.pipeline.test_cascade import TASK, TRAIN, copy, folder, plan_of, run, trained  # noqa: F401

AGAIN = "the validation cases of fold 1 of 3d_lowres are predicted again"


def predict(root: Path, *words: str) -> tuple[int, str]:
    """The exit code and what is said of predicting one image."""
    image = root / "datasets" / TASK / "imagesTr" / "pair_0.nii.gz"
    told = run(root, "predict", "-i", str(image), "-o", str(root / "out"), "--device", "cpu", *words)
    return told.exit_code, " ".join(told.stderr.split())


def train(root: Path, *words: str) -> tuple[int, str]:
    told = run(root, *(words or TRAIN))
    return told.exit_code, " ".join(told.stderr.split())


def turn(root: Path, case: str) -> None:
    """Gives the case another image and label: its own ones with left and right exchanged in place."""
    for sub in ("imagesTr", "labelsTr"):
        file = root / "datasets" / TASK / sub / f"{case}.nii.gz"
        old = nibabel.load(file)
        array = np.asarray(old.dataobj)[::-1].copy()
        nibabel.save(nibabel.Nifti1Image(array, old.affine), file)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


# -- predictions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("words", [("3d_cascade", "1"), ("3d_lowres", "1")])
def test_an_image_that_has_changed_is_predicted_again(copy: Path, words: tuple[str, str]) -> None:  # noqa: F811
    one = folder(copy, "3d_lowres", 1)
    file, point = one.predictions / "pair_4.nii.gz", one.checkpoint_file.stat().st_mtime_ns
    before = file.read_bytes()
    turn(copy, "pair_4")
    steps = ("--steps", "1" if words[0] == "3d_cascade" else "40", "--device", "cpu")
    code, told = train(copy, "train", *words, *steps)
    assert code == 0 and f"pair_4 has changed since it was predicted: {AGAIN}" in told and "trained first" not in told
    assert one.checkpoint_file.stat().st_mtime_ns == point
    home, plan = Home(copy), plan_of(copy)
    case = cascade.tasks.dataset_of(home, TASK)[0].case("pair_4")
    image = casework.load(home.task_folder(TASK), case, plan.question).image
    expected = load_model([one], "cpu", {}).predict(image)
    assert np.array_equal(casework.read_label(file, plan.question).array[0], expected) and file.read_bytes() != before
    code, told = train(copy, "train", *words, *steps)
    assert code == 0 and "predicted again" not in told and "this run is finished" in told


def contents(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda one: (one.predictions / "pair_4.nii.gz").unlink(), "there is no prediction of pair_4"),
        (lambda one: cut(one.predictions / "pair_4.nii.gz"), "the prediction of pair_4 is not as it was written"),
        (lambda one: shutil.rmtree(one.predictions), "there is no prediction of pair_1 (and 1 more)"),
        (lambda one: one.predicted_file.unlink(), "it is not known of which files pair_1 was predicted (and 1 more)"),
        (lambda one: cut(one.predicted_file), "it is not known of which files pair_1 was predicted (and 1 more)"),
    ],
)
def test_a_lost_prediction_is_made_again_and_the_cascade_goes_on(copy: Path, damage, why: str) -> None:  # noqa: F811
    one = folder(copy, "3d_lowres", 1)
    before = contents(one.predictions)
    known = one.predicted_file.read_bytes()
    damage(one)
    folder(copy, "3d_cascade").scores_file.unlink()
    code, told = train(copy)
    assert code == 0 and f"{why}: {AGAIN}" in told and "trained first" not in told
    assert contents(one.predictions) == before
    assert one.predicted_file.read_bytes() == known


def test_a_stop_while_predicting_again_leaves_no_prediction_that_counts(
    copy: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = folder(copy, "3d_lowres", 1)
    known = one.predicted_file.read_bytes()
    turn(copy, "pair_4")
    load, words = casework.load, ("train", "3d_cascade", "1", "--steps", "1", "--device", "cpu")

    def stopping(place, files, question):
        if files.id == "pair_4" and one.predictions.exists() and not one.predicted_file.exists():
            raise BadUsage("stopped")
        return load(place, files, question)

    with monkeypatch.context() as patched:
        patched.setattr(prediction.casework, "load", stopping)
        assert train(copy, *words)[0] == 2 and one.scores() is not None
    code, told = train(copy, *words)
    assert code == 0 and AGAIN in told and one.predicted_file.read_bytes() != known


def test_other_files_beside_the_predictions_change_nothing(copy: Path) -> None:  # noqa: F811
    for name in (".DS_Store", "notes.txt"):
        (folder(copy, "3d_lowres", 1).predictions / name).write_text("x")
    folder(copy, "3d_cascade").scores_file.unlink()
    code, told = train(copy)
    assert code == 0 and "predicted again" not in told
    assert "was trained again since" not in predict(copy, "--config", "3d_cascade")[1]


# -- checkpoints ---------------------------------------------------------------------------------------


def test_a_damaged_checkpoint_of_the_earlier_stage_is_healed(
    copy: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = folder(copy, "3d_lowres", 1)
    _, known = load_tensors(Checkpoint, one.checkpoint_file)
    with monkeypatch.context() as patched:
        patched.setattr(recording, "SAVE_SECONDS", 0.0)
        words = ("train", "3d_lowres", "1", "--steps", "40", "--fresh", "--device", "cpu")
        assert train(copy, *words)[0] == 0 and one.checkpoint_before.exists()
    cut(one.checkpoint_file)
    code, told = predict(copy, "--config", "3d_lowres", "--folds", "1")
    assert code == 2 and "expected of 0, 2" in told and f"{one.checkpoint_file}: is cut short" in told
    folder(copy, "3d_cascade").scores_file.unlink()
    code, told = train(copy)
    assert code == 0 and "1 of 3 folds (1) are trained first" in told and "going on from the one before it" in told
    _, healed = load_tensors(Checkpoint, one.checkpoint_file)
    assert all(torch.equal(value, healed[name]) for name, value in known.items())


def test_without_a_checkpoint_that_can_be_read_the_remedy_is_told(copy: Path) -> None:  # noqa: F811
    one = folder(copy, "3d_lowres", 1)
    cut(one.checkpoint_file)
    folder(copy, "3d_cascade").scores_file.unlink()
    code, told = train(copy)
    assert code == 2 and "no checkpoint of fold 1 of 3d_lowres can be read" in told
    assert "autoseg train 3d_lowres 1" in told and "--fresh" in told


@pytest.mark.parametrize("title", ["3d_lowres", "3d_cascade"])
def test_a_fold_whose_checkpoint_cannot_be_read_is_left_out_of_predicting(copy: Path, title: str) -> None:  # noqa: F811
    cut(folder(copy, "3d_lowres", 1).checkpoint_file)
    code, told = predict(copy, "--config", title)
    assert code == 0 and "left out:" in told and "folds 0, 2" in told and "autoseg train 3d_lowres 1" in told
    for fold in (0, 2):
        cut(folder(copy, "3d_lowres", fold).checkpoint_file)
    code, told = predict(copy, "--config", title)
    assert code == 2 and "is cut short" in told and "autoseg train 3d_lowres 0" in told


def test_a_changed_byte_in_a_checkpoint_is_told_with_the_remedy(copy: Path) -> None:  # noqa: F811
    one = folder(copy, "3d_lowres", 1)
    shutil.copy(one.checkpoint_file, one.checkpoint_before)
    _, tensors = load_tensors(Checkpoint, one.checkpoint_file)
    content = bytearray(one.checkpoint_file.read_bytes())
    weights = next(value for name, value in tensors.items() if name.startswith("network.") and value.numel() > 50)
    content[content.index(weights.numpy().tobytes())] ^= 1
    one.checkpoint_file.write_bytes(content)
    code, told = predict(copy, "--config", "3d_cascade")
    assert code == 2 and "was changed after it was written" in told
    assert f"autoseg train 3d_lowres 1 -t {TASK} -p default goes on from the one before it" in told


# -- a finished cascade --------------------------------------------------------------------------------


def test_a_finished_cascade_needs_the_earlier_runs_no_more(copy: Path) -> None:  # noqa: F811
    place = copy / "work" / TASK / "runs" / "default" / "3d_lowres"
    shutil.rmtree(place)
    code, told = train(copy)
    assert code == 0 and "this run is finished" in told and "trained first" not in told and not place.exists()
    home, plan, folds = Home(copy), plan_of(copy), Home(copy).folds(TASK)
    assert folds is not None
    assert len(cascade.missing(home, plan, Wish("3d_cascade", 0, fresh=True), folds, Silent())) == 3
    folder(copy, "3d_cascade").scores_file.unlink()
    assert len(cascade.missing(home, plan, Wish("3d_cascade", 0), folds, Silent())) == 3


def test_a_finished_cascade_is_left_as_it_is_and_what_has_changed_is_told(copy: Path) -> None:  # noqa: F811
    known = folder(copy, "3d_cascade").scores_file.read_bytes()
    turn(copy, "pair_0")
    code, told = train(copy)
    assert code == 0 and "pair_0 has changed since it was predicted: remove" in told
    assert folder(copy, "3d_cascade").scores_file.read_bytes() == known
    assert train(copy, "train", "3d_lowres", "0", "--steps", "40", "--device", "cpu")[0] == 0
    code, told = train(copy)
    assert code == 0 and "3d_lowres was trained again since (folds 0), or its images have changed: 3d_cascade" in told


# -- what is refused, and what is taken ----------------------------------------------------------------


def test_a_mirror_that_exchanges_the_background_is_refused_before_training(trained: Path) -> None:  # noqa: F811
    plan = plan_of(trained)
    mirror = {"name": "mirror", "options": {"swap": [[0, 1]], "swap_axis": 2}}
    require_parts(amend(plan, {"configurations.3d_lowres.train.augment": [mirror]}))
    with pytest.raises(BadPlan, match=r"3d_cascade.*mirror exchanges the background") as problem:
        require_parts(amend(plan, {"configurations.3d_cascade.train.augment": [mirror]}))
    assert "exchange foreground classes" in problem.value.remedy


def test_a_model_without_its_earlier_one_says_what_it_needs(trained: Path) -> None:  # noqa: F811
    home, plan = Home(trained), plan_of(trained)
    case = cascade.tasks.dataset_of(home, TASK)[0].case("pair_0")
    one = casework.load(home.task_folder(TASK), case, plan.question)
    model = load_model([folder(trained, "3d_cascade")], "cpu", {})
    with pytest.raises(BadUsage, match="3d_cascade needs the label of 3d_lowres beside the image"):
        model.predict(one.image)
    assert model.predict(one.image, one.label).shape == one.image.shape
    with pytest.raises(BadUsage, match="3d_lowres goes on from no other configuration"):
        load_model([folder(trained, "3d_lowres")], "cpu", {}).predict(one.image, one.label)


def test_folds_of_several_seeds_are_each_given_the_earlier_runs_of_theirs(copy: Path) -> None:  # noqa: F811
    words = ("train", "3d_cascade", "1", "--seed", "4", "--steps", "1", "--device", "cpu")
    assert train(copy, *words)[0] == 0
    code, told = predict(copy, "--config", "3d_cascade")
    assert code == 0 and "folds 0, 1 (seed 4)" in told and "was trained again" not in told
    assert "the label of 3d_lowres, folds 0, 1, 2, 0 (seed 4), 1 (seed 4), 2 (seed 4), which" in told
    words = ("train", "3d_lowres", "2", "--steps", "1", "--fresh", "--device", "cpu")
    assert train(copy, *words)[0] == 0
    code, told = predict(copy, "--config", "3d_cascade")
    assert code == 0 and "3d_lowres was trained again since (folds 2)" in told
    assert "3d_cascade (folds 0) was not trained with what it predicts now" in told
