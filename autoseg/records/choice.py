"""Which model of a plan is used, and what it was chosen by."""

from __future__ import annotations

from pydantic import Field

from autoseg.records.base import Part, Record
from autoseg.records.runs import Interval


class Compared(Record):
    """A model of the comparison: one configuration, or several whose answers are averaged.

    `dice` and its 95 % `interval` are of cases that its networks had not seen, each predicted by the networks of one
    fold; `behind` is how far that is below the best one's, paired case by case, and `apart` the interval of that.
    `seconds` a prediction of a case of middling size takes on the machine that chose; `parameters` are of one fold's
    networks.
    """

    name: str
    configurations: tuple[str, ...] = Field(min_length=1)
    dice: float
    interval: Interval | None = None
    behind: float = Field(ge=0)
    apart: Interval | None = None
    seconds: float = Field(ge=0)
    parameters: int = Field(ge=0)


class Cleaning(Record):
    """Postprocessing and what it brings.

    `before` and `after` are the Dice per class over all cases, without and with the steps; `nested` is that of cases on
    which it was not chosen: the steps are chosen on the other folds, one fold after the other. `steps` is empty where
    that is not better, or lower in some class; `tried` says which steps were taken on all cases then.
    """

    steps: tuple[Part, ...] = ()
    tried: tuple[Part, ...] = ()
    before: dict[str, float | None] = {}
    after: dict[str, float | None] = {}
    nested: dict[str, float | None] = {}


class Choice(Record):
    """The model of a plan: its configurations and its postprocessing, with what they were chosen by.

    `runs` holds, by configuration and fold, a hash of what each run predicted of its cases; `nested` is the Dice that
    choosing in this way gives on folds that it was not done on, before postprocessing.
    """

    task: str
    plan: str
    seed: int
    configurations: tuple[str, ...] = Field(min_length=1)
    because: str
    table: tuple[Compared, ...] = Field(min_length=1)
    nested: float | None = None
    cleaning: Cleaning = Cleaning()
    runs: dict[str, dict[str, str]]
    cases: int = Field(ge=1)
    groups: int = Field(ge=1)
