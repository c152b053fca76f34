"""Folds: plain ones keep their text, what is kept apart neither trains nor validates."""

from __future__ import annotations

import pytest

from autoseg.records import Folds


def test_plain_folds_are_written_as_they_always_were() -> None:
    text = '{"rule":"r","folds":[["a"],["b","c"]]}'
    plain = Folds.model_validate_json(text)
    assert (plain.by, plain.names, plain.apart) == ("groups", (), ()) and plain.model_dump_json() == text
    full = Folds(rule="r", folds=(("a",), ("b", "c")), by="site", names=("A", "B"), apart=((), ("a",)))
    assert Folds.model_validate_json(full.model_dump_json()) == full
    assert full.split(1) == ((), ("b", "c")) and full.split(0) == (("b", "c"), ("a",))
    assert full.split("all") == (("a", "b", "c"), ())


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"folds": (("a",), ("a", "b"))}, "'a' is validated on twice"),
        ({"names": ("A",)}, "want 2 entries"),
        ({"apart": ((), (), ())}, "want 2 entries"),
    ],
)
def test_folds_that_contradict_themselves(fields: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Folds.model_validate({"rule": "r", "folds": (("a",), ("b",)), **fields})
