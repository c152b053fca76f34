"""Which model of a plan is used, and what it was chosen by."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, model_validator

from autoseg.records.base import Part, Record
from autoseg.records.runs import Interval


class Compared(Record):
    """A model of the comparison: one configuration, or several whose answers are averaged.

    `dice` and its 95 % `interval` are of cases that its networks had not seen, each predicted by the networks of one
    fold; `behind` is how far that is below the best one's, paired case by case, and `apart` the interval of that.
    `seconds` a prediction of a case of middling size takes on the machine that chose; `parameters` are of one fold's
    networks, and `memory` is what a step of the training of the largest takes, in bytes, as it was planned.
    """

    name: str
    configurations: tuple[str, ...] = Field(min_length=1)
    dice: float
    interval: Interval | None = None
    behind: float = Field(ge=0)
    apart: Interval | None = None
    seconds: float = Field(ge=0)
    parameters: int = Field(ge=0)
    memory: int = Field(default=0, ge=0)


class Pruned(Record):
    """A UNet++ that predicts with the head of one depth alone, or as it was planned (`depth` is None).

    `seconds` of a case in the mean, and the Dice, over a few of the cases that its networks had not seen.
    """

    configuration: str
    depth: int | None
    cases: int = Field(ge=1)
    seconds: float = Field(ge=0)
    dice: float | None


class Postprocessing(Record):
    """What is done to the label of a model.

    `thresholds` say, for classes above the background, from which share a class is written over it: its probability
    by the sum of that and the background's. It is 0.5 for those that are not named. Then the `steps` are done, one
    after the other.
    """

    thresholds: dict[str, Annotated[float, Field(gt=0, lt=1)]] = {}
    steps: tuple[Part, ...] = ()

    @model_validator(mode="before")
    @classmethod
    def _as_it_was(cls, value: Any) -> Any:
        """Models that were exported before there were thresholds have the steps alone."""
        return {"steps": value} if isinstance(value, list | tuple) else value

    @property
    def texts(self) -> tuple[str, ...]:
        """Each of it as it is shown; empty where nothing is done."""
        return (*(f"{name} from {share:g}" for name, share in self.thresholds.items()), *(p.text for p in self.steps))


NOTHING = Postprocessing()


class Cleaning(Record):
    """Postprocessing and what it brings: what is `taken`, and what was `tried`.

    `before` and `after` are the Dice per class over all cases, without it and with it; `nested` is that of cases on
    which it was not chosen: it is chosen on the other folds, one fold after the other. They are of what is taken, or,
    where no steps are, of what was tried. `thresholded` is the nested one of the thresholds alone.
    """

    taken: Postprocessing = NOTHING
    tried: Postprocessing = NOTHING
    before: dict[str, float | None] = {}
    thresholded: dict[str, float | None] = {}
    after: dict[str, float | None] = {}
    nested: dict[str, float | None] = {}

    @property
    def said(self) -> str:
        """What was tried, and whether it is taken."""
        left = [text for text in self.tried.texts if text not in self.taken.texts]
        told = {"taken": self.taken.texts, "not taken, as it does not hold on cases that it was not chosen on": left}
        return "; ".join(f"{', '.join(texts)}: {what}" for what, texts in told.items() if texts)

    @property
    def gains(self) -> tuple[tuple[str, ...], list[tuple[str | float | None, ...]]]:
        """Header and rows of the Dice per class."""
        some = [("after, as fitted", self.after), ("after, on cases it was not chosen on", self.nested)]
        if self.thresholded and self.taken != self.tried:
            some.append(("with the thresholds alone, on such cases", self.thresholded))
        header = ("class", "Dice before", *(title for title, _ in some))
        return header, [(name, dice, *(one.get(name) for _, one in some)) for name, dice in self.before.items()]


class Choice(Record):
    """The model of a plan: its configurations and its postprocessing, with what they were chosen by.

    `runs` holds, by configuration and fold, a hash of what each run predicted of its cases; `nested` is the Dice that
    choosing in this way gives on folds that it was not done on, before postprocessing. `depths` are there of networks
    that have heads of several depths.
    """

    task: str
    plan: str
    seed: int
    configurations: tuple[str, ...] = Field(min_length=1)
    because: str
    table: tuple[Compared, ...] = Field(min_length=1)
    nested: float | None = None
    cleaning: Cleaning = Cleaning()
    depths: tuple[Pruned, ...] = ()
    runs: dict[str, dict[str, str]]
    cases: int = Field(ge=1)
    groups: int = Field(ge=1)
