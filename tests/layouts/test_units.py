"""What belongs together, and which folds tear it apart."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from autoseg.layouts.units import leaks, listed, noun, summary, units_of
from autoseg.records import CaseFiles, Folds


def case(id: str, group: str | None = None, site: str | None = None, image: str = "") -> CaseFiles:
    return CaseFiles(id=id, images=(image or f"{id}.png",), group=group, site=site)


def test_ties_chain_over_groups_images_and_blocks() -> None:
    cases = [case("d"), case("c", image="b.png"), case("b", "p"), case("a", "p")]
    assert units_of(cases) == [("a", "b", "c"), ("d",)]
    assert units_of(cases, {"a": "0,0", "d": "0,0"}) == [("a", "b", "c", "d")]


def test_a_shared_channel_ties_nothing() -> None:
    cases = [CaseFiles(id=id, images=(f"{id}.nii", "atlas.nii")) for id in "ab"]
    assert units_of(cases) == [("a",), ("b",)]


def test_units_are_sorted_by_their_groups() -> None:
    assert units_of([case("a", "z"), case("b"), case("c", "a")]) == [("c",), ("b",), ("a",)]


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=20))
def test_units_are_the_connected_parts(pairs: list[tuple[int, int]]) -> None:
    cases = [case(f"c{n:02d}", f"g{group}", image=f"{image}.png") for n, (group, image) in enumerate(pairs)]
    expected: list[set[str]] = []
    for one in cases:
        near = {o.id for o in cases if o.group == one.group or o.images == one.images}
        touched = [part for part in expected if part & near]
        expected = [part for part in expected if not part & near] + [near.union(*touched)]
    assert sorted(units_of(cases)) == sorted(tuple(sorted(part)) for part in expected)


def test_leaks_are_units_in_training_and_validation() -> None:
    cases = [case("a", "p"), case("b", "p"), case("c")]
    torn = Folds(rule="", folds=(("a",), ("b", "c")))
    assert leaks(torn, cases) == [("a", "b")]
    assert leaks(torn.model_copy(update={"apart": (("b",), ("a",))}), cases) == []
    assert leaks(Folds(rule="", folds=(("a", "b"), ("c", "gone"))), cases) == []


def test_groups_and_sites_are_told() -> None:
    cases = [case("a", "p", "A"), case("b", "p", "B"), case("c", "q", "B"), case("d", None, "B"), case("e", "r", "C")]
    assert summary(cases) == "3 groups: p (2), q (1), r (1); 1 cases without a group; 3 sites: B (3), A (1), C (1)"
    assert summary([case("a")]) == "" and noun([case("a")]) == "cases" and noun(cases) == "groups"
    assert listed(list("abcd")) == "a, b, c …" and listed(["a"]) == "a"
