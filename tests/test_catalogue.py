"""The list of all parts says of each what it is, where it comes from, and what may be asked of it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import get_args

import pytest

from autoseg.catalogue import entries
from autoseg.errors import BadUsage
from autoseg.parts import BLOCKS, INSERTS, TABLES
from autoseg.plugins import load_files, load_installed
from autoseg.records import Part, Place

PLUGIN = '''
from autoseg.parts import INSERTS
from torch import nn

@INSERTS.add("leak")
class Leak(nn.Module):
    """Leaks (Doe 2024). It has a second sentence.

    And a paragraph.
    """
    places = ("skip",)

    def __init__(self, channels: int, size, slope: float, name: "str | None" = None, edges=(1, 2), **rest):
        super().__init__()

@INSERTS.add("bare")
class Bare(nn.Module):
    def __init__(self, channels):
        super().__init__()
'''


@pytest.fixture
def leak(tmp_path: Path) -> None:
    """The insert `leak` of the plug-in my_leak.py is in its table, and `bare`, which says nothing of itself."""
    file = tmp_path / "my_leak.py"
    file.write_text(PLUGIN)
    load_files([file])


def test_every_part_is_listed_once_kind_by_kind_and_says_what_it_is() -> None:
    found = entries()
    assert [(e.kind, e.name) for e in found] == [(table.kind, name) for table in TABLES.values() for name in table]
    assert all(e.what and "\n" not in e.what and e.doc.split()[0] == e.what.split()[0] for e in found)
    assert {e.source for e in found} == {"built-in"}


@pytest.mark.parametrize("title", list(TABLES))
def test_the_context_of_a_kind_is_no_option(title: str) -> None:
    table = TABLES[title]
    context = {word.split(":")[0].strip() for word in table.contract[1 : table.contract.index(")")].split(",")}
    assert all(re.fullmatch(r"\*\*options|\w*", word) for word in context)
    found = entries(kind=table.kind)
    assert found and all(option.name not in context for entry in found for option in entry.options)


@pytest.mark.parametrize("block", ["plain", "separable"])
def test_the_options_are_those_that_a_plan_may_give_with_their_defaults(block: str) -> None:
    (entry,) = entries(block, "block")
    options = {option.name: json.loads(option.default or "null") for option in entry.options}
    assert options
    context = {"dims": 2, "channels_in": 2, "channels_out": 4, "kernel": (3, 3), "stride": (1, 1)}
    norm = Part(name="instance")
    plain = BLOCKS.build(block, **context, norm=norm)
    same = BLOCKS.build(Part(name=block, options=options), **context, norm=norm)
    assert str(plain) == str(same)


@pytest.mark.usefixtures("leak")
def test_of_a_plugin_its_file_its_docstring_its_options_and_its_places_are_told() -> None:
    (entry,) = entries("leak")
    assert (entry.kind, entry.source, entry.places) == ("insert", "my_leak.py", ("skip",))
    assert entry.what == "Leaks (Doe 2024)." and entry.doc.endswith("second sentence.\n\nAnd a paragraph.")
    assert [(option.name, option.type, option.default) for option in entry.options] == [
        ("slope", "float", None), ("name", "str | None", "null"), ("edges", "", "[1, 2]")
    ]  # fmt: skip
    assert [option.text for option in entry.options] == ["slope", "name=null", "edges=[1, 2]"]
    assert entry.contract == INSERTS.contract


@pytest.mark.usefixtures("leak")
def test_what_says_nothing_of_itself_does_not_speak_with_the_words_of_its_base() -> None:
    (entry,) = entries("bare")
    assert entry.doc == entry.what == ""
    assert entry.places == tuple(place for place in get_args(Place) if place != "join")


def test_the_part_of_an_installed_package_comes_from_it(install: Callable[..., Path]) -> None:
    install("my-leak", {"my_leak.py": PLUGIN}, "my_leak")
    load_installed(pytest.fail)
    assert entries("leak")[0].source == "my-leak==1.2"


def test_a_name_may_be_one_of_several_kinds() -> None:
    assert [entry.kind for entry in entries("linear")] == ["resampler", "upsampling"]
    assert [entry.kind for entry in entries("linear", "upsampling")] == ["upsampling"]
    assert entries(kind="insert") == entries(kind="inserts") == [e for e in entries() if e.kind == "insert"]
    assert {place for entry in entries(kind="fusion") for place in entry.places} == {"join"}
    assert not any(entry.places for entry in entries() if entry.kind not in ("insert", "fusion"))


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("cban", None, r"no part is called 'cban' \(did you mean cbam"),
        ("cbam", "loss", "no loss is called 'cbam'"),
        (None, "inset", r"no kind of part is called 'inset' \(did you mean insert\?\); expected one of reader,"),
    ],
)
def test_what_there_is_not_is_told_with_what_looks_like_it(name: str | None, kind: str | None, message: str) -> None:
    with pytest.raises(BadUsage, match=message):
        entries(name, kind)
