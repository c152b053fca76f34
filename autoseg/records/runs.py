"""Runs, their checkpoints and scores."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autoseg.records.base import Record
from autoseg.records.plan import Configuration
from autoseg.records.tasks import Question


class Run(Record):
    """What a run was started with; written before its first step, never changed.

    `pretrained` is the hash of the checkpoint whose weights it began with; those of the part that `freeze` names stay
    as they are for `freeze_steps`. `earlier` holds, for a configuration that goes on from another, a hash of the
    predictions of each of that one's folds.
    """

    task: str
    plan: str
    configuration: str
    fold: int | Literal["all"]
    seed: int
    settings: Configuration
    question: Question
    folds: str
    device: str
    precision: Literal["bf16", "float32"]
    threads: int
    budget: float | None = None
    plugins: dict[str, str] = {}
    skipped: tuple[str, ...] = ()
    pretrained: str | None = None
    freeze: Literal["encoder"] | None = None
    freeze_steps: int = Field(default=0, ge=0)
    earlier: dict[str, str] = {}
    version: str


class Checkpoint(Record):
    """The header of a checkpoint file; the tensors of the network and the optimiser follow it.

    `skipped_steps` are those whose loss was not finite, `skipped_last` how many of them are the last ones in a row;
    `pieces` is how many a batch goes through the network in, more than one since memory ran out; `processes` is how
    many trained together when it was saved.
    """

    run: Run
    step: int = Field(ge=0)
    skipped_steps: int = Field(default=0, ge=0)
    skipped_last: int = Field(default=0, ge=0)
    pieces: int = Field(default=1, ge=1)
    processes: int = Field(default=1, ge=1)


class Predicted(Record):
    """What a run predicted of its validation cases; written after all of it.

    `cases` holds for every case a hash of the files that it had, as its fingerprint does; `labels` for every file that
    was written, by its name, the SHA-256 of its content.
    """

    cases: dict[str, str] = {}
    labels: dict[str, str] = {}


class Measures(Record):
    """Agreement of one class in one case. Ratios are None where they are not defined (0/0).

    Volumes in mm³ for volumes, m² for rasters, pixels for pictures without spacing. `more` has the measures that were
    asked for, by their text; `counts`, of those that count objects, how many were found, predicted and there.
    """

    dice: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    specificity: float | None
    accuracy: float | None
    true_positives: int
    false_positives: int
    false_negatives: int
    true_negatives: int
    volume_prediction: float
    volume_reference: float
    more: dict[str, float | None] = {}
    counts: dict[str, tuple[int, int, int]] = {}


Interval = tuple[float, float]


class Means(Record):
    """Means over the cases in which the measure is defined; `cases` says how many had a Dice.

    `intervals` holds, for each of the measures by name, where 95 % of the means, or of the values of all cases as one,
    lie when groups of cases are drawn again; none with fewer than two groups.
    """

    dice: float | None
    iou: float | None
    precision: float | None
    recall: float | None
    specificity: float | None
    accuracy: float | None
    cases: int
    more: dict[str, float | None] = {}
    intervals: dict[str, Interval] = {}


class Scores(Record):
    """Per case and class; `mean` over cases per class; `dice` is the mean of the classes' mean Dice.

    `pooled` counts the voxels (or objects) of all cases together; `groups` has the means of each patient, scene or
    site that has several cases. `measures` says what each of `more` is, `faults` which cases could not be scored, and
    why, `unreferenced` which predictions have no reference; `confusion`, where it was counted, the voxels of all cases
    by class of the reference (rows) and the prediction.
    """

    rule: str
    unit: str
    cases: dict[str, dict[str, Measures]]
    mean: dict[str, Means]
    dice: float | None
    interval: Interval | None = None
    pooled: dict[str, Means] = {}
    groups: dict[str, dict[str, Means]] = {}
    measures: dict[str, str] = {}
    faults: dict[str, str] = {}
    unreferenced: tuple[str, ...] = ()
    confusion: tuple[tuple[int, ...], ...] = ()

    @property
    def together(self) -> tuple[tuple[str, ...], list[tuple[str | float | None, ...]]]:
        """Header and rows of what is pooled: of voxels, and of the objects or patches that are counted."""
        counted = [title for title in self.measures if any(title in one.more for one in self.pooled.values())]
        rows: list[tuple[str | float | None, ...]] = []
        for name, one in self.pooled.items():
            sides = {title: one.intervals.get(title, (None, None)) for title in ("dice", *counted)}
            more = [value for title in counted for value in (one.more.get(title), *sides[title])]
            rows.append((name, one.dice, *sides["dice"], one.iou, one.precision, one.recall, *more))
        header = [cell for title in counted for cell in (title, "from", "to")]
        return ("class", "Dice", "95 % from", "to", "IoU", "precision", "recall", *header), rows
