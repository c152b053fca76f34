"""Where else a run is written down while it trains, if the user wants it."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from math import isfinite
from operator import methodcaller
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from autoseg.errors import BadUsage
from autoseg.pipeline.boards import MLflow, Picture, TensorBoard
from autoseg.pipeline.fold_cases import Wish
from autoseg.pipeline.voice import Voice
from autoseg.records import Run, Scores
from autoseg.store import RunFolder

if TYPE_CHECKING:
    from autoseg.steps.batches import Batches
    from autoseg.steps.learner import Learner
    from autoseg.steps.train import Progress

POINTS = 1000  # of a curve, about
PICTURE_SECONDS = 300.0  # between pictures
EXTRA = "pip install 'autoseg[track]'"
USE = "--mlflow sqlite:///mlruns.db keeps them in a file"


class Tracker(Protocol):
    """Something that a run is also written to. What it raises ends it, not the run."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers by their names."""
        ...

    def picture(self, step: int, draw: Picture) -> None:
        """A PNG, drawn only where it is wanted."""
        ...

    def finish(self, step: int, values: Mapping[str, float], files: Mapping[str, str]) -> None:
        """What a finished run leaves: finite numbers and texts, by their names."""
        ...

    def close(self, status: str) -> None:
        """FINISHED or FAILED: nothing follows, but FAILED where something was raised."""
        ...


class Trackers:
    """Those that the user wants; none before they begin. One that fails is said once, the training goes on without it.

    The URI of MLflow's store is written nowhere, as it may hold a password.
    """

    def __init__(self, wish: Wish, voice: Voice) -> None:
        self.wish, self.voice = wish, voice
        self.trackers: dict[str, Tracker] = {}
        self.looked = -PICTURE_SECONDS
        self.last = 0

    def __enter__(self) -> Trackers:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._each(methodcaller("close", "FINISHED" if kind is None else "FAILED"))

    def begin(self, run: Run, folder: RunFolder, step: int) -> None:
        """The run goes on from this step. Raises: BadUsage where a tracker cannot be used."""
        self.last = run.settings.train.steps
        if not folder.run_file.exists():  # it would be the id of another run, which was refused before it began
            folder.mlflow_file.unlink(missing_ok=True)
        uri, makers = self.wish.mlflow, dict[str, Callable[[], Tracker]]()
        if self.wish.track:
            makers["TensorBoard"] = lambda: TensorBoard(folder.board, step)
        if uri is not None:
            makers["MLflow"] = lambda: MLflow(uri, run, folder.mlflow_file)
        for name, make in makers.items():
            try:
                self.trackers[name] = make()
            except Exception as problem:  # of the many libraries of MLflow's stores
                raise BadUsage(f"{name} cannot be used: {self._told(problem)}") from None

    def followed(self, progress: Iterator[Progress], run: Run, draw: Callable[[int], bytes]) -> Iterator[Progress]:
        """Passes the progress on. `draw` makes a PNG of the network's predictions at a step."""
        every = max(1, self.last // POINTS)
        for one in progress:
            if one.step % every == 0 or one.stages or one.dice or one.whole:
                self._each(methodcaller("scalars", one.step, scalars_of(one, run.question.foreground)))
            if one.step == self.last or time.monotonic() - self.looked > PICTURE_SECONDS:
                self._each(methodcaller("picture", one.step, partial(draw, one.step)))
                self.looked = time.monotonic()
            yield one

    def finish(self, folder: RunFolder) -> None:
        """The scores of the finished run and its curves; the cases are numbers, without their names."""
        scores = folder.scores()
        curves = folder.progress_file
        files = {curves.name: curves.read_text(encoding="utf-8")} if curves.exists() else {}
        values: dict[str, float] = {}
        if scores is not None:
            files[folder.scores_file.name] = json.dumps(nameless(scores), indent=1)
            means = {"mean": scores.dice} | {name: mean.dice for name, mean in scores.mean.items()}
            values = finite({f"dice/{_clean(name)}": dice for name, dice in means.items()})
        self._each(methodcaller("finish", self.last, values, files))

    def _each(self, call: Callable[[Tracker], None]) -> None:
        for name, tracker in [*self.trackers.items()]:
            try:
                call(tracker)
            except Exception as problem:  # whatever it is, the training does not end with it
                del self.trackers[name]
                with contextlib.suppress(Exception):
                    tracker.close("FAILED")
                self.voice.say(f"{name} failed: {self._told(problem)}; the training goes on without it")

    def _told(self, problem: Exception) -> str:
        """The first line of an error, without what the URI may hold of a password."""
        line = (str(problem).strip() or type(problem).__name__).splitlines()[0]
        parts = urlsplit(self.wish.mlflow or "")
        for secret in (self.wish.mlflow, parts.netloc.rpartition("@")[0], parts.password):
            line = line.replace(secret, "…") if secret else line
        return line[:300]


def drawn(learner: Learner, batches: Callable[[], Batches], run: Run, step: int) -> bytes:
    """A PNG of a few patches, which are the same at every step, and what the network predicts now."""
    from autoseg.steps import glance

    found = glance.patches(learner, batches(), run.question)
    return glance.draw(found, f"step {step}", run.question, run.settings)


def scalars_of(one: Progress, foreground: tuple[str, ...]) -> dict[str, float]:
    """The numbers of a step by their names; what is not known, or not finite, is left out."""
    values: dict[str, float | None] = {
        "loss/all": one.loss, "learning_rate": one.rate, "gradient_norm": one.norm, "memory_gb": one.memory / 1e9,
        "seconds/step": one.seconds,
    }  # fmt: skip
    values |= {f"loss/head_{head}": loss for head, loss in one.heads.items()}
    values |= {f"seconds/{stage}": seconds for stage, seconds in one.stages.items()}
    for kind, found in (("pseudo_dice", one.dice), ("whole_dice", one.whole)):
        if found is not None:
            values |= {f"{kind}/{_clean(name)}": dice for name, dice in zip(foreground, found, strict=True)}
    return finite(values)


def finite(values: Mapping[str, float | None]) -> dict[str, float]:
    return {name: value for name, value in values.items() if value is not None and isfinite(value)}


def nameless(scores: Scores) -> dict[str, Any]:
    """The scores with the cases and groups as lists, in their order, without their names."""
    shown = scores.model_dump(mode="json")
    lists = {field: [*shown[field].values()] for field in ("cases", "groups")}
    return shown | lists | {"faults": len(scores.faults)}


def _clean(name: str) -> str:
    """What MLflow takes in a name."""
    return re.sub(r"[^\w\-. ]", "_", name)


def require(wish: Wish) -> None:
    """Raises: BadUsage for a tracker that is not installed, and for what cannot be a store of MLflow's."""
    try:
        if wish.track:
            from torch.utils.tensorboard import SummaryWriter  # noqa: F401
        if wish.mlflow is not None:
            import mlflow  # noqa: F401
    except ImportError as problem:
        option = "--track" if wish.mlflow is None else "--mlflow"
        raise BadUsage(f"{problem.name or problem} is not installed", where=option, remedy=EXTRA) from None
    if wish.mlflow is not None and (what := _wrong(wish.mlflow)) is not None:
        raise BadUsage(what, where="--mlflow", remedy=USE)


def _wrong(uri: str) -> str | None:
    """What keeps MLflow from storing runs there; None where nothing is seen that does."""
    if not uri.strip():
        return "the URI is empty"
    try:
        parts = urlsplit(uri)
    except ValueError:
        return "that is no URI"
    if parts.scheme in ("", "file") and uri != "databricks":
        return "MLflow keeps no runs in a folder any more"
    folder = Path(parts.path[1:]).parent
    if parts.scheme.startswith("sqlite") and not folder.is_dir():  # MLflow would make it
        return f"the folder {folder} does not exist"
    return None
