"""The text form of parts and of where they stand."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from autoseg.errors import BadPlan
from autoseg.nets.places import PLACES, parse
from autoseg.parts import INSERTS, JOINS
from autoseg.records import Insert, Part
from autoseg.spelling import spelled, terms

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)
OPTIONS = st.dictionaries(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,6}", fullmatch=True), JSON, max_size=3)
SLICES = st.tuples(*[st.none() | st.integers(-4, 4)] * 2)


@st.composite
def inserts(draw: st.DrawFn) -> Insert:
    place = draw(st.sampled_from(PLACES))
    name = draw(st.sampled_from(list(JOINS if place == "join" else INSERTS)))
    options = draw(OPTIONS)
    return Insert(part=Part(name=name, options=options), place=place, stages=draw(SLICES))


@settings(max_examples=60, deadline=None)
@given(st.from_regex(r"[A-Za-z_][A-Za-z0-9_]{0,8}", fullmatch=True), OPTIONS)
def test_a_part_is_what_its_text_spells(name: str, options: dict[str, Any]) -> None:
    part = Part(name=name, options=options)
    assert spelled(part.text) == part
    assert spelled(f"  {part.text} ") == part


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("cbam", {}),
        ("cbam()", {}),
        ("cbam ( )", {}),
        ("cbam(kernel=3,reduction=8)", {"kernel": 3, "reduction": 8}),
        ("cbam( kernel = 3 , reduction = 8 , )", {"kernel": 3, "reduction": 8}),
        ("cbam(join=max)", {"join": "max"}),
        ('cbam(join="a b, c=1")', {"join": "a b, c=1"}),
        ("cbam(a=-0.5,b=1e+3,c=true,d=null)", {"a": -0.5, "b": 1000.0, "c": True, "d": None}),
        ('cbam(a=[1, [2, 3]],b={"c": 4})', {"a": [1, [2, 3]], "b": {"c": 4}}),
        ("cbam(a=layers.group)", {"a": "layers.group"}),
    ],
)
def test_options_are_json_or_words(text: str, options: dict[str, Any]) -> None:
    assert spelled(text) == Part(name="cbam", options=options)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "is no part"),
        ("3d", "is no part"),
        ("cbam(kernel=3", "is no part"),
        ("cbam kernel=3", "is no part"),
        ("cbam(3)", "'3' in 'cbam[(]3[)]' is no option"),
        ("cbam(kernel:3)", "is no option; expected option=value"),
        ("cbam(kernel=)", "is no value; expected JSON or a word"),
        ("cbam(kernel=-x)", "is no value"),
        ("cbam(kernel=1e400)", "a number without end"),
        ("cbam(kernel=-Infinity)", "is no value"),
        ("cbam(kernel=3,kernel=5)", "gives kernel twice"),
        ("cbam(kernel=3 4)", "'4' in .* is in the way; expected a comma"),
    ],
)
def test_what_is_no_part_is_told_with_its_place(text: str, said: str) -> None:
    with pytest.raises(BadPlan, match=f"^--loss: .*{said}"):
        spelled(text, "--loss")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.from_regex(r"[a-z]{1,3}([(][a-z+=]{0,4}[)]|\[[0-9+:]{0,3}\])?", fullmatch=True), min_size=1))
def test_terms_are_cut_at_the_plus_signs_outside_brackets(pieces: list[str]) -> None:
    assert terms(" + ".join(pieces)) == pieces
    assert terms("+".join(pieces)) == pieces


@pytest.mark.parametrize(
    ("text", "stages"),
    [
        ("", (None, None)),
        ("[:]", (None, None)),
        ("[0:2]", (0, 2)),
        ("[1:]", (1, None)),
        ("[:-1]", (None, -1)),
        ("[-2:]", (-2, None)),
        ("[ -3 : -1 ]", (-3, -1)),
        ("[0]", (0, 1)),
        ("[12]", (12, 13)),
        ("[-2]", (-2, -1)),
        ("[-1]", (-1, None)),
    ],
)
def test_brackets_name_stages(text: str, stages: tuple[int | None, int | None]) -> None:
    assert parse(f"cbam(kernel=3)@skip{text}") == (
        Insert(part=Part(name="cbam", options={"kernel": 3}), place="skip", stages=stages),
    )


@settings(max_examples=40, deadline=None)
@given(st.lists(inserts(), max_size=3))
@example([Insert(part=Part(name="cbam"), place="skip", stages=(-1, 0))])
def test_inserts_are_what_their_texts_joined_by_plus_say(those: list[Insert]) -> None:
    assert parse("+".join(insert.text for insert in those)) == tuple(those)
    assert parse(" + ".join(insert.text for insert in those)) == tuple(those)


@pytest.mark.parametrize("word", [")+", "(", "]"])
def test_brackets_within_quotes_are_no_brackets(word: str) -> None:
    insert = Insert(part=Part(name="cbam", options={"a": word}), place="skip")
    assert parse(f"{insert.text}+{insert.text}") == (insert, insert)


@pytest.mark.parametrize("text", ["", "  ", "\n"])
def test_nothing_is_no_insert(text: str) -> None:
    assert parse(text) == ()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("cbam", r"--insert: 'cbam' is no insert; expected PART@PLACE or PART@PLACE\[0:2\]"),
        ("@skip", "'@skip' is no insert"),
        ("cbam@", "'cbam@' is no insert"),
        ("cbam@skip+", "'' is no insert"),
        ("cbam@skip[0:2:2]", "is no insert"),
        ("cbam@skip[1]x", "is no insert"),
        ("cbam@skip[a]", "is no insert"),
        ("cbam@skip[]", r"names no stages; expected \[1\] or \[0:2\]"),
        ("cbam@skip[1 2]", "names no stages"),
        ("cbam(kernel)@skip", "--insert: 'kernel' in .* is no option"),
        ("cbam@skp", r"cbam@skp: unknown place 'skp' \(did you mean skip\?\); expected one of encoder, skip, join"),
        ("cbma@skip", r"unknown insert 'cbma' \(did you mean cbam.*expected one of .*coord.*--plugin"),
        ("atention_gate@join", r"unknown fusion 'atention_gate' \(did you mean attention_gate\?\)"),
        ("attention_gate@skip", "attention_gate does not stand at skip; expected join"),
        ("cbam@join", "cbam does not stand at join; expected one of encoder, skip"),
        ("se@skip+cbam@heat", r"unknown place 'heat' \(did you mean head\?\)"),
    ],
)
def test_what_is_no_insert_is_told(text: str, said: str) -> None:
    with pytest.raises(BadPlan, match=said):
        parse(text)


@pytest.mark.parametrize("text", ["cbam@skip[-]", "cbam@skip[-:2]", "cbam@skip[0:-]"])
def test_a_lone_minus_is_no_stage(text: str) -> None:
    with pytest.raises(BadPlan):
        parse(text)
