"""A cascade from nothing to a prediction: what its earlier stage had not seen, and what becomes of a stop."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from autoseg.cli import main
from autoseg.errors import BadPlan, RunFailed
from autoseg.pipeline import cascade, prediction
from autoseg.pipeline.fold_cases import Wish, cases_of
from autoseg.pipeline.voice import Silent
from autoseg.records import Checkpoint, Configuration, Network, Part, Plan, amend
from autoseg.steps import cases as casework
from autoseg.steps import views as step
from autoseg.steps.batches import Sample
from autoseg.steps.preprocess import prepare_image, prepare_label
from autoseg.steps.words import what_done
from autoseg.store import Home, RunFolder, load_tensors, save_record

TASK = "Task03_Pairs"
TRAIN = ("train", "3d_cascade", "0", "--steps", "40", "--device", "cpu")
FOLDS = 3
VALUES = (10, 20)


def run(home: Path, *words: str) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *words])


def write_task(folder: Path) -> None:
    """Six volumes of 8×18×20 voxels with two balls in each, the right one with value 20."""
    rng, training = np.random.default_rng(0), []
    grid = np.stack(np.meshgrid(*(np.arange(n) for n in (8, 18, 20)), indexing="ij"), -1)
    for number in range(6):
        label = np.zeros(grid.shape[:3], np.uint8)
        for value, x in zip(VALUES, (5, 14), strict=True):
            centre = np.array([4, 9, x]) + rng.uniform(-1.5, 1.5, 3)
            label[((grid - centre) ** 2).sum(-1) < 16] = value
        image = (label / 5 + rng.normal(0, 0.5, label.shape) + 3).astype(np.float32)
        for sub, array in (("imagesTr", image), ("labelsTr", label)):
            file = folder / sub / f"pair_{number}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([1.0, 1.0, 2.0, 1.0])), file)
        names = (f"./{sub}/pair_{number}.nii.gz" for sub in ("imagesTr", "labelsTr"))
        training.append(dict(zip(("image", "label"), names, strict=True)))
    labels = {"0": "background", "10": "left", "20": "right"}
    (folder / "dataset.json").write_text(json.dumps({"modality": {"0": "MRI"}, "labels": labels, "training": training}))


def small(made: Configuration, spacing: tuple[float, ...], previous: str | None) -> Configuration:
    """The configuration with a small network that learns left from right."""
    mirror = Part(name="mirror", options={"swap": [[1, 2]], "swap_axis": 2})
    mistakes = (Part(name="morphology"), Part(name="forget")) if previous else ()
    fast = {"optimiser": Part(name="adamw", options={"rate": 0.02}), "foreground": 0.5}
    train = made.train.model_copy(update={"augment": (Part(name="affine"), mirror, *mistakes), **fast})
    network = Network.plain((4, 8), ((1, 1, 1), (2, 2, 2)))
    changed = {"spacing": spacing, "patch": (8, 8, 8), "batch": 2, "network": network, "train": train}
    return made.model_copy(update={**changed, "previous": previous})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a plan of a cascade, and fold 0 of it trained for two steps."""
    root = tmp_path_factory.mktemp("home")
    (root / "plans").mkdir()
    write_task(root / "datasets" / TASK)
    planned(root)
    torch.set_num_threads(1)
    told = run(root, *TRAIN)
    assert told.exit_code == 0, told.stderr
    (root / "told").write_text(told.stderr)
    return root


def planned(root: Path) -> None:
    split = {f"pair_{number}": number % FOLDS for number in range(6)}
    parts = [
        {"train": [i for i in split if split[i] != k], "val": [i for i in split if split[i] == k]} for k in range(3)
    ]
    (root / "splits.json").write_text(json.dumps(parts))
    words = ("plan", TASK, "--device", "cuda", "--memory", "8GB", "--splits", str(root / "splits.json"))
    told = run(root, *words)
    assert told.exit_code == 0, told.stderr
    plan = Home(root).plan(TASK, "default")
    full = plan.configurations["3d"]
    made = {"3d_lowres": small(full, (3.0, 1.5, 1.5), None), "3d_cascade": small(full, full.spacing, "3d_lowres")}
    save_record(Home(root).plan_file(TASK, "default"), plan.model_copy(update={"configurations": {"3d": full, **made}}))


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Iterator[Path]:
    """A home like it, to be changed."""
    shutil.copytree(trained, tmp_path / "copy")
    yield tmp_path / "copy"


def folder(root: Path, title: str, fold: int = 0, seed: int = 0) -> RunFolder:
    return Home(root).run_folder(TASK, "default", title, fold, seed)


def plan_of(root: Path) -> Plan:
    return Home(root).plan(TASK, "default")


# -- training ------------------------------------------------------------------------------------------


def test_one_command_trains_the_folds_before_and_says_so(trained: Path) -> None:
    told = (trained / "told").read_text()
    assert "3 of 3 folds (0, 1, 2) are trained first, for 40 steps each" in told
    for fold in range(FOLDS):
        scores = folder(trained, "3d_lowres", fold).scores()
        assert scores is not None and set(scores.cases) == {f"pair_{fold}", f"pair_{fold + 3}"}
    scores, record = folder(trained, "3d_cascade").scores(), folder(trained, "3d_cascade").run()
    assert scores is not None and set(scores.cases) == {"pair_0", "pair_3"}
    assert record is not None and set(record.earlier) == {"0", "1", "2"}


def test_what_is_given_is_the_prediction_of_the_fold_that_held_the_case_out(trained: Path) -> None:
    home, plan = Home(trained), plan_of(trained)
    folds = home.folds(TASK)
    assert folds is not None
    settings, dataset = plan.configurations["3d_cascade"], cascade.tasks.dataset_of(home, TASK)[0]
    stored = list((trained / "work").rglob("earlier_*/*.b2nd"))
    assert len(stored) == 6
    for file in stored:
        id = file.name.split(".")[0]
        (fold,) = (number for number, ids in enumerate(folds.folds) if id in ids)
        prediction = folder(trained, "3d_lowres", fold).predictions / f"{id}.nii.gz"
        case = casework.load(home.task_folder(TASK), dataset.case(id), plan.question)
        label = casework.read_label(prediction, plan.question).array[0]
        image, geometry = prepare_image(case.image, settings, plan.question)
        expected = prepare_label(label, case.image, geometry, image.shape[1:], plan.question)
        assert np.array_equal(blosc2.open(str(file))[:], expected) and expected.any()


@pytest.mark.parametrize(
    "stop",
    [*(pytest.param(word, marks=pytest.mark.slow) for word in ("a fold's validation", "bringing in")), "the cascade"],
)
def test_a_stop_anywhere_and_the_same_command_are_as_never_stopped(
    trained: Path, copy: Path, monkeypatch: pytest.MonkeyPatch, stop: str
) -> None:
    shutil.rmtree(copy / "work" / TASK / "runs")
    for earlier in (copy / "work").rglob("earlier_*"):
        shutil.rmtree(earlier)
    name, when, where = {
        "a fold's validation": ("validate", 2, prediction),
        "bringing in": ("_bring", 3, cascade),
        "the cascade": ("validate", 4, prediction),
    }[stop]
    calls, whole = [], getattr(where, name)

    def stopping(*words, **options):
        calls.append(1)
        if len(calls) == when:
            raise RunFailed("stopped")
        return whole(*words, **options)

    with monkeypatch.context() as patched:
        patched.setattr(where, name, stopping)
        told = run(copy, *TRAIN, "--workers", "1")
        assert told.exit_code == 1 and "stopped" in told.stderr
    again = run(copy, *TRAIN)
    assert again.exit_code == 0
    assert ("2 of 3 folds (1, 2) are trained first" in again.stderr) == (stop == "a fold's validation")
    assert ("trained first" in again.stderr) == (stop == "a fold's validation")
    for title in ("3d_lowres", "3d_cascade"):
        one, other = (load_tensors(Checkpoint, folder(root, title).checkpoint_file)[1] for root in (trained, copy))
        assert all(torch.equal(value, other[name]) for name, value in one.items())
    assert folder(copy, "3d_cascade").scores() == folder(trained, "3d_cascade").scores()


def test_finished_folds_are_taken_and_another_seed_has_its_own(copy: Path) -> None:
    before = folder(copy, "3d_lowres", 1).checkpoint_file.stat().st_mtime_ns
    told = run(copy, "train", "3d_cascade", "1", "--steps", "1", "--device", "cpu")
    assert told.exit_code == 0 and "trained first" not in told.stderr
    assert folder(copy, "3d_lowres", 1).checkpoint_file.stat().st_mtime_ns == before
    refused = run(copy, "batch", "3d_cascade", "0", "--step", "0", "--seed", "4", "--device", "cpu")
    assert refused.exit_code == 2 and "of which fold 0 is not finished" in refused.stderr
    assert "autoseg train 3d_cascade 0 --seed 4" in refused.stderr


def test_a_label_that_was_cut_short_or_lost_is_brought_in_again(copy: Path) -> None:
    one, other, *kept = sorted((copy / "work").rglob("earlier_*/*.b2nd"))
    whole, times = [one.read_bytes(), other.read_bytes()], [file.stat().st_mtime_ns for file in kept]
    one.write_bytes(whole[0][:40])
    other.unlink()
    told = run(copy, "batch", "3d_cascade", "0", "--step", "0", "--device", "cpu", "-o", str(copy / "a.png"))
    assert told.exit_code == 0 and [one.read_bytes(), other.read_bytes()] == whole
    assert [file.stat().st_mtime_ns for file in kept] == times


def test_a_cascade_begins_with_another_models_weights_and_with_fold_all(copy: Path) -> None:
    model = folder(copy, "3d_lowres").folder
    words = ("train", "3d_cascade", "all", "--steps", "1", "--device", "cpu")
    told = run(copy, *words, "--pretrained", str(model))
    assert told.exit_code == 0 and "1 adapted (encoder.0.0.layers.0.weight)" in told.stderr.replace("\n", " ")


def test_the_time_of_what_is_missing_is_told(trained: Path, tmp_path: Path) -> None:
    said: list[str] = []

    class Heard(Silent):
        def say(self, text: str) -> None:
            said.append(text)

    home, plan, folds = Home(tmp_path), plan_of(trained), Home(trained).folds(TASK)
    assert folds is not None
    timed = plan.model_copy(update={"seconds_per_step": {"3d_lowres": 2.0}})
    wish = Wish("3d_cascade", 0, steps=100)
    for asked, made in ((timed, wish), (plan, wish), (plan, Wish("3d_cascade", 0, budget=3600.0))):
        wishes = cascade.missing(home, asked, made, folds, Heard())
        assert [(one.configuration, one.fold, one.steps) for one in wishes] == [
            ("3d_lowres", fold, made.steps) for fold in range(3)
        ]
    assert "for 100 steps each, which takes about 10 minutes" in said[0]
    assert "a time that is not known here" in said[1]
    assert "a budget of 60 minutes each, which takes about 3.0 hours" in said[2]
    assert cascade.missing(home, plan, Wish("3d_lowres", 0), folds, Heard()) == [] and len(said) == 3


# -- what is refused -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"fold": "all"}, "the run of fold all has trained on the cases of fold 1"),
        ({"fold": 0}, "the run of fold 0 has trained on the cases of fold 1"),
        ({"folds": "others"}, "fold 1 of 3d_lowres was trained with other folds than there are now"),
    ],
)
def test_a_run_that_has_seen_the_cases_is_refused(copy: Path, fields: dict, told: str) -> None:
    file = folder(copy, "3d_lowres", 1).run_file
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))
    folder(copy, "3d_cascade").scores_file.unlink()
    for words in (TRAIN, ("batch", "3d_cascade", "0", "--step", "0", "--device", "cpu")):
        refused = run(copy, *words)
        assert refused.exit_code == 2 and told in refused.stderr
        assert "autoseg train 3d_lowres 1" in refused.stderr and "--fresh" in refused.stderr


def test_a_run_of_another_plan_is_refused(copy: Path) -> None:
    changed = amend(plan_of(copy), {"configurations.3d_lowres.train.foreground": 0.9})
    save_record(Home(copy).plan_file(TASK, "default"), changed)
    folder(copy, "3d_cascade").scores_file.unlink()
    refused = run(copy, *TRAIN)
    assert refused.exit_code == 2 and "fold 0 of 3d_lowres was trained with another plan" in refused.stderr


def test_what_was_begun_with_other_predictions_is_not_gone_on_with(copy: Path) -> None:
    for fold in range(FOLDS):
        assert run(copy, "train", "3d_lowres", str(fold), "--steps", "1", "--fresh", "--device", "cpu").exit_code == 0
    file = copy / "in"
    file.mkdir()
    shutil.copy(copy / "datasets" / TASK / "imagesTr" / "pair_0.nii.gz", file)
    said = run(copy, "predict", "-i", str(file), "-o", str(copy / "out"), "--config", "3d_cascade", "--device", "cpu")
    assert said.exit_code == 0 and "3d_lowres was trained again since (folds 0, 1, 2)" in said.stderr
    folder(copy, "3d_cascade").scores_file.unlink()
    for words in (TRAIN, ("batch", "3d_cascade", "0", "--step", "0", "--device", "cpu")):
        refused = run(copy, *words)
        assert refused.exit_code == 2 and "what 3d_lowres predicts" in refused.stderr


def test_a_cascade_of_a_cascade_is_refused(trained: Path) -> None:
    deep = amend(plan_of(trained), {"configurations.3d.previous": "3d_cascade"})
    with pytest.raises(BadPlan, match="3d goes on from 3d_cascade, which goes on from 3d_lowres"):
        cascade.earlier_of(deep, "3d")


# -- looking and predicting ----------------------------------------------------------------------------


def test_validation_gives_the_network_what_training_gave_it(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home, plan = Home(copy), plan_of(copy)
    folds, wish, seen = home.folds(TASK), Wish("3d_cascade", 0, device="cpu"), []
    assert folds is not None
    cases = cases_of(home, plan, wish, folds, Silent())
    settings = plan.configurations["3d_cascade"]
    batches = cases.batches(cases.held_out, settings, torch.device("cpu"), augmented=False)
    prepare = step.prepare

    def watched(*words, **options):
        prepared = prepare(*words, **options)
        seen.append(prepared.source.array)
        return prepared

    monkeypatch.setattr(step, "prepare", watched)
    folder(copy, "3d_cascade").scores_file.unlink()
    assert run(copy, *TRAIN).exit_code == 0
    assert len(seen) == len(cases.held_out) == 2
    for number, array in enumerate(seen):
        known, _ = batches.whole(number)
        assert np.array_equal(array[1:], known[1:]) and known[1:].any()
        assert np.allclose(array[0], known[0], atol=0.01)


def test_a_batch_of_a_cascade_is_drawn(trained: Path, tmp_path: Path) -> None:
    told = run(trained, "batch", "3d_cascade", "0", "--step", "1", "--device", "cpu", "-o", str(tmp_path / "a.png"))
    assert told.exit_code == 0 and (tmp_path / "a.png").stat().st_size > 10_000
    settings = plan_of(trained).configurations["3d_cascade"]
    forgets = {"classes": [2], "picks": [0.25]}
    sample = Sample(0, None, (0, 0, 0), np.eye(3), (), mistakes=(None, forgets))
    assert what_done(sample, settings) == "forget classes 2, picks 0.25"


def test_one_command_predicts_both_stages(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = copy / "datasets" / TASK / "imagesTr"
    words = ("predict", "-i", str(inputs / "pair_0.nii.gz"), "--device", "cpu", "-o")
    first = run(copy, *words, str(copy / "low"), "--config", "3d_lowres")
    assert first.exit_code == 0
    given: list[np.ndarray] = []
    predict = prediction.Model.predict

    def watched(model, image, before=None, **options):
        label = predict(model, image, before, **options)
        if model.run.configuration == "3d_lowres":
            given.append(label)
        return label

    monkeypatch.setattr(prediction.Model, "predict", watched)
    told = run(copy, *words, str(copy / "out"), "--config", "3d_cascade")
    assert told.exit_code == 0
    assert "3d_cascade is given the label of 3d_lowres, folds 0, 1, 2, which is predicted first" in told.stderr
    low, out = (nibabel.load(copy / name / "pair_0.nii.gz") for name in ("low", "out"))
    assert np.array_equal(np.asarray(low.dataobj).transpose(2, 1, 0), given[0]) and len(given) == 1
    assert out.shape == low.shape and set(np.unique(np.asarray(out.dataobj))) <= {0, *VALUES}


def test_the_best_by_validation_is_chosen_whatever_its_stages(copy: Path) -> None:
    file = folder(copy, "3d_cascade").scores_file
    file.write_text(json.dumps(json.loads(file.read_text()) | {"dice": 0.99}))
    words = ("predict", "-i", str(copy / "datasets" / TASK / "imagesTr" / "pair_0.nii.gz"), "-o", str(copy / "out"))
    told = run(copy, *words, "--device", "cpu")
    assert told.exit_code == 0 and "predicting with 3d_cascade, the best by validation Dice" in told.stderr
    shutil.rmtree(copy / "work" / TASK / "runs" / "default" / "3d_lowres")
    refused = run(copy, *words, "--device", "cpu")
    assert (
        refused.exit_code == 2 and "needs the label of 3d_lowres first, of which no run is finished" in refused.stderr
    )
