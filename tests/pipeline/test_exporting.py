"""Trained runs become a model that predicts as they do, and holds nothing of who was looked at, where and by whom."""

from __future__ import annotations

import getpass
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import autoseg
from autoseg.cli import main
from autoseg.cli.models import export as export_command
from autoseg.cli.models import models as models_command
from autoseg.errors import BadUsage
from autoseg.image import Image
from autoseg.pipeline import cascade
from autoseg.pipeline.exporting import export
from autoseg.pipeline.models import open_model
from autoseg.pipeline.prediction import load_model
from autoseg.pipeline.voice import Silent
from autoseg.records import Checkpoint, Measures
from autoseg.store import Home, RunFolder, load_tensors, save_tensors
from autoseg.store.archive import digest_of, open_packed, weights_in
from tests.pipeline.test_cascade import TASK, planned, run, write_task

FOLDS = range(3)


class Heard(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with three folds of 3d_lowres, and fold 0 of the cascade after them, trained for a step."""
    root = tmp_path_factory.mktemp("home_of_somebody")
    (root / "plans").mkdir()
    write_task(root / "datasets" / TASK)
    planned(root)
    told = run(root, "train", "3d_cascade", "0", "--steps", "1", "--device", "cpu", "--workers", "1")
    assert told.exit_code == 0, told.stderr
    return root


@pytest.fixture
def copy(trained: Path, tmp_path: Path) -> Path:
    """A home like it, to be changed."""
    shutil.copytree(trained, tmp_path / "copy")
    return tmp_path / "copy"


def folders(root: Path, title: str, *folds: int) -> list[RunFolder]:
    return [Home(root).run_folder(TASK, "default", title, fold, 0) for fold in folds]


@pytest.fixture(scope="module")
def packed(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The cascade as a file and as a folder."""
    root = tmp_path_factory.mktemp("models")
    for name in ("pairs.autoseg", "pairs"):
        export(Home(trained), folders(trained, "3d_cascade", 0), root / name, Silent())
    return root


def volume(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(3, 1, (8, 18, 20)).astype(np.float32)


# -- as the runs ---------------------------------------------------------------------------------------


def test_a_cascade_predicts_as_its_runs_do_with_its_earlier_stage_in_the_file(trained: Path, packed: Path) -> None:
    runs = load_model(folders(trained, "3d_cascade", 0), "cpu", {})
    expected = cascade.completed(Home(trained), runs, {}, Silent())
    loaded = autoseg.load_model(packed / "pairs.autoseg", "cpu")
    assert [len(loaded.record.members_of(title)) for title in ("3d_cascade", "3d_lowres")] == [1, 3]
    assert loaded.record.configurations == ("3d_cascade",)
    labels = [expected.predict(Image(volume(seed)[None], (2.0, 1.0, 1.0))) for seed in range(2)]
    for seed, label in enumerate(labels):
        assert np.array_equal(loaded.predict(volume(seed), (2, 1, 1)), label)
    assert any(label.any() for label in labels)


def test_folds_are_averaged_as_the_runs_are(trained: Path, tmp_path: Path) -> None:
    own = folders(trained, "3d_lowres", *FOLDS)
    export(Home(trained), own, tmp_path / "a", Silent())
    expected = load_model(own[1:], "cpu", {}).predict(Image(volume()[None], (2.0, 1.0, 1.0)))
    _, model = open_model(tmp_path / "a", "cpu", folds=["1", "2"])
    assert np.array_equal(model.predict(Image(volume()[None], (2.0, 1.0, 1.0))), expected)


def test_several_configurations_share_an_earlier_stage(trained: Path, tmp_path: Path) -> None:
    chosen = [*folders(trained, "3d_lowres", *FOLDS), *folders(trained, "3d_cascade", 0)]
    made = export(Home(trained), chosen, tmp_path / "a", Silent())
    assert made.configurations == ("3d_lowres", "3d_cascade") and len(made.members) == 4
    assert autoseg.load_model(tmp_path / "a", "cpu").predict(volume(), (2, 1, 1)).shape == (8, 18, 20)


def test_the_average_of_the_weights_is_what_is_packed(copy: Path, tmp_path: Path) -> None:
    (own,) = folders(copy, "3d_lowres", 0)
    point, tensors = load_tensors(Checkpoint, own.checkpoint_file)
    averages = {name.replace("network.", "average."): value + 1 for name, value in tensors.items() if "heads" in name}
    save_tensors(own.checkpoint_file, tensors | averages, point)
    export(Home(copy), [own], tmp_path / "a", Silent())
    found, record = open_packed(tmp_path / "a")
    weights = weights_in(found, record.members[0])
    assert weights.keys() == {name[8:] for name in tensors if name.startswith("network.")}
    for name, value in weights.items():
        assert (value == tensors[f"network.{name}"] + ("heads" in name)).all()


def test_the_same_runs_give_the_same_bytes(trained: Path, packed: Path, tmp_path: Path) -> None:
    made = export(Home(trained), folders(trained, "3d_cascade", 0), tmp_path / "again.autoseg", Silent())
    first = open_packed(packed / "pairs.autoseg")[1]
    if made.created == first.created:  # not at midnight
        assert (tmp_path / "again.autoseg").read_bytes() == (packed / "pairs.autoseg").read_bytes()
        assert digest_of(open_packed(packed / "pairs")[0]) == digest_of(open_packed(tmp_path / "again.autoseg")[0])
    assert made.model_copy(update={"created": first.created}) == first


# -- nothing of anybody --------------------------------------------------------------------------------


def secrets(root: Path) -> list[bytes]:
    """What names a case, a file, a folder or a person: as text, and as JSON has it."""
    task = root / "datasets" / TASK
    files = {file.name for sub in ("imagesTr", "labelsTr") for file in (task / sub).iterdir()}
    cases = {name.removesuffix(".nii.gz") for name in files}
    words = {*files, *cases, str(root), root.name, str(Path.home()), "imagesTr", "labelsTr", ".nii"}
    if len(getpass.getuser()) > 4:
        words.add(getpass.getuser())
    facts = json.loads((root / "work" / TASK / "fingerprint.json").read_text())["cases"].values()
    hashes = {one[name] for one in facts for name in ("sha256", "pixels", "thumb")}
    assert len(cases) == 6 and len(hashes) == 18 and all(len(word) > 3 for word in words | hashes)
    return [word.encode() for word in words | hashes]


def contents(path: Path) -> Iterator[bytes]:
    """Every byte: of every file of a folder; of an archive, and of every file in it."""
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    yield from (file.read_bytes() for file in files)
    yield from (file.name.encode() for file in files)
    if path.is_file():
        with zipfile.ZipFile(path) as opened:
            yield from (opened.read(name) for name in opened.namelist())


@pytest.mark.parametrize("name", ["pairs", "pairs.autoseg"])
def test_no_byte_of_a_model_names_a_case_a_file_or_a_person(trained: Path, packed: Path, name: str) -> None:
    words = secrets(trained)
    for content in contents(packed / name):
        assert [word for word in words if word in content] == []


def test_what_is_looked_for_is_there_in_the_runs(trained: Path) -> None:
    (own,) = folders(trained, "3d_lowres", 0)
    found = [word for word in secrets(trained) if any(word in content for content in contents(own.folder))]
    assert len(found) >= 4


def test_names_of_raters_and_of_skipped_cases_do_not_leave(copy: Path, tmp_path: Path) -> None:
    (own,) = folders(copy, "3d_lowres", 0)
    point, tensors = load_tensors(Checkpoint, own.checkpoint_file)
    asked = point.run.question.model_copy(update={"raters": ("Doctor Jekyll", "Mister Hyde")})
    run = point.run.model_copy(update={"question": asked, "skipped": ("pair_5", "Utterson")})
    save_tensors(own.checkpoint_file, tensors, point.model_copy(update={"run": run}))
    made = export(Home(copy), [own], tmp_path / "a", Silent())
    assert made.question.raters == ("rater 1", "rater 2")
    for content in contents(tmp_path / "a"):
        assert not any(word in content for word in (b"Jekyll", b"Hyde", b"pair_5", b"Utterson"))
    assert autoseg.load_model(tmp_path / "a", "cpu").predict(volume(), (2, 1, 1)).shape == (8, 18, 20)


# -- what it says --------------------------------------------------------------------------------------


def test_validation_is_over_all_held_out_cases(trained: Path, tmp_path: Path) -> None:
    own = folders(trained, "3d_lowres", *FOLDS)
    made = export(Home(trained), own, tmp_path / "a", Silent())
    rows = list[dict[str, Measures]]()
    for folder in own:
        scores = folder.scores()
        assert scores is not None
        rows += scores.cases.values()
    assert len(rows) == 6
    for name in ("left", "right"):
        known = [row[name].dice for row in rows if row[name].dice is not None]
        means = made.validation["3d_lowres"][name]
        assert means.cases == len(known) and means.dice == pytest.approx(np.mean(known))


def test_the_card_lies_in_the_model(packed: Path) -> None:
    text = (packed / "pairs" / "README.md").read_text("utf-8")
    assert f"# {TASK}" in text and "3d_cascade" in text and "| left | 10 |" in text and "6 training images" in text


def test_what_is_seen_is_that_of_the_fingerprint(packed: Path) -> None:
    seen = open_packed(packed / "pairs")[1].seen
    assert seen is not None and (seen.cases, seen.unit, seen.orientations) == (6, "mm", ("RAS",))
    assert [span.most for span in seen.spacing] == [2, 1, 1]
    loaded = autoseg.load_model(packed / "pairs", "cpu")
    assert loaded.unlike(volume(), (2, 1, 1)) == ()
    assert len(loaded.unlike(volume(), (20, 1, 1))) == 1


def test_without_a_fingerprint_or_scores_the_model_is_made_and_that_is_said(copy: Path, tmp_path: Path) -> None:
    (own,) = folders(copy, "3d_lowres", 0)
    (copy / "work" / TASK / "fingerprint.json").unlink()
    own.scores_file.write_text("{")
    heard = Heard()
    made = export(Home(copy), [own], tmp_path / "a", heard)
    assert made.seen is None and made.validation == {}
    assert any("have not been measured" in text for text in heard.said)
    assert any("without the scores of fold 0" in text for text in heard.said)


# -- refused -------------------------------------------------------------------------------------------


def test_runs_that_are_not_finished_or_differ_are_refused(copy: Path, tmp_path: Path) -> None:
    one, other = folders(copy, "3d_lowres", 0, 1)
    point, tensors = load_tensors(Checkpoint, one.checkpoint_file)
    changed = {
        "not finished": point.model_copy(update={"step": 0}),
        "another plan than the other folds": _with(point, settings=point.run.settings.model_copy(update={"batch": 7})),
        "other channels or classes": _with(point, question=point.run.question.model_copy(update={"ignore": 9})),
    }
    for told, header in changed.items():
        save_tensors(one.checkpoint_file, tensors, header)
        with pytest.raises(BadUsage, match=told):
            export(Home(copy), [other, one], tmp_path / "a", Silent())
        assert not (tmp_path / "a").exists()


def _with(point: Checkpoint, **fields: object) -> Checkpoint:
    return point.model_copy(update={"run": point.run.model_copy(update=fields)})


def test_a_cascade_without_its_earlier_stage_is_refused(copy: Path, tmp_path: Path) -> None:
    shutil.rmtree(copy / "work" / TASK / "runs" / "default" / "3d_lowres")
    with pytest.raises(BadUsage, match="needs the label of 3d_lowres first"):
        export(Home(copy), folders(copy, "3d_cascade", 0), tmp_path / "a", Silent())
    with pytest.raises(BadUsage, match="no run is given"):
        export(Home(copy), [], tmp_path / "a", Silent())


def test_a_plugin_that_a_run_needs_has_to_be_loaded(copy: Path, tmp_path: Path) -> None:
    (own,) = folders(copy, "3d_lowres", 0)
    point, tensors = load_tensors(Checkpoint, own.checkpoint_file)
    save_tensors(own.checkpoint_file, tensors, _with(point, plugins={"mine.py": "a" * 64}))
    with pytest.raises(BadUsage, match=r"was not given: mine\.py"):
        export(Home(copy), [own], tmp_path / "a.autoseg", Silent())
    assert not (tmp_path / "a.autoseg").exists()
    export(Home(copy), [own], tmp_path / "a.autoseg", Silent(), {"mine.py": "a" * 64})
    assert open_packed(tmp_path / "a.autoseg")[1].members[0].plugins == {"mine.py": "a" * 64}


# -- the commands --------------------------------------------------------------------------------------


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(main.commands, "export", export_command)
    monkeypatch.setitem(main.commands, "models", models_command)


def say(home: Path, *words: object) -> Result:
    return CliRunner().invoke(main, ["--home", str(home), *map(str, words)])


@pytest.mark.usefixtures("command")
def test_export_and_models_from_the_command_line(trained: Path, tmp_path: Path) -> None:
    target = tmp_path / "pairs.autoseg"
    done = say(trained, "export", target, "--config", "3d_lowres", "--folds", "0,2")
    assert done.exit_code == 0 and done.stdout == f"{target}\n", done.output
    assert "2 networks of 3d_lowres in" in done.stderr
    told = say(tmp_path, "models", target)
    assert told.exit_code == 0
    for word in (TASK, "3d_lowres", "left = 10", "6 images", "held-out", digest_of(open_packed(target)[0])):
        assert word in told.stdout
    fields = json.loads(say(tmp_path, "models", target, "--json").stdout)
    assert [member["fold"] for member in fields["members"]] == [0, 2]
    assert fields["sha256"] == digest_of(open_packed(target)[0])


@pytest.mark.usefixtures("command")
def test_the_commands_refuse_in_one_line(trained: Path, packed: Path, tmp_path: Path) -> None:
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "a.txt").touch()
    changed = bytearray((packed / "pairs.autoseg").read_bytes())
    changed[open_packed(packed / "pairs.autoseg")[0].places["weights_003.safetensors"][0] + 900] ^= 1
    (tmp_path / "changed.autoseg").write_bytes(changed)
    for words, told in (
        (("export", tmp_path / "notes", "--config", "3d_lowres"), "is a folder of other things"),
        (("models", tmp_path / "notes"), "is no model"),
        (("models", tmp_path / "nowhere"), "no such model"),
        (("models", tmp_path / "changed.autoseg"), "weights_003.safetensors was changed"),
    ):
        done = say(trained, *words)
        assert done.exit_code == 2 and told in done.stderr and "Traceback" not in done.output
        assert done.stderr.splitlines()[-1].startswith("autoseg: ")
