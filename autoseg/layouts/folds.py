"""Which cases each fold validates on. Cases that belong together share a fold."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

import numpy as np

from autoseg.errors import BadTask, BadUsage
from autoseg.layouts.blocks import OPTION, Blocks, Tiles, length
from autoseg.layouts.stratify import CASES, Label, Labels, even, held, labels_of, ranges, stratify, uneven
from autoseg.layouts.units import Unit, listed, noun, units_of
from autoseg.records import CaseFiles, Folds

SEED = 12345
GROUPS, SITE = "groups", "site"
Classes = Mapping[str, Collection[str]]  # case -> the classes that it holds
Dealt = list[list[int]]  # fold -> numbers of units


def make_folds(cases: Sequence[CaseFiles], count: int = 5, classes: Classes | None = None) -> Folds:
    """`count` folds of nearly as many groups each; as many folds as groups when there are fewer.

    They are those of KFold, as nnU-Net draws them, unless a class or a site lies unevenly in them and iterative
    stratification mends that. With one group there is one fold, which nothing is left to train for.
    """
    return _dealt(units_of(cases), cases, count, classes, noun(cases))


def site_folds(cases: Sequence[CaseFiles]) -> Folds:
    """One fold per site, which validates on all its cases; groups that are at several sites are trained on at none.

    Raises: BadTask when a case has no site, and when there is only one.
    """
    if bare := [case.id for case in cases if case.site is None]:
        what = f"{len(bare)} of {len(cases)} cases have no site ({listed(bare)})"
        remedy = "make the task with autoseg add --site REGEX or --sites FILE.csv:COLUMN"
        raise BadTask(what, where=OPTION, expected="a site for every case", remedy=remedy)
    sites = sorted({case.site for case in cases if case.site is not None})
    if len(sites) < 2:
        raise BadTask(f"all cases are of the site {sites[0]!r}", where=OPTION, expected="two sites or more")
    folds = tuple(tuple(sorted(case.id for case in cases if case.site == site)) for site in sites)
    return _site_by_site(folds, sites, cases)


def block_folds(
    cases: Sequence[CaseFiles], tiles: Tiles, blocks: Blocks, count: int = 5, classes: Classes | None = None
) -> Folds:
    """Folds of whole blocks of the map; what lies nearer than the buffer to a fold's tiles is not trained on in it.

    Raises: BadUsage when all tiles lie in one block, and when the buffer leaves a fold nothing to train on.
    """
    units = units_of(cases, tiles.blocks(blocks.size))
    if len(units) < 2 <= len(cases):
        what = f"all {len(cases)} tiles lie in one block of {length(blocks.size)}"
        raise BadUsage(what, where=OPTION, remedy="give a smaller size")
    dealt = _dealt(units, cases, count, classes, "blocks")
    made = _buffered(dealt.model_copy(update={"by": blocks.text}), tiles, blocks)
    most = max(map(len, made.apart), default=0)
    near = f"lie nearer than {length(blocks.buffer)} to" if blocks.buffer else "overlap"
    rule = f"{len(units)} blocks of {length(blocks.size)} dealt by {made.rule}; "
    rule += f"up to {most} tiles that {near} those of a fold are not trained on in it" if most else f"no tiles {near} "
    rule += "" if most else "those of another fold"
    return made.model_copy(update={"rule": rule})


def extend_folds(
    folds: Folds, cases: Sequence[CaseFiles], classes: Classes | None = None, tiles: Tiles | None = None
) -> Folds:
    """The folds with the new cases added: to the fold of their group, else where they are lacked most.

    None ever moves. Cases that are gone stay listed. A new site becomes a new, last fold where folds are by site.

    Args:
        tiles: where the cases lie, if the folds are by blocks.
    """
    placed = {id for fold in folds.folds for id in fold}
    if all(case.id in placed for case in cases):
        return folds
    if folds.by == SITE:
        return _with_sites(folds, cases)
    if tiles is None:
        return _joined(folds, units_of(cases), labels_of(cases, classes))
    blocks = Blocks.parse(folds.by)
    units = units_of(cases, tiles.blocks(blocks.size))
    return _buffered(_joined(folds, units, labels_of(cases, classes)), tiles, blocks)


def _dealt(units: Sequence[Unit], cases: Sequence[CaseFiles], count: int, classes: Classes | None, what: str) -> Folds:
    number = max(1, min(count, len(units)))
    labels = labels_of(cases, classes)
    each = [held(unit, labels) for unit in units]
    dealt, rule = _chosen(each, number, what, classes is not None)
    if number < count:
        rule += f"; {number} folds, because there are only {len(units)} {what}"
    if number < 2:
        rule += "; only fold 'all' can be trained"
    return Folds(rule=rule, folds=tuple(tuple(id for place in part for id in units[place]) for part in dealt))


def _chosen(units: Sequence[Labels], count: int, what: str, measured: bool) -> tuple[Dealt, str]:
    """KFold where it spreads every label evenly, or stratification does not better; and what was done, and why."""
    order = np.arange(len(units))
    np.random.RandomState(SEED).shuffle(order)
    plain = [sorted(part.tolist()) for part in np.array_split(order, count)]
    rule = f"KFold over the sorted {what}, shuffled with seed {SEED}, as nnU-Net does"
    rule += " over cases" if what != "cases" else ""
    before = ranges(_contents(plain, units))
    if before.keys() <= {CASES}:
        return plain, rule + ("; all cases have the same classes and one site" if measured else "")
    kinds = _kinds(before)
    if even(before, units):
        return plain, f"{rule}; {kinds} lie evenly in them"
    places = stratify([units[place] for place in order.tolist()], [Labels() for _ in plain])
    dealt = [sorted(order[np.array(places) == fold].tolist()) for fold in range(count)]
    after = ranges(_contents(dealt, units))
    if uneven(after, units) >= uneven(before, units):
        return plain, f"{rule}; stratification would not spread {kinds} more evenly"
    label = max(before.keys() - {CASES}, key=lambda label: (before[label][1] - before[label][0], label))
    rule = f"iterative stratification (Sechidis et al. 2011) of {len(units)} {what} with seed {SEED}, by {kinds}: "
    rule += f"folds of {_range(after[CASES])} cases, {_label(label)} in {_range(after[label])} of them "
    return dealt, rule + f"(nnU-Net's KFold: {_range(before[CASES])}, {_range(before[label])})"


def _contents(dealt: Dealt, units: Sequence[Labels]) -> list[Labels]:
    return [sum((units[place] for place in part), Labels()) for part in dealt]


def _kinds(labels: Iterable[Label]) -> str:
    kinds = {kind for kind, _ in labels}
    return " and ".join(text for kind, text in (("class", "classes"), ("site", "sites")) if kind in kinds)


def _label(label: Label) -> str:
    return f"{label[0]} {label[1]!r}" if label[1] else "no site"


def _range(bounds: tuple[int, int]) -> str:
    return f"{bounds[0]}" if bounds[0] == bounds[1] else f"{bounds[0]} to {bounds[1]}"


def _joined(folds: Folds, units: Sequence[Unit], labels: Mapping[str, Labels]) -> Folds:
    ids = [list(fold) for fold in folds.folds] or [[]]
    place = {id: number for number, fold in enumerate(ids) for id in fold}
    new = []
    for unit in units:
        late = [id for id in unit if id not in place]
        if len(late) == len(unit):
            new.append(unit)
        else:
            ids[min(place[id] for id in unit if id in place)] += late
    places = stratify([held(unit, labels) for unit in new], [held(fold, labels) for fold in ids])
    for unit, number in zip(new, places, strict=True):
        ids[number] += unit
    return folds.model_copy(update={"folds": tuple(map(tuple, ids))})


def _with_sites(folds: Folds, cases: Sequence[CaseFiles]) -> Folds:
    placed = {id for fold in folds.folds for id in fold}
    new = sorted((case for case in cases if case.id not in placed), key=lambda case: case.id)
    if bare := [case.id for case in new if case.site is None]:
        what = f"{len(bare)} new cases have no site ({listed(bare)}), and the folds are by site"
        raise BadTask(what, remedy="give them a site, or remove the folds to draw them anew")
    names = [*folds.names, *sorted({case.site for case in new if case.site is not None} - set(folds.names))]
    ids = [*map(list, folds.folds), *([] for _ in names[len(folds.folds) :])]
    for case in new:
        ids[names.index(case.site or "")].append(case.id)
    return _site_by_site(ids, names, cases)


def _site_by_site(ids: Sequence[Sequence[str]], names: Sequence[str], cases: Sequence[CaseFiles]) -> Folds:
    """One fold per site; what belongs together with a fold's cases but is at another site is kept apart from them."""
    units, apart = units_of(cases), []
    for fold in map(set, ids):
        apart.append(tuple(id for unit in units if not fold.isdisjoint(unit) for id in unit if id not in fold))
    rule = f"leave one site out: {', '.join(names)}"
    if away := sum(map(len, apart)):
        rule += f"; of groups at several sites the cases elsewhere are not trained on ({away} in all folds together)"
    kept = tuple(apart) if any(apart) else ()
    return Folds(rule=rule, folds=tuple(map(tuple, ids)), by=SITE, names=tuple(names), apart=kept)


def _buffered(folds: Folds, tiles: Tiles, blocks: Blocks) -> Folds:
    """The folds with `apart` by the buffer. Raises: BadUsage when it leaves a fold nothing to train on."""
    apart = tuple(tuple(tiles.near(set(fold), blocks.buffer)) for fold in folds.folds)
    made = folds.model_copy(update={"apart": apart if any(apart) else ()})
    if len(made.folds) > 1 and (empty := [n for n in range(len(made.folds)) if not made.split(n)[0]]):
        what = f"with a buffer of {length(blocks.buffer)} nothing is left to train fold {empty[0]}"
        raise BadUsage(what, where=OPTION, remedy="give a smaller buffer")
    return made
