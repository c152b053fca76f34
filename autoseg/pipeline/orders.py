"""What is asked of a folder of images, and what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from autoseg.errors import BadData, BadUsage
from autoseg.pipeline.extras import ExtraWish
from autoseg.pipeline.inputs import Job
from autoseg.pipeline.voice import Voice
from autoseg.records import Question
from autoseg.store import save_text

SHOWN = 5  # faults that are named on the last line
After = Callable[[Path, Job, Question], "Path | None"]


@dataclass(frozen=True)
class Order:
    """What is to be predicted, where to, and what beside the labels.

    Attributes:
        ram: bytes that this process may take, beside the voxels of the image and one label; None: four fifths of what
            is free.
        part: (k, n): every n-th input from the k-th on, k from 1.
        after: what is made of a label that was written: each answers the file, or None where it makes none of such.
    """

    source: Path
    out: Path
    ram: int | None = None
    part: tuple[int, int] = (1, 1)
    extras: ExtraWish = field(default_factory=ExtraWish)
    after: tuple[After, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a folder: how many labels were written now, how many were there, and what failed and why."""

    written: tuple[Path, ...]
    kept: int
    faults: dict[str, str]


def require_other_folder(order: Order) -> None:
    """Raises: BadUsage where labels would lie among the images, or part k of n does not exist."""
    source = order.source if order.source.is_dir() else order.source.parent
    if order.out.resolve() == source.resolve():
        raise BadUsage("is the folder of the images", where=str(order.out), remedy="predict into another folder")
    number, of = order.part
    if not 1 <= number <= of:
        raise BadUsage(f"{number}/{of} is no part", where="--shard", expected="k/n with k from 1 to n")


def told(outcome: Outcome, order: Order, voice: Voice) -> None:
    """Says what became of a folder. Raises: BadData where something failed, which is written to failed.csv too."""
    out, (number, of) = order.out, order.part
    kept = f", {outcome.kept} were there already" if outcome.kept else ""
    voice.say(f"{len(outcome.written)} labels written to {out}{kept}")
    listing = out / (f"failed_{number}_of_{of}.csv" if of > 1 else "failed.csv")
    if not outcome.faults:
        listing.unlink(missing_ok=True)
        return
    rows = [f"{_quoted(case)},{_quoted(fault)}" for case, fault in sorted(outcome.faults.items())]
    save_text(listing, "\n".join(["case,fault", *rows]) + "\n")
    first = list(outcome.faults.values())[:SHOWN]
    more = f" (and {len(outcome.faults) - SHOWN} more)" if len(outcome.faults) > SHOWN else ""
    total = len(outcome.faults) + len(outcome.written) + outcome.kept
    what = f"{len(outcome.faults)} of {total} images could not be predicted: {' | '.join(first)}{more}"
    raise BadData(what, remedy=f"all of them are listed in {listing}")


def _quoted(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'
