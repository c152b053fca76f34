"""Which cases must share a fold, and which folds tear them apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence

from autoseg.records import CaseFiles, Folds

Unit = tuple[str, ...]
Tie = tuple[str, str]


def units_of(cases: Sequence[CaseFiles], blocks: Mapping[str, str] | None = None) -> list[Unit]:
    """The names of the cases that must share a fold, sorted by group, or by name where a case has none.

    Cases belong together when they have one group, the same image files or one block; ties chain.
    """
    home = {case.id: case.id for case in cases}
    first: dict[Tie, str] = {}
    ordered = sorted(cases, key=lambda case: case.id)
    for case in ordered:
        for tie in _ties(case, blocks or {}):
            ends = sorted((_root(home, case.id), _root(home, first.setdefault(tie, case.id))))
            home[ends[1]] = ends[0]
    members: dict[str, list[str]] = defaultdict(list)
    names: dict[str, str] = {}
    for case in ordered:
        root = _root(home, case.id)
        members[root].append(case.id)
        names[root] = min(names.get(root, name_of(case)), name_of(case))
    return [tuple(members[root]) for root in sorted(members, key=lambda root: (names[root], root))]


def name_of(case: CaseFiles) -> str:
    """What a case is sorted by: its group, or its own name."""
    return case.id if case.group is None else case.group


def noun(cases: Sequence[CaseFiles]) -> str:
    """What is dealt to the folds: groups where there are any, else cases."""
    return "groups" if len(units_of(cases)) < len(cases) or any(case.group is not None for case in cases) else "cases"


def summary(cases: Sequence[CaseFiles]) -> str:
    """How many groups and sites the cases form, and the largest with their numbers of cases; '' without any."""
    texts = []
    for what, found in (("group", [case.group for case in cases]), ("site", [case.site for case in cases])):
        counts = Counter(name for name in found if name is not None)
        largest = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
        if counts:
            texts.append(f"{len(counts)} {what}s: {listed([f'{name} ({count})' for name, count in largest])}")
        if counts and None in found:
            texts.append(f"{found.count(None)} cases without a {what}")
    return "; ".join(texts)


def leaks(folds: Folds, cases: Sequence[CaseFiles]) -> list[Unit]:
    """The units that some fold both trains on and validates on."""
    units = units_of(cases)
    unit_of = {id: number for number, unit in enumerate(units) for id in unit}
    torn: set[int] = set()
    for fold in range(len(folds.folds)):
        training, held_out = ({unit_of[id] for id in ids if id in unit_of} for ids in folds.split(fold))
        torn |= training & held_out
    return [units[number] for number in sorted(torn)]


def listed(names: Sequence[str], most: int = 3) -> str:
    """The first names, and that there are more."""
    return ", ".join(names[:most]) + (" …" if len(names) > most else "")


def _ties(case: CaseFiles, blocks: Mapping[str, str]) -> Iterator[Tie]:
    if case.group is not None:
        yield "group", case.group
    if case.id in blocks:
        yield "block", blocks[case.id]
    yield "images", "\0".join(case.images)


def _root(home: dict[str, str], id: str) -> str:
    while home[id] != id:
        home[id] = home[home[id]]
        id = home[id]
    return id
