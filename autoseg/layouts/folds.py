"""Which cases each fold validates on. Cases of one group (a patient, a scene) share a fold."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from typing import TypeGuard

import numpy as np

from autoseg.errors import BadTask
from autoseg.records import CaseFiles, Folds

SEED = 12345
RULE = f"KFold over the sorted groups, shuffled with seed {SEED}, as nnU-Net does over the sorted cases"


def make_folds(cases: Sequence[CaseFiles], count: int = 5) -> Folds:
    """`count` folds of nearly as many groups each; as many folds as groups when there are fewer.

    Without groups these are the folds of nnU-Net. With one group there is one fold, which nothing is left
    to train for: the rule says so.
    """
    members = _members(cases)
    groups = sorted(members)
    folds = min(count, len(groups))
    order = np.arange(len(groups))
    np.random.RandomState(SEED).shuffle(order)
    parts = [sorted(part.tolist()) for part in np.array_split(order, max(folds, 1))]
    rule = RULE
    if folds < count:
        rule += f"; {folds} folds, because there are only {len(groups)} groups"
    if folds < 2:
        rule += "; only fold 'all' can be trained"
    return Folds(rule=rule, folds=tuple(tuple(id for g in part for id in members[groups[g]]) for part in parts))


def extend_folds(folds: Folds, cases: Sequence[CaseFiles]) -> Folds:
    """The folds with the new cases added: to the fold of their group, else to the smallest. None ever moves.

    Cases that are gone stay listed.
    """
    ids = [list(fold) for fold in folds.folds] or [[]]
    place = {id: number for number, fold in enumerate(ids) for id in fold}
    home: dict[str, int] = {}
    for case in cases:
        if case.id in place:
            home.setdefault(_group(case), place[case.id])
    for group, members in sorted(_members([case for case in cases if case.id not in place]).items()):
        smallest = min(range(len(ids)), key=lambda number: len(ids[number]))
        ids[home.get(group, smallest)] += members
    return Folds(rule=folds.rule, folds=tuple(tuple(fold) for fold in ids))


def read_splits(text: str, cases: Sequence[CaseFiles], where: str = "splits") -> Folds:
    """The folds of nnU-Net's splits_final.json: a list of {"train": [...], "val": [...]}.

    Cases that no fold validates on form a last fold, so that all others train on them, as the file asks.
    Cases that the file does not name join as `extend_folds` says. The rule tells both.

    Raises: BadTask for unknown cases, validation sets that overlap or split a group, and for a fold that does
    not train on all the cases which it does not validate on.
    """
    splits = _parsed(text, where)
    known = {case.id: _group(case) for case in cases}
    named = sorted({id for train, val in splits for id in (*train, *val)})
    if unknown := [id for id in named if id not in known]:
        raise BadTask(f"there is no case {unknown[0]!r}", where=where, expected="names of the task's cases")
    fold_of: dict[str, int] = {}
    for number, (train, val) in enumerate(splits):
        for id in val:
            if fold_of.setdefault(id, number) != number:
                raise BadTask(f"folds {fold_of[id]} and {number} both validate on {id!r}", where=where)
        if set(train) != set(named) - set(val):
            expected = "all named cases that it does not validate on"
            raise BadTask(f"fold {number} trains on {len(train)} cases", where=where, expected=expected)
    rest = [id for id in named if id not in fold_of]
    folds = [val for _, val in splits] + ([rest] if rest else [])
    _require_whole_groups(folds, known, where)
    rule = f"read from {where}"
    rule += f"; the last fold holds {len(rest)} cases that no fold validates on" if rest else ""
    new = len(known) - len(named)
    rule += f"; {new} cases that it does not name joined the smallest folds" if new else ""
    return extend_folds(Folds(rule=rule, folds=tuple(tuple(fold) for fold in folds)), cases)


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


def _require_whole_groups(folds: Sequence[Sequence[str]], known: dict[str, str], where: str) -> None:
    home: dict[str, tuple[int, str]] = {}
    for number, fold in enumerate(folds):
        for id in fold:
            first, other = home.setdefault(known[id], (number, id))
            if first != number:
                what = f"{other!r} and {id!r} of group {known[id]!r} are in different folds"
                raise BadTask(what, where=where, remedy="keep each group in one validation set")


def _group(case: CaseFiles) -> str:
    return case.id if case.group is None else case.group


def _members(cases: Sequence[CaseFiles]) -> dict[str, list[str]]:
    """Group -> the sorted names of its cases."""
    members: dict[str, list[str]] = defaultdict(list)
    for case in sorted(cases, key=lambda case: case.id):
        members[_group(case)].append(case.id)
    return dict(members)
