"""Folds: nnU-Net's rule where nothing is to be stratified, whole groups, even shares, nobody moves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.errors import BadTask
from autoseg.layouts import extend_folds, make_folds
from autoseg.layouts.folds import site_folds
from autoseg.layouts.units import leaks
from autoseg.records import CaseFiles, Folds


def cases_of(
    *ids: str, groups: Mapping[str, str] | None = None, sites: Mapping[str, str] | None = None
) -> list[CaseFiles]:
    return [
        CaseFiles(id=id, images=(f"{id}.png",), group=(groups or {}).get(id), site=(sites or {}).get(id)) for id in ids
    ]


def names(count: int) -> list[str]:
    return [f"case_{number:02d}" for number in range(count)]


def kfold(count: int, folds: int) -> list[list[int]]:
    """Indices that each fold of KFold(folds, shuffle=True, random_state=12345) tests, ascending."""
    order = list(range(count))
    np.random.RandomState(12345).shuffle(order)
    sizes = [count // folds + (fold < count % folds) for fold in range(folds)]
    return [sorted(order[sum(sizes[:fold]) : sum(sizes[: fold + 1])]) for fold in range(folds)]


@pytest.mark.parametrize(
    ("count", "expected"),  # scikit-learn 1.7: KFold(5, shuffle=True, random_state=12345)
    [
        (7, [[3, 6], [0, 4], [1], [5], [2]]),
        (12, [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]]),
    ],
)
def test_without_groups_the_folds_are_those_of_nnunet(count: int, expected: list[list[int]]) -> None:
    ids = names(count)
    folds = make_folds(cases_of(*ids[::-1]))
    assert folds.folds == tuple(tuple(ids[number] for number in fold) for fold in expected)
    assert kfold(count, 5) == expected
    train, held_out = folds.split(0)
    assert sorted((*train, *held_out)) == ids


@given(st.integers(2, 60), st.integers(2, 9), st.sampled_from([None, "here"]))
def test_where_every_case_has_every_class_the_folds_are_those_of_nnunet(
    count: int, folds: int, site: str | None
) -> None:
    ids = names(count)
    cases = cases_of(*ids, sites=dict.fromkeys(ids, site) if site else None)
    made = make_folds(cases, folds, dict.fromkeys(ids, ("road", "roof")))
    assert made.folds == tuple(tuple(ids[n] for n in fold) for fold in kfold(count, min(folds, count)))
    assert "KFold" in made.rule and "all cases have the same classes" in made.rule


members = st.lists(st.integers(0, 9), min_size=1, max_size=30)
held = st.lists(st.sets(st.sampled_from("abc")), min_size=30, max_size=30)


def task(
    numbers: Sequence[int], classes: Sequence[set[str]]
) -> tuple[list[CaseFiles], dict[str, str], dict[str, set[str]]]:
    """Cases of the groups, with the classes that each holds, and a site by the group's number."""
    ids = names(len(numbers))
    groups = {id: f"g{number}" for id, number in zip(ids, numbers, strict=True)}
    sites = {id: "AB"[number % 2] for id, number in zip(ids, numbers, strict=True)}
    present = {id: classes[place % len(classes)] for place, id in enumerate(ids)}
    return cases_of(*ids, groups=groups, sites=sites), groups, present


@settings(max_examples=50)
@given(members, held, st.integers(2, 6))
def test_groups_never_cross_folds(numbers: list[int], classes: list[set[str]], count: int) -> None:
    cases, groups, present = task(numbers, classes)
    for made in (make_folds(cases, count), make_folds(cases, count, present)):
        assert sorted(id for fold in made.folds for id in fold) == sorted(groups)
        homes = {(groups[id], fold) for fold, held_out in enumerate(made.folds) for id in held_out}
        assert len(homes) == len(set(groups.values()))
        assert len(made.folds) == min(count, len(set(groups.values()))) and all(made.folds)
        assert leaks(made, cases) == []


@settings(max_examples=50)
@given(members, held, st.randoms())
def test_the_order_of_the_cases_does_not_matter(numbers: list[int], classes: list[set[str]], random: object) -> None:
    cases, _, present = task(numbers, classes)
    made = make_folds(cases, 5, present)
    mixed = [*cases]
    random.shuffle(mixed)  # type: ignore[attr-defined]
    assert make_folds(mixed, 5, dict(reversed(present.items()))) == made
    assert extend_folds(made, mixed, present) == made


@given(st.lists(st.booleans(), min_size=2, max_size=40), st.integers(2, 6))
def test_a_class_is_spread_as_evenly_as_it_can_be(has: list[bool], count: int) -> None:
    ids = names(len(has))
    made = make_folds(cases_of(*ids), count, {id: ["road"] * hit for id, hit in zip(ids, has, strict=True)})
    counts = [sum(has[ids.index(id)] for id in fold) for fold in made.folds]
    sizes = [len(fold) for fold in made.folds]
    assert max(counts) - min(counts) <= 1 and max(sizes) - min(sizes) <= 1


@given(st.lists(st.sampled_from("ABC"), min_size=2, max_size=40), st.integers(2, 6))
def test_sites_are_spread_as_evenly_as_they_can_be(at: list[str], count: int) -> None:
    ids = names(len(at))
    made = make_folds(cases_of(*ids, sites=dict(zip(ids, at, strict=True))), count)
    for site in "ABC":
        counts = [sum(at[ids.index(id)] == site for id in fold) for fold in made.folds]
        assert max(counts) - min(counts) <= 1


@settings(max_examples=50)
@given(members, held)
def test_stratification_is_only_taken_where_it_is_more_even(numbers: list[int], classes: list[set[str]]) -> None:
    cases, groups, present = task(numbers, classes)
    made, plain = make_folds(cases, 5, present), make_folds(cases_of(*groups, groups=groups), 5)
    if made.folds == plain.folds:
        assert made.rule.startswith("KFold")
    else:
        sites = {case.id: case.site for case in cases}
        assert made.rule.startswith("iterative stratification (Sechidis et al. 2011) of")
        assert unevenness(made, present, sites) < unevenness(plain, present, sites)


def unevenness(folds: Folds, present: Mapping[str, set[str]], sites: Mapping[str, str | None]) -> float:
    """Sum over the classes and sites that vary, and all cases, of the range of a fold's share of them."""
    having = [{id for id in present if name in present[id]} for name in "abc"]
    having += [{id for id in present if sites[id] == site} for site in "AB"]
    varying = [some for some in having if 0 < len(some) < len(present)] + [set(present)]
    counts = [[len(some & set(fold)) for fold in folds.folds] for some in varying]
    return float(sum(np.ptp(row) / sum(row) for row in counts))


def test_the_rule_says_what_stratification_was_good_for() -> None:
    ids = names(20)
    classes = {id: {"road", "pond"} if id in ids[4:8] else {"road"} for id in ids}
    made = make_folds(cases_of(*ids), 4, classes)
    plain = [sum(number in range(4, 8) for number in fold) for fold in kfold(20, 4)]
    assert plain == [0, 1, 1, 2]
    assert made.rule.endswith("by classes: folds of 5 cases, class 'pond' in 1 of them (nnU-Net's KFold: 5, 0 to 2)")


@settings(max_examples=50)
@given(st.integers(4, 30), st.data())
def test_where_a_class_lies_evenly_already_the_folds_are_those_of_nnunet(count: int, data: st.DataObject) -> None:
    ids, plain = names(count), kfold(count, 4)
    most = min(map(len, plain))
    having = [n for fold in plain for n in data.draw(st.permutations(fold))[: data.draw(st.integers(most - 1, most))]]
    made = make_folds(cases_of(*ids), 4, {id: ["road"] * (n in having) for n, id in enumerate(ids)})
    assert made.folds == tuple(tuple(ids[number] for number in fold) for fold in plain)
    assert having in ([], [*range(count)]) or len(having) == count or made.rule.endswith("; classes lie evenly in them")


def test_cases_that_were_not_measured_are_not_taken_to_lack_classes() -> None:
    ids = names(10)
    made = make_folds(cases_of(*ids), 5, dict.fromkeys(ids[1:], ("road",)))
    assert made.folds == make_folds(cases_of(*ids), 5).folds and "all cases have the same" in made.rule


def test_few_groups() -> None:
    folds = make_folds(cases_of("a", "b", "c"))
    assert len(folds.folds) == 3 and "only 3 cases" in folds.rule
    folds = make_folds(cases_of("a", "b", groups={"a": "p", "b": "p"}))
    assert folds.folds == (("a", "b"),) and "only 1 groups" in folds.rule and "only fold 'all'" in folds.rule
    folds = make_folds(cases_of("a"))
    assert folds.folds == (("a",),) and folds.split("all") == (("a",), ()) and "only fold 'all'" in folds.rule
    assert make_folds([]).folds == ((),)


@settings(max_examples=50)
@given(members, members, held)
def test_old_cases_never_move(old: list[int], new: list[int], classes: list[set[str]]) -> None:
    everyone, groups, present = task(old + new, classes)
    ids = list(groups)
    before = make_folds(everyone[: len(old)], 5, present)
    after = extend_folds(before, everyone[1:], present)  # the first one is gone
    assert all(fold[: len(kept)] == kept for fold, kept in zip(after.folds, before.folds, strict=True))
    assert sorted(id for fold in after.folds for id in fold) == ids
    assert leaks(after, everyone[1:]) == []
    assert extend_folds(after, everyone, present) == after


def test_new_cases_join_their_group_or_the_smallest_fold() -> None:
    folds = Folds(rule="r", folds=(("a", "b"), ("c",)))
    cases = cases_of("a", "b", "c", "d", "e", groups={"a": "p", "d": "p"})
    assert extend_folds(folds, cases).folds == (("a", "b", "d"), ("c", "e"))


def test_new_cases_join_the_fold_that_lacks_their_class() -> None:
    folds = Folds(rule="r", folds=(("a", "b"), ("c", "d")))
    classes = {"a": ["x"], "b": [], "c": [], "d": [], "e": ["x"], "f": []}
    assert extend_folds(folds, cases_of(*"abcdef"), classes).folds == (("a", "b", "f"), ("c", "d", "e"))


# -- one fold per site ------------------------------------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from("ABC"), st.integers(0, 9)), min_size=2, max_size=30))
def test_a_fold_per_site_trains_on_no_group_that_it_validates_on(pairs: list[tuple[str, int]]) -> None:
    ids = names(len(pairs))
    sites = {id: site for id, (site, _) in zip(ids, pairs, strict=True)}
    cases = cases_of(*ids, sites=sites, groups={id: f"g{n}" for id, (_, n) in zip(ids, pairs, strict=True)})
    if len(set(sites.values())) < 2:
        with pytest.raises(BadTask, match="all cases are of the site"):
            site_folds(cases)
        return
    made = site_folds(cases[::-1])
    assert made.names == tuple(sorted(set(sites.values()))) and made.rule.startswith("leave one site out: A, "[:20])
    assert [set(fold) for fold in made.folds] == [{id for id in ids if sites[id] == name} for name in made.names]
    assert leaks(made, cases) == []
    for fold in range(len(made.folds)):
        training, held_out = made.split(fold)
        groups = {case.group for case in cases if case.id in held_out}
        assert set(training) == {c.id for c in cases if c.id not in held_out and c.group not in groups}


def test_a_fold_per_site_wants_sites() -> None:
    with pytest.raises(BadTask, match=r"1 of 2 cases have no site \(b\).*--site REGEX"):
        site_folds(cases_of("a", "b", sites={"a": "A"}))


def test_a_new_site_is_a_new_fold_and_none_moves() -> None:
    sites = {"a": "A", "b": "B", "c": "C", "d": "A"}
    old = site_folds(cases_of("a", "b", sites=sites))
    new = extend_folds(old, cases_of("a", "b", "c", "d", sites=sites, groups={"a": "p", "c": "p"}))
    assert (new.folds, new.names, new.by) == ((("a", "d"), ("b",), ("c",)), ("A", "B", "C"), "site")
    assert new.split(2) == (("d", "b"), ("c",)) and new.split(0) == (("b",), ("a", "d"))
    with pytest.raises(BadTask, match=r"1 new cases have no site \(x\)"):
        extend_folds(old, cases_of("a", "b", "x", sites=sites))
