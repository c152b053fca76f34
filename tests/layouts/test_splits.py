"""nnU-Net's splits_final.json: read as it is, refused where it leaks."""

from __future__ import annotations

import json

import pytest

from autoseg.errors import BadTask
from autoseg.layouts import extend_folds, read_splits
from autoseg.layouts.units import leaks
from autoseg.records import CaseFiles


def cases_of(*ids: str, groups: dict[str, str] | None = None) -> list[CaseFiles]:
    return [CaseFiles(id=id, images=(f"{id}.png",), group=(groups or {}).get(id)) for id in ids]


def test_splits_of_nnunet_are_read() -> None:
    cases = cases_of("a", "b", "c", "d")
    splits = [{"train": ["b", "c"], "val": ["a"]}, {"train": ["a", "c"], "val": ["b"]}]
    with pytest.raises(BadTask, match=r"does not name 1 of the task's 4 cases \('d'\).*--force-splits"):
        read_splits(json.dumps(splits), cases)
    folds = read_splits(json.dumps(splits), cases, force=True)
    assert folds.folds == (("a", "d"), ("b",), ("c",))
    assert "1 cases that no fold" in folds.rule and "does not name" in folds.rule
    train, held_out = folds.split(1)
    assert set(train) == {"a", "c", "d"} and held_out == ("b",)


LEAK = '[{"train": ["b"], "val": ["a"]}, {"train": ["a"], "val": ["b"]}]'


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ("{", "not valid JSON"),
        ("{}", "no list"),
        ("[]", "no list"),
        ("[3]", r"splits\[0\]: is no fold"),
        ('[{"train": ["a"], "val": []}]', "is no fold"),
        ('[{"train": ["a"], "val": ["z"]}]', "no case 'z'"),
        ('[{"train": ["y", "a"], "val": ["z"]}]', r"no case 'y' \(2 of 3 names are unknown\)"),
        ('[{"train": ["b"], "val": ["a"]}, {"train": ["b"], "val": ["a"]}]', "both validate on 'a'"),
        ('[{"train": ["b", "a"], "val": ["a"]}]', "fold 0 trains on 'a' and validates on it"),
        ('[{"train": ["b"], "val": ["a"]}, {"train": [], "val": ["b"]}]', "fold 1 trains on 0"),
        (LEAK, "of group 'p'.*--force-splits"),
        ('[{"train": ["b"], "val": ["a"]}]', "of group 'p'.*--force-splits"),
    ],
)
def test_splits_that_cannot_be_used(splits: str, message: str) -> None:
    with pytest.raises(BadTask, match=message):
        read_splits(splits, cases_of("a", "b", groups={"a": "p", "b": "p"}))


def test_a_leak_can_be_forced_and_nothing_else_can() -> None:
    cases = cases_of("a", "b", "c", groups={"a": "p", "b": "p"})
    forced = read_splits(LEAK, cases, force=True)
    assert forced.folds[:2] in ((("a", "c"), ("b",)), (("a",), ("b", "c"))) and leaks(forced, cases) == [("a", "b")]
    assert "forced, though 1 groups are trained on and validated on at once" in forced.rule
    assert "forced" not in read_splits(LEAK, cases_of("a", "b"), force=True).rule
    with pytest.raises(BadTask, match="both validate"):
        read_splits('[{"train": ["b"], "val": ["a"]}, {"train": ["b"], "val": ["a"]}]', cases, force=True)


def test_splits_that_are_read_are_extended_as_others() -> None:
    folds = read_splits(LEAK, cases_of("a", "b"))
    after = extend_folds(folds, cases_of("a", "b", "c", groups={"b": "q", "c": "q"}))
    assert after.folds == (("a",), ("b", "c")) and after.by == "splits"
