"""The folds of a task: drawn once as the user wants them, extended by new cases."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import BadTask, BadUsage
from autoseg.layouts import folds as drawing
from autoseg.layouts.blocks import OPTION, Blocks, Tiles, tiles_of
from autoseg.layouts.splits import read_splits
from autoseg.layouts.units import leaks, listed
from autoseg.pipeline.voice import Voice
from autoseg.records import CaseFiles, Dataset, Fingerprint, Folds
from autoseg.store import Home

BLOCKS = "blocks"
TOUCHING = 1.0  # metres between tiles that were cut side by side
HOWS = "groups, site or blocks:SIZE:BUFFER, like blocks:2km:200m"


@dataclass(frozen=True)
class FoldsWish:
    """What the user asked of the folds: their number, what shares one, or a file of splits, even one that leaks."""

    count: int | None = None
    by: str | None = None
    splits: Path | None = None
    force: bool = False

    def __post_init__(self) -> None:
        if self.splits is not None and (self.count is not None or self.by is not None):
            raise BadUsage("a file of splits says itself how many folds there are", where="--splits, --folds")
        if self.force and self.splits is None:
            raise BadUsage("there are no splits to force", where="--force-splits", remedy="give --splits FILE")
        if self.by == drawing.SITE and self.count is not None:
            raise BadUsage("there is one fold per site", where="--folds", remedy="leave --folds out")
        if self.by is not None and self.by not in (drawing.GROUPS, drawing.SITE):
            if not self.by.startswith(BLOCKS):
                raise BadUsage(f"unknown rule {self.by!r}", where=OPTION, expected=HOWS)
            Blocks.parse(self.by)


def folds_of(home: Home, task: str, dataset: Dataset, measured: Fingerprint, voice: Voice, wish: FoldsWish) -> Folds:
    """The task's folds: drawn when there are none, extended by new cases, otherwise as they are. Writes nothing.

    Raises: BadTask for folds of another task, and when others are asked for than there are.
    """
    old, file = home.folds(task), home.folds_file(task)
    classes = _present(dataset, measured)
    if old is not None:
        _require_task(old, dataset, file)
    if old is None or wish != FoldsWish():
        wanted = _drawn(home.task_folder(task), dataset, classes, wish, voice)
        if old is None:
            voice.say(f"{len(wanted.folds)} folds: {wanted.rule}")
            _tell_neighbours(home.task_folder(task), dataset, wanted, voice)
            return wanted
        _require_same(old, wanted, wish, file)
    return _extended(home.task_folder(task), old, dataset, classes, file, voice)


def _present(dataset: Dataset, measured: Fingerprint) -> dict[str, tuple[str, ...]]:
    """The classes above background that each usable case holds."""
    names = dataset.classes[dataset.background :]
    return {id: tuple(n for n in names if facts.voxels.get(n)) for id, facts in measured.usable.items()}


def _drawn(
    folder: Path, dataset: Dataset, classes: Mapping[str, Sequence[str]], wish: FoldsWish, voice: Voice
) -> Folds:
    count = 5 if wish.count is None else wish.count
    if wish.splits is not None:
        try:
            text = wish.splits.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as problem:
            raise BadTask(f"cannot be read: {problem}", where=str(wish.splits), expected="JSON") from None
        return read_splits(text, dataset.cases, wish.splits.name, classes, force=wish.force)
    if wish.by == drawing.SITE:
        return drawing.site_folds(dataset.cases)
    if wish.by is not None and wish.by.startswith(BLOCKS):
        tiles, cases = _placed(folder, dataset, voice)
        return drawing.block_folds(cases, tiles, Blocks.parse(wish.by), count, classes)
    return drawing.make_folds(dataset.cases, count, classes)


def _placed(folder: Path, dataset: Dataset, voice: Voice) -> tuple[Tiles, list[CaseFiles]]:
    """Where the cases lie, and those of which it is known."""
    if dataset.reader != "raster":
        what = f"the images of {dataset.name} are read by {dataset.reader} and have no map coordinates"
        raise BadTask(what, where=OPTION, expected="georeferenced rasters", remedy="take --folds-by groups or site")
    tiles = tiles_of(folder, dataset.cases)
    known = set(tiles.ids)
    cases = [case for case in dataset.cases if case.id in known]
    if missing := len(dataset.cases) - len(cases):
        voice.say(f"{missing} cases cannot be opened: they join the folds when they can")
    return tiles, cases


def _tell_neighbours(folder: Path, dataset: Dataset, folds: Folds, voice: Voice) -> None:
    """Says how many tiles border on those of other folds, where the folds do not go by blocks."""
    if dataset.reader != "raster" or folds.by.startswith(BLOCKS) or len(folds.folds) < 2:
        return
    try:
        tiles = tiles_of(folder, dataset.cases)
    except BadTask:  # pictures without coordinates
        return
    if close := {id for fold in folds.folds for id in tiles.near(set(fold), TOUCHING)}:
        what = f"{len(close)} tiles touch or overlap tiles of other folds: scores may be too good"
        voice.say(f"{what}; --folds-by blocks:SIZE:BUFFER keeps neighbours apart")


def _extended(
    folder: Path, old: Folds, dataset: Dataset, classes: Mapping[str, Sequence[str]], file: Path, voice: Voice
) -> Folds:
    placed = {id for ids in old.folds for id in ids}
    tiles, cases = None, list(dataset.cases)
    if old.by.startswith(BLOCKS) and any(case.id not in placed for case in cases):
        tiles, cases = _placed(folder, dataset, voice)
    new = drawing.extend_folds(old, cases, classes, tiles)
    if added := sum(map(len, new.folds)) - len(placed):
        voice.say(f"{added} new cases joined the folds; the others stay where they were")
    for number in range(len(old.folds), len(new.folds)):
        site, size = new.names[number], len(new.folds[number])
        voice.say(f"the site {site!r} is new: fold {number} validates on its {size} cases, the others train on them")
    if gone := sorted(placed - {case.id for case in dataset.cases}):
        voice.say(f"{len(gone)} cases of the folds are no longer in the task: {listed(gone)}")
    if torn := leaks(new, dataset.cases):
        what = f"{len(torn)} groups are trained on and validated on at once ({listed([unit[0] for unit in torn])})"
        voice.say(f"the folds leak: {what}; remove {file} to draw them anew")
    return new


def _require_task(old: Folds, dataset: Dataset, file: Path) -> None:
    known = {case.id for case in dataset.cases}
    names = [id for ids in old.folds for id in ids]
    if names and not known & set(names):
        what = f"none of its cases ({listed(names)}) is in the task"
        raise BadTask(what, where=str(file), remedy=f"remove {file} to draw the folds anew")


def _require_same(old: Folds, wanted: Folds, wish: FoldsWish, file: Path) -> None:
    """Raises: BadTask when the folds that there are differ from those that are asked for."""
    if wish.splits is not None:
        same = old.folds == wanted.folds
    else:
        same = old.by == wanted.by and (wish.count is None or len(old.folds) == len(wanted.folds))
    if not same:
        what = f"the task has other folds already: {len(old.folds)} by {old.by}"
        raise BadTask(what, where=str(file), remedy=f"remove {file} to change them; runs then start anew")
