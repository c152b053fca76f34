"""Iterative stratification: every fold gets its share of every label."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.layouts.stratify import CASES, Labels, even, held, labels_of, ranges, stratify, uneven
from autoseg.records import CaseFiles

X, Y = ("class", "x"), ("class", "y")


def unit(cases: int = 1, **labels: int) -> Labels:
    return Counter({CASES: cases} | {("class", name): count for name, count in labels.items() if count})


def dealt(units: list[Labels], folds: int) -> list[Labels]:
    places = stratify(units, [Counter() for _ in range(folds)])
    return [sum((u for u, place in zip(units, places, strict=True) if place == f), Counter()) for f in range(folds)]


def test_the_rarest_label_is_dealt_first() -> None:
    units = [unit(y=1), unit(y=1), unit(x=1, y=1), unit(x=1, y=1), unit(), unit()]
    assert stratify(units, [Counter(), Counter()]) == [0, 1, 0, 1, 0, 1]
    assert [fold[X] for fold in dealt(units, 2)] == [1, 1] and [fold[Y] for fold in dealt(units, 2)] == [2, 2]


def test_what_the_folds_have_already_counts() -> None:
    assert stratify([unit(x=1), unit(x=1), unit()], [unit(3, x=2), unit(3)]) == [1, 1, 0]


def by_hand(units: list[Labels], folds: int) -> list[int]:
    """The same in exact fractions: what each fold wants of a label is its even part less what it has."""
    places: dict[int, int] = {}

    def total(name: tuple[str, str], fold: int | None = None) -> int:
        return sum(one[name] for n, one in enumerate(units) if fold is None or places.get(n) == fold)

    def wanted(number: int, fold: int) -> Fraction:
        one = units[number]
        return sum((one[c] * (Fraction(total(c), folds) - total(c, fold)) / total(c) for c in one), Fraction(0))

    while len(places) < len(units):
        left = Counter[tuple[str, str]]()
        for number in set(range(len(units))) - set(places):
            left.update(units[number])
        rarest = min(left, key=lambda name: (left[name], name))
        for number in sorted(set(range(len(units))) - set(places), key=lambda n: (-units[n][rarest], n)):
            if units[number][rarest]:
                places[number] = max(range(folds), key=lambda fold: (wanted(number, fold), -fold))
    return [places[number] for number in range(len(units))]


several = st.builds(unit, st.integers(1, 4), x=st.integers(0, 4), y=st.integers(0, 4), z=st.integers(0, 2))


@settings(max_examples=60)
@given(st.lists(several, max_size=12), st.integers(2, 4))
def test_units_go_where_exact_fractions_send_them(units: list[Labels], folds: int) -> None:
    assert stratify(units, [Counter() for _ in range(folds)]) == by_hand(units, folds)


flags = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@settings(max_examples=60)
@given(flags, st.integers(2, 6))
def test_no_fold_stays_empty_and_two_labels_lie_nearly_even(pairs: list[tuple[bool, bool]], folds: int) -> None:
    made = dealt([unit(x=x, y=y) for x, y in pairs], folds)
    assert sum(bool(fold) for fold in made) == min(folds, len(pairs))
    for label in (X, Y):
        counts = [fold[label] for fold in made]
        assert max(counts) - min(counts) <= 2


@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(2, 6))
def test_a_label_alone_lies_even(flags: list[bool], folds: int) -> None:
    counts = [fold[X] for fold in dealt([unit(x=x) for x in flags], folds)]
    assert max(counts) - min(counts) <= 1


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(2, 6))
def test_units_of_any_size_differ_by_one_unit_at_most(sizes: list[int], folds: int) -> None:
    cases = [fold[CASES] for fold in dealt([unit(size) for size in sizes], folds)]
    assert max(cases) - min(cases) <= max(sizes)


def test_labels_are_what_differs_between_cases() -> None:
    cases = [CaseFiles(id=id, images=(id,), site=site) for id, site in (("a", "A"), ("b", "A"), ("c", None))]
    labels = labels_of(cases, {"a": ["x", "y"], "b": ["x"]})
    assert labels == {
        "a": Counter([CASES, ("site", "A"), Y]),
        "b": Counter([CASES, ("site", "A")]),
        "c": Counter([CASES, ("site", "")]),
    }
    assert labels_of(cases[:2], {"a": ["x"], "b": ["x"]}) == {"a": Counter([CASES]), "b": Counter([CASES])}
    assert held(["a", "gone"], labels) == Counter({CASES: 2, ("site", "A"): 1, Y: 1})


def test_evenness() -> None:
    pairs = [unit(2, x=2), unit(2, x=2), unit(2, x=2), unit(2)]
    found = ranges([pairs[0] + pairs[1], pairs[2], pairs[3]])
    assert found == {CASES: (2, 4), X: (0, 4)} and uneven(found, pairs) == 2 / 8 + 4 / 6
    assert not even(found, pairs) and even(ranges([pairs[0], pairs[3]]), pairs)
