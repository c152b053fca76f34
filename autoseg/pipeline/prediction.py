"""Trained runs as models, and what a run says of its validation cases."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoseg.errors import BadFile, BadUsage, RunFailed
from autoseg.pipeline import predicted, scoring, tasks
from autoseg.pipeline.choosing import with_remedy
from autoseg.pipeline.levels import Levels
from autoseg.pipeline.networks import at_depth, built
from autoseg.pipeline.voice import Voice
from autoseg.plugins import require
from autoseg.records import (
    NOTHING,
    CaseCertainty,
    Certainty,
    Checkpoint,
    Configuration,
    Measures,
    Postprocessing,
    Predicted,
    Question,
    Run,
    Scores,
    Seen,
)
from autoseg.steps import cases as casework
from autoseg.steps import evaluate
from autoseg.store import Home, RunFolder, header_hash, load_header, load_tensors, save_record, whole

if TYPE_CHECKING:
    from autoseg.image import Array, Image
    from autoseg.steps.device import Precision
    from autoseg.steps.pieces import Piece
    from autoseg.steps.views import How, View


def _shown_to(taken: Callable[[Piece], None], found: Iterator[Piece]) -> Iterator[Piece]:
    for piece in found:
        taken(piece)
        yield piece


@dataclass(frozen=True)
class Model:
    """The networks of one configuration, one per fold, ready to predict; `earlier` is the one that it goes on from.

    `run` is the last of the `runs` that they are of. What the models `beside` it answer, of other configurations of the
    task, is averaged with its own answer, and `postprocessing` is done to the label. `seen` is what the training images
    were like, where that is known, and `digest` changes with the weights.
    """

    run: Run
    networks: Sequence[Any]
    device: Any
    step: float = 0.5
    mirror: bool = True
    earlier: Model | None = None
    runs: Sequence[Run] = ()
    scales: tuple[float, ...] = (1.0,)
    beside: tuple[Model, ...] = ()
    postprocessing: Postprocessing = NOTHING
    seen: Seen | None = None
    digest: str = ""

    @property
    def question(self) -> Question:
        """What is asked of an image."""
        return self.run.question

    @property
    def configurations(self) -> tuple[Model, ...]:
        """It and those beside it."""
        return (self, *self.beside)

    def how(self, **more: Any) -> How:
        """How it predicts: `more` are fields of `steps.predict.How`."""
        from autoseg.steps.odds import log_odds
        from autoseg.steps.views import How

        at_once = 2 * self.run.settings.batch if self.device.type == "cuda" else 1
        fields: dict[str, Any] = {"step": self.step, "mirror": self.mirror, "scales": self.scales, "at_once": at_once}
        fields["log_odds"] = log_odds(self.postprocessing.thresholds, self.question)
        return How(**fields | more)

    def predict(
        self, image: Image, before: Array | None = None, room: int | None = None,
        taken: Callable[[Piece], None] | None = None,
    ) -> Array:  # fmt: skip
        """The label of an image, on its grid, in the task's values.

        Args:
            before: the earlier stage's label, where it is known already; room: as in `steps.predict.How`.
            taken: is given every piece, with its probabilities.
        Raises: BadUsage where the model needs one and has no `earlier`, or takes none.
        """
        from autoseg.pipeline.cleaning import acts_of, cleaned
        from autoseg.steps import predict as step

        how = self.how(probabilities=taken is not None, **({} if room is None else {"room": room}))
        found: Iterator[Piece] = step.pieces(self.views(image, how, before), self.question, how)
        if taken is not None:
            found = _shown_to(taken, found)
        if steps := acts_of(self.postprocessing.steps, self.question):
            found = cleaned(found, image.shape, steps, image.spacing, lambda piece: None)
        return step.label_of(image.shape, found, self.question)

    def views(self, image: Image, how: How, before: Array | None = None) -> list[View]:
        """The image prepared for every configuration, and at every scale. Raises: as `predict`."""
        return [one for model in self.configurations for one in model._own_views(image, how, before)]

    def _own_views(self, image: Image, how: How, before: Array | None) -> list[View]:
        from autoseg.steps.views import views

        self.require(before is not None)
        if before is None and self.earlier is not None:
            before = self.earlier.predict(image, room=how.room)
        members = [(self.networks, self.run.settings, self.precision)]
        return views(image, members, self.question, self.device, how, {0: before})

    @property
    def precision(self) -> Precision:
        """In what it computes on its device."""
        from autoseg.steps import device as devices

        return devices.precision(self.device, self.run.settings.train.precision)

    def require(self, given: bool = False) -> None:
        """Raises: BadUsage where the earlier stage's label is needed and not to be had, or `given` and not taken."""
        wanted, title = self.run.settings.previous, self.run.configuration
        if not given and self.earlier is None and wanted is not None:
            remedy = "complete the model with autoseg.pipeline.cascade.completed, or give the label as `before`"
            raise BadUsage(f"{title} needs the label of {wanted} beside the image", where="predict", remedy=remedy)
        if given and wanted is None:
            raise BadUsage(f"{title} goes on from no other configuration", where="before", expected="no label")


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
    Raises: BadUsage when they differ in more, have no such heads, or a plug-in of theirs is not loaded; BadFile.
    """
    from autoseg.steps import device as devices
    from autoseg.steps.direct import direct

    chosen = devices.choose(device)
    networks, runs = [], list[Run]()
    for folder in folders:
        try:
            run = load_header(Checkpoint, folder.checkpoint_file).run
            if runs and _seen(run) != _seen(runs[-1]):
                raise BadUsage(
                    f"folds {runs[-1].fold} and {run.fold} were trained with different plans",
                    where=str(folder.folder),
                    remedy="choose with --folds, or train one of them again with --fresh",
                )
            require_plugins(run, plugins)
            settings = run.settings if fast is None else at_depth(run.settings, fast)
            networks.append(direct(_network(settings, run.question, folder).to(chosen).eval()))
        except BadFile as problem:
            raise with_remedy(problem, folder) from None
        runs.append(run)
    digest = hashlib.sha256("".join(header_hash(one.checkpoint_file) for one in folders).encode()).hexdigest()
    return Model(runs[-1], networks, chosen, step, mirror, runs=runs, digest=f"{digest} {fast or ''}".strip())


def _network(settings: Configuration, question: Question, folder: RunFolder) -> Any:
    """The network of a run without what prediction does not need; of the checkpoint nothing else is read."""
    from autoseg.nets.blocks.repvgg import fuse
    from autoseg.steps.weights import load_network, weights_of

    network, idle = built(settings, question)

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
        earlier: the label file of each case by an earlier stage that had not seen it, where the run goes on from one;
            none for a finished run, which is left as it is.
    """
    done = folder.scores()
    if done is not None and _stands(home, folder, held_out, done, voice, kept=earlier == {}):
        return done
    model = load_model([folder], device, plugins)
    return _predict_cases(home, folder, model, held_out, voice, earlier)


def _predict_cases(
    home: Home, folder: RunFolder, model: Model, held_out: Sequence[str], voice: Voice,
    earlier: Mapping[str, Path] | None,
) -> Scores:  # fmt: skip
    """Writes labels and scores of the cases, and last what was predicted of which files."""
    from autoseg.steps.certainty import Weighing

    dataset, _ = tasks.dataset_of(home, model.run.task)
    task_folder, question = home.task_folder(model.run.task), model.run.question
    folder.predicted_file.unlink(missing_ok=True)
    shutil.rmtree(folder.predictions, ignore_errors=True)
    measures: dict[str, dict[str, Measures]] = {}
    certain: dict[str, CaseCertainty] = {}
    cases, labels, dims, spaced = dict[str, str](), dict[str, str](), 3, False

    def each() -> Iterator[None]:
        nonlocal dims, spaced
        for id in held_out:
            files = dataset.case(id)
            cases[id] = casework.content_hash(task_folder, files)
            case = casework.load(task_folder, files, question)
            assert case.label is not None
            reader = casework.reader_of(question)
            before = None if earlier is None else reader.read_label(earlier[id]).array[0]
            valid = case.image.valid  # where there is no measurement nothing counts, as in training
            sure = Weighing(casework.to_indices(case.label, question, valid, id), question, case.image.spacing)
            levels = Levels(case.image.shape, question)

            def taken(piece: Piece, sure: Weighing = sure, levels: Levels = levels) -> None:
                sure.take(piece)
                levels.take(piece)

            try:
                label = model.predict(case.image, before, taken=taken)
            except RunFailed as problem:
                raise RunFailed(f"{id}: {problem.what}", where=str(folder.folder), remedy=problem.remedy) from None
            certain[id] = sure.close()
            file = predicted.label_file(folder, files, question)
            levels.save(file)
            with whole(file) as temporary:
                reader.write_label(temporary, label, case.image)
            labels[file.name] = predicted.hash_of(file)
            ignored = None if valid is None else ~valid
            measures[id] = evaluate.score(label, case.label, question, case.image.spacing, id, ignored=ignored)
            dims, spaced = len(case.image.spacing), bool(case.image.placement.get("crs"))
            yield None

    for _ in voice.track(each(), len(held_out), "predicting validation cases"):
        pass
    groups = {id: group for id in held_out if (group := dataset.case(id).group) is not None}
    scores = evaluate.summarise(measures, question, evaluate.unit_of(dims, spaced), groups=groups)
    scoring.write(scores, folder.folder)
    save_record(folder.certainty_file, Certainty(cases=certain))
    save_record(folder.predicted_file, Predicted(cases=cases, labels=labels))
    return scores


def _stands(
    home: Home, folder: RunFolder, held_out: Sequence[str], done: Scores, voice: Voice, kept: bool
) -> bool:  # fmt: skip
    """Whether the scores are those of the cases as they are now, with all predictions there, or are kept all the same.

    Says which of it is so.
    """
    run = folder.run()
    faults: list[str] = []
    if run is not None:
        dataset, _ = tasks.dataset_of(home, run.task)
        place, files = home.task_folder(run.task), [dataset.case(id) for id in held_out]
        hashed = ((one, casework.content_hash(place, one)) for one in files)
        faults = predicted.lacking(folder, hashed, run.question)
        if not folder.certainty_file.exists():
            faults.append("it is not noted how sure it was")
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    if not faults:
        voice.say(f"this run is finished: validation Dice {_shown(done.dice)}")
    elif kept:
        remedy = f"remove {folder.scores_file} to predict its validation cases again"
        voice.say(f"this run is finished: validation Dice {_shown(done.dice)}; {faults[0]}{more}: {remedy}")
    else:
        assert run is not None
        what = f"the validation cases of fold {run.fold} of {run.configuration} are predicted again"
        voice.say(f"{faults[0]}{more}: {what}")
    return kept or not faults


def _shown(dice: float | None) -> str:
    return "not defined" if dice is None else f"{dice:.4f}"
