"""Predicting files with trained runs, and the validation cases of a run."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.errors import BadData, BadUsage
from autoseg.layouts.common import split_channel
from autoseg.parts import NETWORKS
from autoseg.pipeline import scoring, tasks
from autoseg.pipeline.voice import Voice
from autoseg.plugins import require
from autoseg.readers import ending_of, is_litter, stem_of
from autoseg.records import Checkpoint, Configuration, Measures, Plan, Question, Run, Scores, amend
from autoseg.steps import cases as casework
from autoseg.steps import evaluate
from autoseg.store import Home, RunFolder, load_header, load_tensors, whole

if TYPE_CHECKING:
    from autoseg.image import Array, Image


@dataclass(frozen=True)
class Model:
    """The networks of one configuration, one per fold, ready to predict; `earlier` is the one that it goes on from."""

    run: Run
    networks: Sequence[Any]
    device: Any
    step: float = 0.5
    mirror: bool = True
    earlier: Model | None = None

    def predict(self, image: Image, before: Array | None = None) -> Array:
        """The label of an image, on its grid, in the task's values.

        Args:
            before: the earlier stage's label, where it is known already.
        """
        from autoseg.steps import device as devices
        from autoseg.steps import predict as step

        if before is None and self.earlier is not None:
            before = self.earlier.predict(image)
        assert (before is None) == (self.run.settings.previous is None)
        precision = devices.precision(self.device, self.run.settings.train.precision)
        return step.predict(
            image, self.networks, self.run.settings, self.run.question, self.device, precision,
            step=self.step, mirror=self.mirror, before=before,
        )  # fmt: skip


def load_model(
    folders: Sequence[RunFolder],
    device: str,
    plugins: Mapping[str, str],
    step: float = 0.5,
    mirror: bool = True,
    fast: int | None = None,
) -> Model:
    """The model of runs that differ in their fold alone (and in seed and steps).

    Args:
        fast: predict with the head of this depth alone, where the networks have heads of several depths.
    Raises: BadUsage when they differ in more, have no such heads, or a plug-in of theirs is not loaded.
    """
    from autoseg.steps import device as devices

    chosen = devices.choose(device)
    networks, run = [], None
    for folder in folders:
        header = load_header(Checkpoint, folder.checkpoint_file)
        if run is not None and _seen(header.run) != _seen(run):
            raise BadUsage(
                f"folds {run.fold} and {header.run.fold} were trained with different plans",
                where=str(folder.folder),
                remedy="choose with --folds, or train one of them again with --fresh",
            )
        run = header.run
        require_plugins(run, plugins)
        settings = run.settings if fast is None else _at_depth(run.settings, fast)
        networks.append(_network(settings, run.question, folder).to(chosen).eval())
    assert run is not None
    return Model(run, networks, chosen, step, mirror)


def _at_depth(settings: Configuration, depth: int) -> Configuration:
    """The configuration, its network to predict with the head of that depth alone."""
    architecture = settings.network.architecture
    if not hasattr(NETWORKS.get(architecture.name), "prune"):
        raise BadUsage(f"{architecture.name} has no heads of several depths", where="--fast", expected="a unetpp")
    options = {"mode": "fast", "depth": depth}
    return amend(settings, {f"network.architecture.options.{name}": value for name, value in options.items()})


def _network(settings: Configuration, question: Question, folder: RunFolder) -> Any:
    """The network of a run without what prediction does not need; of the checkpoint nothing else is read."""
    from autoseg.nets.blocks.repvgg import fuse
    from autoseg.steps.learner import build_network
    from autoseg.steps.weights import load_network, weights_of

    network = build_network(settings, question)
    trained = set(network.state_dict())
    if prune := getattr(network, "prune", None):
        prune()
    idle = trained - set(network.state_dict())

    def wanted(name: str) -> bool:
        kind, _, rest = name.partition(".")
        return kind in ("network", "average") and rest not in idle

    _, tensors = load_tensors(Checkpoint, folder.checkpoint_file, wanted=wanted)
    load_network(network, weights_of(tensors))
    return fuse(network)


def _seen(run: Run) -> tuple[Configuration, Question]:
    """What the networks of one model must have in common."""
    train = run.settings.train.model_copy(update={"seed": 0, "steps": 1})
    return run.settings.model_copy(update={"train": train}), run.question


def require_plugins(run: Run, loaded: Mapping[str, str]) -> None:
    """Raises: BadUsage when the run was trained with a plug-in that is absent, or has other contents now."""
    require(run.plugins, loaded)


def choose_runs(
    home: Home, plan: Plan, voice: Voice, configuration: str | None = None, folds: Sequence[str] | None = None
) -> list[RunFolder]:
    """The finished runs to predict with: of the configuration with the best mean validation Dice, all folds.

    Raises: BadUsage when there is none.
    """
    runs: dict[str, dict[str, RunFolder]] = {}
    for folder in home.finished_runs(plan.task, plan.name):
        run = folder.run()
        if run is not None:
            runs.setdefault(run.configuration, {}).setdefault(str(run.fold), folder)
    if not runs or (configuration and configuration not in runs):
        wanted = configuration or next(iter(plan.configurations))
        raise BadUsage(
            f"no run of {configuration or 'any configuration'} is finished",
            where=f"{plan.task}, plan {plan.name}",
            expected=f"one of {', '.join(runs)}" if runs else "",
            remedy=f"train one: autoseg train {wanted} 0",
        )
    dice = {title: _mean_dice(found) for title, found in runs.items()}
    title = configuration or max(runs, key=lambda name: -1.0 if (known := dice[name]) is None else known)
    if folds and (missing := [fold for fold in folds if fold not in runs[title]]):
        there = ", ".join(runs[title])
        raise BadUsage(f"fold {missing[0]} of {title} is not finished", where="--folds", expected=f"of {there}")
    chosen = {fold: runs[title][fold] for fold in folds} if folds else runs[title]
    seeds = {fold: run.seed for fold, folder in chosen.items() if (run := folder.run()) is not None}
    best = "" if configuration or len(runs) == 1 else ", the best by validation Dice"
    known = "not scored" if dice[title] is None else f"validation Dice {dice[title]:.4f}"
    voice.say(f"predicting with {title}{best} ({known}), folds {_listed(seeds)}")
    return list(chosen.values())


def _listed(seeds: Mapping[str, int]) -> str:
    return ", ".join(f"{fold} (seed {seed})" if seed else fold for fold, seed in seeds.items())


def _mean_dice(runs: Mapping[str, RunFolder]) -> float | None:
    found = [s.dice for folder in runs.values() if (s := folder.scores()) is not None and s.dice is not None]
    return sum(found) / len(found) if found else None


def predict_files(model: Model, source: Path, out: Path, voice: Voice) -> list[Path]:
    """Predicts a file, or every image of a folder, into `out`; answers the files written.

    What cannot be read is set aside while the others are predicted. Raises: BadData that names all of it.
    """
    jobs = inputs(source, model.run.question)
    written, faults = [], []
    for stem, files in voice.track(jobs.items(), len(jobs), "predicting"):
        try:
            written.append(_predict_one(model, stem, files, out))
        except BadData as fault:
            faults.append(str(fault))
    if faults:
        more = f" (and {len(faults) - 5} more)" if len(faults) > 5 else ""
        raise BadData(f"{len(faults)} of {len(jobs)} images could not be predicted: " + " | ".join(faults[:5]) + more)
    return written


def _predict_one(model: Model, stem: str, files: list[Path], out: Path) -> Path:
    question = model.run.question
    image = casework.read_image(files, question)
    if image.valid is not None and not image.valid.any():
        raise BadData("no voxel is valid: all are nodata, NaN or inf", where=" + ".join(map(str, files)))
    reader = casework.reader_of(question)
    target = out / (stem + reader.label_ending(ending_of(files[0].name)))
    if any(target.resolve() == file.resolve() for file in files):
        raise BadUsage("would overwrite its input", where=str(target), remedy="predict into another folder")
    label = model.predict(image)
    with whole(target) as temporary:
        reader.write_label(temporary, label, image)
    return target


def inputs(source: Path, question: Question) -> dict[str, list[Path]]:
    """Files per case: one with all channels, or one per channel with the suffixes _0000, _0001 ….

    Raises: BadUsage when there is nothing to predict or two inputs would give one output.
    """
    reader = casework.reader_of(question)
    known = " ".join(reader.endings)
    if source.is_file():
        files = [source]
        if ending_of(source.name) not in reader.endings:
            raise BadUsage("is no image of this task", where=str(source), expected=f"a file that ends in {known}")
    elif source.is_dir():
        files = [
            f
            for f in sorted(source.iterdir())
            if f.is_file() and not is_litter(f.name) and ending_of(f.name) in reader.endings
        ]
    else:
        raise BadUsage("no such file or folder", where=str(source))
    if not files:
        raise BadUsage("holds no image", where=str(source), expected=f"files that end in {known}")
    return _grouped(files, question.files)


def _grouped(files: Sequence[Path], per_case: int) -> dict[str, list[Path]]:
    """Files that are the channels 0000 … of one case together, where cases come so; every other file is a case."""
    families: dict[str, list[tuple[int | None, Path]]] = {}
    for file in files:
        stem, number = split_channel(stem_of(file.name))
        families.setdefault(stem, []).append((number, file))
    jobs: dict[str, list[Path]] = {}
    for stem, family in families.items():
        numbers = sorted(-1 if number is None else number for number, _ in family)
        whole_case = numbers in (list(range(per_case)), [0])
        members = [family] if whole_case else [[one] for one in family]
        for group in members:
            name = stem if whole_case else stem_of(group[0][1].name)
            if name in jobs:
                raise BadUsage(f"two images are called {name!r}", where=str(files[0].parent))
            jobs[name] = sorted(file for _, file in group)
    return jobs


def validate(
    home: Home,
    folder: RunFolder,
    held_out: Sequence[str],
    device: str,
    plugins: Mapping[str, str],
    voice: Voice,
    earlier: Mapping[str, Path] | None = None,
) -> Scores:
    """Predicts the fold's cases whole and writes their labels and scores beside the run, unless that is done.

    Args:
        earlier: the label file of each case by an earlier stage that had not seen it, where the run goes on from one.
    """
    done = folder.scores()
    if done is not None:
        voice.say(f"this run is finished: validation Dice {_shown(done.dice)}")
        return done
    model = load_model([folder], device, plugins)
    dataset, _ = tasks.dataset_of(home, model.run.task)
    task_folder, question = home.task_folder(model.run.task), model.run.question
    shutil.rmtree(folder.predictions, ignore_errors=True)
    measures: dict[str, dict[str, Measures]] = {}
    dims, spaced = 3, False

    def predicted() -> Iterator[None]:
        nonlocal dims, spaced
        for id in held_out:
            files = dataset.case(id)
            case = casework.load(task_folder, files, question)
            assert case.label is not None
            reader = casework.reader_of(question)
            before = None if earlier is None else reader.read_label(earlier[id]).array[0]
            label = model.predict(case.image, before)
            ending = reader.label_ending(ending_of(files.images[0]))
            with whole(folder.predictions / (id + ending)) as temporary:
                reader.write_label(temporary, label, case.image)
            measures[id] = evaluate.score(label, case.label, question, case.image.spacing, id)
            dims, spaced = len(case.image.spacing), bool(case.image.placement.get("crs"))
            yield None

    for _ in voice.track(predicted(), len(held_out), "predicting validation cases"):
        pass
    scores = evaluate.summarise(measures, question, evaluate.unit_of(dims, spaced))
    scoring.write(scores, folder.folder)
    return scores


def _shown(dice: float | None) -> str:
    return "not defined" if dice is None else f"{dice:.4f}"
