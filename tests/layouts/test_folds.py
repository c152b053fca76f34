"""Folds: nnU-Net's rule, whole groups, nobody moves."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import BadTask
from autoseg.layouts import extend_folds, make_folds, read_splits
from autoseg.records import CaseFiles, Folds


def cases_of(*ids: str, groups: dict[str, str] | None = None) -> list[CaseFiles]:
    return [CaseFiles(id=id, images=("a.png",), group=(groups or {}).get(id)) for id in ids]


@pytest.mark.parametrize(
    ("count", "expected"),  # scikit-learn 1.7: KFold(5, shuffle=True, random_state=12345)
    [
        (7, [[3, 6], [0, 4], [1], [5], [2]]),
        (12, [[0, 3, 8], [7, 10, 11], [6, 9], [1, 4], [2, 5]]),
    ],
)
def test_without_groups_the_folds_are_those_of_nnunet(count: int, expected: list[list[int]]) -> None:
    ids = [f"case_{number:02d}" for number in range(count)]
    folds = make_folds(cases_of(*ids[::-1]))
    assert folds.folds == tuple(tuple(ids[number] for number in fold) for fold in expected)
    train, held_out = folds.split(0)
    assert sorted((*train, *held_out)) == ids


members = st.lists(st.integers(0, 9), min_size=1, max_size=30)


@given(members, st.integers(2, 6))
def test_groups_never_cross_folds(numbers: list[int], count: int) -> None:
    ids = [f"c{place:02d}" for place in range(len(numbers))]
    groups = {id: f"g{number}" for id, number in zip(ids, numbers, strict=True)}
    folds = make_folds(cases_of(*ids, groups=groups), count)
    assert sorted(id for fold in folds.folds for id in fold) == ids
    homes = {(groups[id], fold) for fold, held_out in enumerate(folds.folds) for id in held_out}
    assert len(homes) == len(set(groups.values()))
    assert len(folds.folds) == min(count, len(set(groups.values())))


def test_few_groups() -> None:
    folds = make_folds(cases_of("a", "b", "c"))
    assert len(folds.folds) == 3 and "only 3 groups" in folds.rule
    folds = make_folds(cases_of("a", "b", groups={"a": "p", "b": "p"}))
    assert folds.folds == (("a", "b"),) and "only fold 'all'" in folds.rule


@given(members, members)
def test_old_cases_never_move(old: list[int], new: list[int]) -> None:
    ids = [f"c{place:02d}" for place in range(len(old) + len(new))]
    groups = {id: f"g{number}" for id, number in zip(ids, old + new, strict=True)}
    everyone = cases_of(*ids, groups=groups)
    before = make_folds(everyone[: len(old)])
    after = extend_folds(before, everyone[1:])  # the first one is gone
    assert all(fold[: len(kept)] == kept for fold, kept in zip(after.folds, before.folds, strict=True))
    assert sorted(id for fold in after.folds for id in fold) == ids
    homes = {(groups[id], fold) for fold, held_out in enumerate(after.folds) for id in held_out if id != ids[0]}
    assert len(homes) == len({groups[id] for id in ids[1:]})
    assert extend_folds(after, everyone) == after


def test_new_cases_join_their_group_or_the_smallest_fold() -> None:
    folds = Folds(rule="r", folds=(("a", "b"), ("c",)))
    cases = cases_of("a", "b", "c", "d", "e", groups={"a": "p", "d": "p"})
    assert extend_folds(folds, cases).folds == (("a", "b", "d"), ("c", "e"))


def test_splits_of_nnunet_are_read() -> None:
    cases = cases_of("a", "b", "c", "d")
    splits = [{"train": ["b", "c"], "val": ["a"]}, {"train": ["a", "c"], "val": ["b"]}]
    folds = read_splits(json.dumps(splits), cases)
    assert folds.folds == (("a", "d"), ("b",), ("c",))
    assert "1 cases that no fold" in folds.rule and "does not name" in folds.rule
    train, held_out = folds.split(1)
    assert set(train) == {"a", "c", "d"} and held_out == ("b",)


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "no list"),
        ("[]", "no list"),
        ("[3]", r"splits\[0\]: is no fold"),
        ('[{"train": ["a"], "val": []}]', "is no fold"),
        ('[{"train": ["a"], "val": ["z"]}]', "no case 'z'"),
        ('[{"train": ["b"], "val": ["a"]}, {"train": ["b"], "val": ["a"]}]', "both validate on 'a'"),
        ('[{"train": ["b"], "val": ["a"]}, {"train": [], "val": ["b"]}]', "fold 1 trains on 0"),
        ('[{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}]', "of group 'p'"),
    ],
)
def test_splits_that_cannot_be_used(splits: str, message: str) -> None:
    with pytest.raises(BadTask, match=message):
        read_splits(splits, cases_of("a", "b", groups={"a": "p", "b": "p"}))
