"""The files of a run."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from autoseg.records import Certainty, Checkpoint, Predicted, Run, Scores
from autoseg.store.files import load_header, load_record, save_tensors, save_text


@dataclass(frozen=True)
class RunFolder:
    """The files of one run (plan, configuration, fold, seed)."""

    folder: Path

    @property
    def run_file(self) -> Path:
        return self.folder / "run.json"

    @property
    def checkpoint_file(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def checkpoint_before(self) -> Path:
        return self.folder / "checkpoint_before.safetensors"

    @property
    def log_file(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def progress_file(self) -> Path:
        return self.folder / "progress.svg"

    @property
    def scores_file(self) -> Path:
        return self.folder / "scores.json"

    @property
    def board(self) -> Path:
        """The folder of TensorBoard's event files."""
        return self.folder / "tensorboard"

    @property
    def mlflow_file(self) -> Path:
        """Where the id of the run in MLflow is kept."""
        return self.folder / "mlflow.json"

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions"

    @property
    def certainty_file(self) -> Path:
        """Where it is noted how sure it was of its validation cases."""
        return self.folder / "certainty.json"

    @property
    def predicted_file(self) -> Path:
        """Where it is noted what was predicted of what."""
        return self.folder / "predicted.json"

    def run(self) -> Run | None:
        """What the run was started with; None before it was."""
        return load_record(Run, self.run_file) if self.run_file.exists() else None

    def checkpoint(self) -> Checkpoint | None:
        """The header of its last checkpoint; None when there is none."""
        return load_header(Checkpoint, self.checkpoint_file) if self.checkpoint_file.exists() else None

    def ended(self) -> bool:
        """Whether the last step is reached. Raises: BadFile where the last checkpoint cannot be read."""
        point = self.checkpoint()
        return point is not None and point.step >= point.run.settings.train.steps

    def save_checkpoint(self, tensors: Mapping[str, Any], header: Checkpoint) -> None:
        """Writes the run's state as one file; that which was the last before stays beside it."""
        fresh = self.folder / "checkpoint_next.safetensors"
        save_tensors(fresh, tensors, header)
        if self.checkpoint_file.exists():
            self.checkpoint_file.replace(self.checkpoint_before)
        fresh.replace(self.checkpoint_file)

    def scores(self) -> Scores | None:
        """The scores of its validation cases; None before the run is finished."""
        return load_record(Scores, self.scores_file) if self.scores_file.exists() else None

    def certainty(self) -> Certainty | None:
        """How sure it was of its validation cases; None before they are predicted."""
        return load_record(Certainty, self.certainty_file) if self.certainty_file.exists() else None

    def predicted(self) -> Predicted | None:
        """What it predicted of its validation cases; None before all are predicted."""
        return load_record(Predicted, self.predicted_file) if self.predicted_file.exists() else None

    def log(self, entry: Mapping[str, object]) -> None:
        """Appends a line to the log."""
        with self.log_file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(entry) + "\n")

    def logged(self) -> Iterator[dict[str, Any]]:
        """The entries of the log; lines that a kill cut short are passed over."""
        if not self.log_file.exists():
            return
        with self.log_file.open(encoding="utf-8", errors="replace") as opened:
            for line in opened:
                with contextlib.suppress(ValueError, RecursionError):
                    entry = json.loads(line)
                    if isinstance(entry, dict):
                        yield entry

    def batch_file(self, step: int) -> Path:
        """Where the batch of a step is drawn: beside the run's folder, so that it does not begin the run."""
        return self.folder.with_name(f"batches_{self.folder.name}") / f"step_{step}.png"

    def rewind_log(self, step: int) -> None:
        """Drops the lines after `step` (and half a line, if a kill left one): they will be written again."""
        if not self.log_file.exists():
            return
        kept = []
        for line in self.log_file.read_text(encoding="utf-8", errors="replace").splitlines():
            with contextlib.suppress(ValueError, TypeError, AttributeError, RecursionError, OverflowError):
                if int(json.loads(line).get("step", 0)) <= step:
                    kept.append(line)
        save_text(self.log_file, "".join(line + "\n" for line in kept))

    def set_aside(self) -> Path | None:
        """Moves the run beside itself, so that it can start anew; answers where it went."""
        if not self.run_file.exists():
            return None
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.old{number}")).exists():
            number += 1
        self.folder.rename(aside)
        return aside
