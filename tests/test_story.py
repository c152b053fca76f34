"""The whole command line on a tiny volume task and a tiny picture task, as a user types it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner, Result
from skimage.io import imread, imsave

from autoseg.cli import main
from autoseg.store import Home

Say = Callable[..., Result]


def teller(home: Path) -> Say:
    def say(*words: str, ends: int = 0) -> Result:
        result = CliRunner().invoke(main, ["--home", str(home), *words], catch_exceptions=False)
        assert result.exit_code == ends, result.output
        return result

    return say


def test_volumes_from_check_to_scores(balls_3d: Path) -> None:
    say = teller(balls_3d)
    assert "10 cases: 0 cannot be used" in say("check", "Task01").stdout
    planned = say("plan", "Task01", "--preprocess", "--set", "configurations.3d.batch=3")
    assert len({*(balls_3d / "work").rglob("ball_*.image.b2nd")}) == 10  # one distance of slices: 2d has 3d's arrays
    assert "configurations.3d.batch" in planned.stdout and "set by hand" in planned.stdout
    assert json.loads((balls_3d / "plans" / "Task01_Balls.json").read_text())["configurations"]["3d"]["batch"] == 3
    trained = say("train", "3d", "0", "--steps", "30", "--json")
    assert json.loads(trained.stdout)["dice"] > 0.5
    say("train", "2d", "1", "--steps", "5", "-t", "Task01")
    folder = balls_3d / "datasets" / "Task01_Balls"
    out = balls_3d / "out"
    done = say("predict", "-i", str(folder / "imagesTr"), "-o", str(out), "--no-mirror")
    assert "predicting with 3d, the best by validation Dice" in done.stderr
    one, image = (nibabel.load(f / "ball_03.nii.gz") for f in (out, folder / "imagesTr"))
    assert one.shape == image.shape and np.array_equal(one.affine, image.affine)
    assert one.get_data_dtype() == np.uint8
    arguments = ("evaluate", "-p", str(out), "-r", str(folder / "labelsTr"), "-o", str(balls_3d / "scores"))
    scored = json.loads(say(*arguments, "-t", "Task01", "--json").stdout)
    assert scored["dice"] > 0.5 and len(scored["cases"]) == 10 and "empty" in scored["rule"]
    assert json.loads(say(*arguments, "--json").stdout)["dice"] == scored["dice"]  # classes from the values
    assert len((balls_3d / "scores" / "scores.csv").read_text().splitlines()) == 11


def test_pictures_with_plain_and_focal_loss(balls_2d: Path) -> None:
    say = teller(balls_2d)
    say("plan", "Task02", "--loss", "dice+focal", "--as", "focal")
    asked = say("train", "3d", "0", ends=2)
    assert "flat images: there is no 3d configuration" in asked.stderr and asked.stdout == ""
    say("train", "2d", "0", "--steps", "20")
    assert (balls_2d / "work" / "Task02_Discs" / "runs" / "focal" / "2d" / "fold_0" / "seed_0").is_dir()
    source = balls_2d / "datasets" / "Task02_Discs" / "imagesTr" / "disc_00_0000.png"
    say("predict", "-i", str(source), "-o", str(balls_2d / "out"))
    label = imread(balls_2d / "out" / "disc_00.png")
    assert label.shape == (32, 32) and set(np.unique(label)) <= {0, 255}


def test_killed_and_started_again_equals_never_stopped(balls_3d: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from autoseg.pipeline import recording
    from autoseg.records import Checkpoint
    from autoseg.store import load_tensors

    say = teller(balls_3d)
    say("plan", "Task01")
    home = Home(balls_3d)
    say("train", "3d", "0", "--steps", "12")
    folder = home.run_folder("Task01_Balls", "default", "3d", 0, 0)
    whole = load_tensors(Checkpoint, folder.checkpoint_file)[1]
    log = folder.log_file.read_text()

    class Killed(BaseException):
        """What a kill looks like from inside."""

    kept = recording.save_checkpoint
    monkeypatch.setattr(recording, "SAVE_SECONDS", 0.0)

    def save_and_die(learner, run, folder) -> None:
        kept(learner, run, folder)
        if learner.step == 7:
            raise Killed

    monkeypatch.setattr(recording, "save_checkpoint", save_and_die)
    with pytest.raises(Killed):
        say("train", "3d", "0", "--steps", "12", "--fresh")
    with folder.log_file.open("a") as opened:
        opened.write('{"step": 8, "loss": 9}\n{"step": 9, "lo')
    monkeypatch.setattr(recording, "save_checkpoint", kept)
    resumed = say("train", "3d", "0", "--steps", "12")
    assert "resuming at step 7 of 12" in resumed.stderr
    again = load_tensors(Checkpoint, folder.checkpoint_file)[1]
    assert whole.keys() == again.keys()
    assert all((whole[name] == again[name]).all() for name in whole)

    def untimed(text: str) -> list[dict[str, object]]:
        measured = {"seconds", "stages", "memory"}
        return [{k: v for k, v in json.loads(line).items() if k not in measured} for line in text.splitlines()]

    assert untimed(folder.log_file.read_text()) == untimed(log)
    assert folder.folder.with_name("seed_0.old1").is_dir()


def test_a_budget_is_a_number_of_steps_and_nothing_else(balls_2d: Path) -> None:
    from autoseg.records import Checkpoint
    from autoseg.store import load_tensors

    say = teller(balls_2d)
    say("plan", "Task02")
    folder = Home(balls_2d).run_folder("Task02_Discs", "default", "2d", 0, 0)
    say("train", "2d", "0", "--budget", "0.5s")
    run = folder.run()
    budgeted = load_tensors(Checkpoint, folder.checkpoint_file)[1]
    assert run.budget == 0.5 and run.settings.train.steps >= 1
    say("train", "2d", "0", "--steps", str(run.settings.train.steps), "--fresh")
    told = load_tensors(Checkpoint, folder.checkpoint_file)[1]
    assert all((budgeted[name] == told[name]).all() for name in budgeted)


def test_scrambled_validation_labels_leave_the_weights_alone(balls_3d: Path) -> None:
    from autoseg.records import Checkpoint
    from autoseg.store import load_tensors

    say = teller(balls_3d)
    say("plan", "Task01")
    home = Home(balls_3d)
    say("train", "3d", "0", "--steps", "8")
    folder = home.run_folder("Task01_Balls", "default", "3d", 0, 0)
    before, dice = load_tensors(Checkpoint, folder.checkpoint_file)[1], folder.scores().dice
    folds = home.folds("Task01_Balls")
    for case in folds.folds[0]:
        file = balls_3d / "datasets" / "Task01_Balls" / "labelsTr" / f"{case}.nii.gz"
        label = nibabel.load(file)
        noise = np.random.default_rng(0).integers(0, 2, label.shape).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(noise, label.affine), file)
    say("train", "3d", "0", "--steps", "8", "--fresh")
    after = load_tensors(Checkpoint, folder.checkpoint_file)[1]
    assert all((before[name] == after[name]).all() for name in before)
    assert folder.scores().dice != dice


def test_a_changed_plan_does_not_meet_an_old_run(balls_2d: Path) -> None:
    say = teller(balls_2d)
    say("plan", "Task02")
    say("train", "2d", "0", "--steps", "3")
    finished = say("train", "2d", "0", "--steps", "3")
    assert "this run is finished" in finished.stderr
    assert "started with another plan" in say("train", "2d", "0", "--steps", "4", ends=2).stderr
    say("plan", "Task02", "--set", "configurations.2d.train.foreground=0.5")
    assert "--fresh" in say("train", "2d", "0", "--steps", "3", ends=2).stderr
    say("train", "2d", "0", "--steps", "3", "--fresh")


def test_new_cases_cost_themselves_and_old_ones_keep_their_fold(balls_2d: Path) -> None:
    say = teller(balls_2d)
    say("plan", "Task02")
    say("preprocess", "2d")
    home = Home(balls_2d)
    arrays = next((balls_2d / "work" / "Task02_Discs" / "preprocessed").glob("[!.]*"))
    times = {file: file.stat().st_mtime_ns for file in arrays.iterdir()}
    old = home.folds("Task02_Discs")
    folder = balls_2d / "datasets" / "Task02_Discs"
    for sub, end in (("imagesTr", "_0000.png"), ("labelsTr", ".png")):
        (folder / sub / f"disc_99{end}").write_bytes((folder / sub / f"disc_00{end}").read_bytes())
    planned = say("plan", "Task02")
    assert "1 new cases joined the folds" in planned.stderr
    new = home.folds("Task02_Discs")
    assert all(set(a) <= set(b) for a, b in zip(old.folds, new.folds, strict=True))
    say("preprocess", "2d")
    assert all(file.stat().st_mtime_ns == time for file, time in times.items())
    assert len(list(arrays.iterdir())) == len(times) + 3


@pytest.mark.parametrize("nonsense", ["truncated", "text", "channels", "nan", "shape", "value", "orphan"])
def test_bad_cases_are_all_named_refused_and_can_be_skipped(balls_3d: Path, nonsense: str) -> None:
    say = teller(balls_3d)
    folder = balls_3d / "datasets" / "Task01_Balls"
    image, label = (folder / sub / "ball_03.nii.gz" for sub in ("imagesTr", "labelsTr"))
    if nonsense == "truncated":
        image.write_bytes(image.read_bytes()[:300])
    elif nonsense == "text":
        label.write_text("no label")
    elif nonsense == "orphan":
        label.unlink()
    else:
        changed = {
            "channels": np.ones((16, 16, 10, 2), np.float32),
            "nan": np.full((16, 16, 10), np.nan, np.float32),
            "shape": np.ones((16, 15, 10), np.uint8),
            "value": np.full((16, 16, 10), 7, np.uint8),
        }[nonsense]
        target = image if nonsense in ("channels", "nan") else label
        nibabel.save(nibabel.Nifti1Image(changed, np.diag([1.0, 1.0, 2.0, 1.0])), target)
    checked = say("check", "Task01", ends=2)
    assert "ball_03" in checked.stdout and "1 cannot be used" in checked.stdout
    say("plan", "Task01")
    refused = say("train", "3d", "0", "--steps", "2", ends=2)
    assert "ball_03" in refused.stderr and "--skip-bad" in refused.stderr and "Traceback" not in refused.output
    say("train", "3d", "0", "--steps", "2", "--skip-bad")


def test_predict_does_what_it_can_and_names_the_rest(balls_2d: Path) -> None:
    say = teller(balls_2d)
    say("plan", "Task02")
    assert "train one: autoseg train 2d 0" in say("predict", "-i", "x", "-o", "y", ends=2).stderr
    say("train", "2d", "0", "--steps", "2")
    source = balls_2d / "in"
    source.mkdir()
    good = (balls_2d / "datasets" / "Task02_Discs" / "imagesTr" / "disc_00_0000.png").read_bytes()
    (source / "good.png").write_bytes(good)
    (source / "bad.png").write_bytes(good[: len(good) // 2])
    told = say("predict", "-i", str(source), "-o", str(balls_2d / "out"), ends=2)
    assert "1 of 2 images could not be predicted" in told.stderr and "bad.png" in told.stderr
    seen = {file.name for file in (balls_2d / "out").iterdir() if not file.name.startswith(".")}
    assert seen == {"good.png", "predicted.jsonl", "failed.csv"}
    assert (
        "is the folder of the images"
        in say("predict", "-i", str(source / "good.png"), "-o", str(source), ends=2).stderr
    )
    assert (source / "good.png").read_bytes() == good


def test_a_task_without_background_scores_all_its_classes(balls_2d: Path) -> None:
    description = balls_2d / "datasets" / "Task02_Discs" / "dataset.json"
    fields = json.loads(description.read_text())
    fields["labels"] = {"ground": 7, "disc": 255}
    description.write_text(json.dumps(fields))
    for file in (description.parent / "labelsTr").iterdir():
        imsave(file, np.where(imread(file) == 255, 255, 7).astype(np.uint8), check_contrast=False)
    say = teller(balls_2d)
    say("plan", "Task02")
    trained = json.loads(say("train", "2d", "0", "--steps", "5", "--json").stdout)
    assert set(trained["mean"]) == {"ground", "disc"}
    facts = json.loads((balls_2d / "work" / "Task02_Discs" / "fingerprint.json").read_text())["cases"]["disc_00"]
    assert facts["components"] == {"ground": 1, "disc": 1}


def test_an_image_without_a_measurement_is_not_predicted(balls_3d: Path) -> None:
    say = teller(balls_3d)
    say("plan", "Task01")
    say("train", "2d", "0", "--steps", "1")
    empty = np.full((16, 16, 10), np.nan, np.float32)
    nibabel.save(nibabel.Nifti1Image(empty, np.eye(4)), balls_3d / "nothing.nii.gz")
    told = say("predict", "-i", str(balls_3d / "nothing.nii.gz"), "-o", str(balls_3d / "out"), ends=2)
    assert "no voxel is valid" in told.stderr and not list((balls_3d / "out").glob("*.nii.gz"))


def test_fold_all_trains_on_everything_and_is_not_scored(balls_2d: Path) -> None:
    say = teller(balls_2d)
    say("plan", "Task02")
    assert "trained but not scored" in say("train", "2d", "all", "--steps", "2").stderr
    say("predict", "-i", str(balls_2d / "datasets" / "Task02_Discs" / "imagesTr"), "-o", str(balls_2d / "out"))


def test_a_run_with_a_plugin_asks_for_it(balls_2d: Path, tmp_path: Path) -> None:
    from autoseg import parts

    plugin = tmp_path / "mine.py"
    plugin.write_text(
        "from autoseg.parts import LOSSES\nfrom autoseg.losses import cross_entropy\n\n\n"
        '@LOSSES.add("my_ce")\ndef mine(first):\n    """Cross-entropy of my own."""\n    return cross_entropy(first)\n'
    )
    say = teller(balls_2d)
    say("--plugin", str(plugin), "plan", "Task02", "--loss", "my_ce")
    parts.LOSSES._added.clear()
    say("--plugin", str(plugin), "train", "2d", "0", "--steps", "2")
    told = say("predict", "-i", "x", "-o", "y", ends=2)
    assert "--plugin was not given: mine.py" in told.stderr
