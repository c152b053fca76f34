"""Folds from nnU-Net's splits_final.json."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import TypeGuard

from autoseg.errors import BadTask
from autoseg.layouts.folds import extend_folds
from autoseg.layouts.units import leaks, name_of
from autoseg.records import CaseFiles, Folds

SPLITS = "splits"


def read_splits(
    text: str,
    cases: Sequence[CaseFiles],
    where: str = "splits",
    classes: Mapping[str, Collection[str]] | None = None,
    *,
    force: bool = False,
) -> Folds:
    """The folds of nnU-Net's splits_final.json: a list of {"train": [...], "val": [...]}.

    Cases that no fold validates on form a last fold, so that all others train on them, as the file asks; the rule
    tells so.

    Args:
        force: take also a split that trains and validates on one group at once, and one that does not name all cases:
            those join as `extend_folds` says. The rule tells both.

    Raises: BadTask for unknown cases, cases that are not named, validation sets that overlap or split a group, and for
    a fold that does not train on all the cases which it does not validate on.
    """
    splits = _parsed(text, where)
    known = {case.id for case in cases}
    named = sorted({id for train, val in splits for id in (*train, *val)})
    if unknown := [id for id in named if id not in known]:
        more = f" ({len(unknown)} of {len(named)} names are unknown)" if len(unknown) > 1 else ""
        raise BadTask(f"there is no case {unknown[0]!r}{more}", where=where, expected="names of the task's cases")
    _require_partition(splits, named, where)
    validated = {id for _, val in splits for id in val}
    rest = [id for id in named if id not in validated]
    folds = tuple(tuple(val) for _, val in splits) + ((tuple(rest),) if rest else ())
    rule = f"read from {where}"
    rule += f"; the last fold holds {len(rest)} cases that no fold validates on" if rest else ""
    new = len(known) - len(named)
    if new and not force:
        first = min(known.difference(named))
        what = f"does not name {new} of the task's {len(known)} cases ({first!r}{' …' if new > 1 else ''})"
        remedy = "name them, or let them join the smallest folds with --force-splits"
        raise BadTask(what, where=where, remedy=remedy)
    rule += f"; {new} cases that it does not name joined the smallest folds" if new else ""
    rule += _forced(Folds(rule=rule, folds=folds), cases, where, force)
    return extend_folds(Folds(rule=rule, folds=folds, by=SPLITS), cases, classes)


def _forced(folds: Folds, cases: Sequence[CaseFiles], where: str, force: bool) -> str:
    """What the rule says of groups that are trained on and validated on. Raises: BadTask when not forced."""
    names = {case.id: name_of(case) for case in cases}
    torn = leaks(folds, cases)
    if not torn:
        return ""
    if not force:
        first, other = _apart(torn[0], folds)
        what = f"{first!r} and {other!r} of group {names[first]!r} are in different folds"
        what += f", and so are those of {len(torn) - 1} more groups" if len(torn) > 1 else ""
        remedy = "keep each group in one validation set; --force-splits takes the file as it is"
        raise BadTask(what, where=where, remedy=remedy)
    return f"; forced, though {len(torn)} groups are trained on and validated on at once: scores will be too good"


def _apart(unit: Sequence[str], folds: Folds) -> tuple[str, str]:
    """Two cases of a unit that lie in different folds."""
    fold_of = {id: number for number, fold in enumerate(folds.folds) for id in fold}
    first, *others = [id for id in unit if id in fold_of]
    return first, next(id for id in others if fold_of[id] != fold_of[first])


def _require_partition(splits: Sequence[tuple[list[str], list[str]]], named: Sequence[str], where: str) -> None:
    """Raises: BadTask for validation sets that overlap, and training sets that are not all the other cases."""
    fold_of: dict[str, int] = {}
    for number, (train, val) in enumerate(splits):
        for id in val:
            if fold_of.setdefault(id, number) != number:
                raise BadTask(f"folds {fold_of[id]} and {number} both validate on {id!r}", where=where)
        if both := sorted(set(train) & set(val)):
            raise BadTask(f"fold {number} trains on {both[0]!r} and validates on it", where=where)
        if set(train) != set(named) - set(val):
            expected = "all named cases that it does not validate on"
            raise BadTask(f"fold {number} trains on {len(train)} cases", where=where, expected=expected)


def _parsed(text: str, where: str) -> list[tuple[list[str], list[str]]]:
    expected = 'a list of {"train": [...], "val": [...]}'
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise BadTask(f"not valid JSON: {problem}", where=where, expected=expected) from problem
    if not isinstance(content, list) or not content:
        raise BadTask("is no list of folds", where=where, expected=expected)
    splits = []
    for number, fold in enumerate(content):
        train, val = (fold.get("train"), fold.get("val")) if isinstance(fold, dict) else (None, None)
        if not _is_names(train) or not _is_names(val) or not val:
            raise BadTask("is no fold", where=f"{where}[{number}]", expected=expected)
        splits.append((train, val))
    return splits


def _is_names(value: object) -> TypeGuard[list[str]]:
    return isinstance(value, list) and all(isinstance(name, str) for name in value) and len(set(value)) == len(value)
