"""Dealing units of cases so that every fold gets its share of every class and site."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence

from autoseg.records import CaseFiles

Label = tuple[str, str]
Labels = Counter[Label]  # how many cases have each
CASES: Label = ("", "")  # what every case has


def stratify(units: Sequence[Labels], filled: Sequence[Labels]) -> list[int]:
    """The fold of every unit, by iterative stratification (Sechidis et al., ECML PKDD 2011) of units.

    The label that is rarest among the units left is dealt first, the units with most of it before the others, each
    to the fold that has least of all the unit's labels, as shares of their totals. Equals go by their order.

    Args:
        units: the labels of each unit, CASES among them.
        filled: the labels that each fold has already.
    """
    total, folds = _sum((*units, *filled)), [Counter(held) for held in filled]
    places = [0] * len(units)
    left = set(range(len(units)))
    while left:
        rest = _sum(units[number] for number in left)
        rarest = min(rest, key=lambda label: (rest[label], label))
        chosen = sorted((n for n in left if units[n][rarest]), key=lambda n: (-units[n][rarest], n))
        for number in chosen:
            unit = sorted(units[number].items())
            # rounded, so that equal sums are equal whatever they were summed from
            loads = [round(sum(fold[label] * cases / total[label] for label, cases in unit), 9) for fold in folds]
            places[number] = loads.index(min(loads))
            folds[places[number]].update(units[number])
        left -= set(chosen)
    return places


def labels_of(cases: Sequence[CaseFiles], classes: Mapping[str, Collection[str]] | None = None) -> dict[str, Labels]:
    """What each case counts for: itself, its site where there are several, the classes that not every case has.

    Args:
        classes: the classes that each case holds; a case that it does not name is not known to lack any.
    """
    known = classes or {}
    met = Counter(name for case in cases for name in set(known.get(case.id, ())))
    measured = sum(case.id in known for case in cases)
    sites = {case.site for case in cases}
    labels = {}
    for case in cases:
        labels[case.id] = Labels([CASES])
        labels[case.id].update(("class", name) for name in set(known.get(case.id, ())) if met[name] < measured)
        if len(sites) > 1:
            labels[case.id][("site", case.site or "")] += 1
    return labels


def held(ids: Iterable[str], labels: Mapping[str, Labels]) -> Labels:
    """The labels of some cases together; one that is not known counts as a case."""
    return _sum(labels.get(id, Labels([CASES])) for id in ids)


def ranges(folds: Sequence[Labels]) -> dict[Label, tuple[int, int]]:
    """Label -> in how many cases of a fold it is at least and at most, CASES first."""
    names = sorted(set().union(*folds))
    return {name: (min(fold[name] for fold in folds), max(fold[name] for fold in folds)) for name in names}


def even(found: Mapping[Label, tuple[int, int]], units: Sequence[Labels]) -> bool:
    """Whether no label differs between folds by more cases than the smallest unit that has it holds; CASES may."""
    smallest = {label: min(unit[label] for unit in units if unit[label]) for label in found}
    return all(most - least <= smallest[label] for label, (least, most) in found.items() if label != CASES)


def uneven(found: Mapping[Label, tuple[int, int]], units: Sequence[Labels]) -> float:
    """By how much folds differ: the ranges of all labels as shares of their totals."""
    total = _sum(units)
    return sum((most - least) / total[label] for label, (least, most) in found.items())


def _sum(counters: Iterable[Labels]) -> Labels:
    total: Labels = Counter()
    for one in counters:
        total.update(one)
    return total
