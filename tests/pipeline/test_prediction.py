"""Which runs make one model, and what is read of them."""

from __future__ import annotations

import inspect
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from autoseg.cli import main
from autoseg.cli.session import Session
from autoseg.errors import BadPlan, BadUsage, RunFailed
from autoseg.pipeline import opening, prediction
from autoseg.pipeline.prediction import load_model, require_plugins
from autoseg.records import Channel, Checkpoint, Configuration, Memory, Network, Part, Question, Run, Train
from autoseg.steps import train
from autoseg.steps.learner import build
from autoseg.store import Home, RunFolder, load_header, load_tensors, save_record, save_tensors
from tests.pipeline.test_training import SMALL_PLAN


def question(files: int) -> Question:
    named = tuple(Channel(name=f"c{n}", kind="other") for n in range(3))
    return Question(reader="raster", channels=named, files=files, labels={"background": 0, "a": 1})


def test_a_plugin_of_other_contents_is_not_the_one() -> None:
    run = Run.model_construct(plugins={"mine.py": "a" * 64})
    require_plugins(run, {"mine.py": "a" * 64, "other.py": "b" * 64})
    with pytest.raises(BadUsage, match=r"was not given: mine\.py"):
        require_plugins(run, {})
    with pytest.raises(BadUsage, match=r"is another version of mine\.py"):
        require_plugins(run, {"mine.py": "b" * 64})


# -- what is read of a checkpoint ----------------------------------------------------------------------


@pytest.fixture
def nested(tmp_path: Path) -> RunFolder:
    """A run of a UNet++ with three heads, after one step."""
    return stored(tmp_path / "nested", Part(name="unetpp"))


def stored(folder: Path, architecture: Part) -> RunFolder:
    network = Network.plain((3, 4, 5, 6), ((1, 1), (2, 2), (2, 2), (1, 2)), architecture=architecture)
    settings = Train(
        loss="dice+ce", augment=(), steps=1, optimiser=Part(name="adamw"), schedule=Part(name="poly"), foreground=0.3
    )
    configuration = Configuration(
        spacing=(1.0, 1.0), patch=(8, 16), batch=2, normalise=(Part(name="none"),) * 3, resample=Part(name="keep"),
        network=network, train=settings, memory=Memory(bytes=1, method=""),
    )  # fmt: skip
    one = build(configuration, question(1), 0, torch.device("cpu"), "float32")
    train.learn(one, torch.randn(2, 3, 8, 16), torch.randint(0, 2, (2, 8, 16), dtype=torch.uint8))
    run = Run(
        task="Task01_A", plan="default", configuration="2d", fold=0, seed=0, settings=configuration,
        question=question(1), folds="f", device="cpu", precision="float32", threads=1, version="0",
    )  # fmt: skip
    made = RunFolder(folder)
    save_tensors(made.checkpoint_file, one.tensors(), Checkpoint(run=run, step=1))
    return made


def test_prediction_reads_no_state_of_the_optimiser(nested: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    _, tensors = load_tensors(Checkpoint, nested.checkpoint_file)
    assert any(name.startswith("optimiser.") for name in tensors)
    (network,), read = watched(nested, monkeypatch)
    assert read == {name for name in tensors if name.startswith("network.")}
    assert {f"network.{name}" for name in network.state_dict()} == read


@pytest.mark.parametrize("depth", [1, 2, 3])
def test_fast_reads_what_its_head_needs_and_answers_as_that_head(
    nested: RunFolder, monkeypatch: pytest.MonkeyPatch, depth: int
) -> None:
    (whole,) = load_model([nested], "cpu", {}).networks
    x = torch.randn(1, 3, 8, 16)
    (fast,), read = watched(nested, monkeypatch, depth)
    assert torch.equal(fast(x)[0], whole.train()(x)[-depth])
    assert read == {f"network.{name}" for name in fast.state_dict()}
    assert len(fast.decoder) == depth * (depth + 1) // 2 and list(fast.heads) == [str(depth)]
    assert len(fast.encoder) == depth + 1


@pytest.mark.parametrize(
    ("words", "depth", "mirror", "step"),
    [((), None, True, 0.5), (("--depth", "2"), 2, True, 0.5), (("--fast",), 2, False, 0.75),
     (("--fast", "--depth", "1", "--step", "0.6"), 1, False, 0.6)],
)  # fmt: skip
def test_the_command_hands_depth_mirroring_and_step_on(
    nested: RunFolder, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words, depth, mirror, step
) -> None:
    def loading(*words, **options):
        given = inspect.signature(load_model).bind(*words, **options).arguments
        raise BadUsage(f"{given['fast']} {given['mirror']} {given['step']}", where="handed on")

    plan = SimpleNamespace(task="Task01_A", name="default")
    monkeypatch.setattr(Session, "plan", lambda *words: plan)
    monkeypatch.setattr(opening, "choose_runs", lambda *words: [nested])
    monkeypatch.setattr(opening, "load_model", loading)
    save_record(nested.run_file, load_header(Checkpoint, nested.checkpoint_file).run)
    told = CliRunner().invoke(main, ["--home", str(tmp_path), "predict", "-i", "a", "-o", "b", *words])
    assert told.exit_code == 2 and f"handed on: {depth} {mirror} {step}" in told.stderr


def test_a_plan_in_mode_fast_is_predicted_fast(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stored(tmp_path, Part(name="unetpp", options={"mode": "fast", "depth": 1}))
    (network,), _ = watched(run, monkeypatch)
    assert list(network.decoder) == ["0_1"]
    (network,), _ = watched(run, monkeypatch, 2)
    assert list(network.heads) == ["2"]


def watched(folder: RunFolder, monkeypatch: pytest.MonkeyPatch, fast: int | None = None) -> tuple[list, set[str]]:
    """The networks of a model, and the names of the tensors that were read."""
    read = set[str]()

    def reading(*words, **options):
        header, tensors = load_tensors(*words, **options)
        read.update(tensors)
        return header, tensors

    monkeypatch.setattr(prediction, "load_tensors", reading)
    return list(load_model([folder], "cpu", {}, fast=fast).networks), read


def test_fast_is_refused_where_there_is_no_such_head(nested: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(BadPlan, match=r"'unetpp': depth is 4, but there are heads for 1, 2, 3"):
        load_model([nested], "cpu", {}, fast=4)
    with pytest.raises(BadUsage, match=r"--depth: unet has no heads of several depths; expected a unetpp"):
        load_model([stored(tmp_path, Part(name="unet"))], "cpu", {}, fast=1)


@pytest.mark.parametrize("fast", [None, 1])
def test_a_checkpoint_with_more_or_less_than_the_network_is_refused(nested: RunFolder, fast: int | None) -> None:
    header, tensors = load_tensors(Checkpoint, nested.checkpoint_file)
    save_tensors(nested.checkpoint_file, {**tensors, "network.more": torch.ones(1)}, header)
    with pytest.raises(RunFailed, match="of another network"):
        load_model([nested], "cpu", {}, fast=fast)
    del tensors["network.encoder.1.0.layers.0.weight"]
    save_tensors(nested.checkpoint_file, tensors, header)
    with pytest.raises(RunFailed, match="of another network"):
        load_model([nested], "cpu", {}, fast=fast)


def test_the_average_of_the_weights_predicts(balls_2d: Path) -> None:
    words = [*SMALL_PLAN, "--set", "2d.train.average=0.5"]
    for command in (words, ["train", "2d", "0", "--steps", "3"]):
        assert CliRunner().invoke(main, ["--home", str(balls_2d), *command]).exit_code == 0
    folder = Home(balls_2d).run_folder("Task02_Discs", "default", "2d", 0, 0)
    _, tensors = load_tensors(Checkpoint, folder.checkpoint_file)
    (network,) = load_model([folder], "cpu", {}).networks
    for name, value in network.named_parameters():
        assert torch.equal(value, tensors[f"average.{name}"]) and not torch.equal(value, tensors[f"network.{name}"])
