"""The list of a folder knows by contents what is done, whatever happened in between."""

from __future__ import annotations

from pathlib import Path

import pytest

from autoseg.pipeline.ledger import Ledger, content_of
from autoseg.records import Made


@pytest.fixture
def made(tmp_path: Path) -> Made:
    (tmp_path / "a.png").write_bytes(b"label")
    return Made(case="a", inputs="in", way="way", outputs={"a.png": content_of([tmp_path / "a.png"])}, notes=("odd",))


def test_what_was_added_stands_in_the_next_run(tmp_path: Path, made: Made) -> None:
    Ledger(tmp_path).add(made)
    assert Ledger(tmp_path).stands("a", "in", "way") == made


def test_other_contents_another_way_or_an_output_that_changed_do_not_stand(tmp_path: Path, made: Made) -> None:
    Ledger(tmp_path).add(made)
    ledger = Ledger(tmp_path)
    assert (
        ledger.stands("a", "other", "way")
        is ledger.stands("a", "in", "other")
        is ledger.stands("b", "in", "way")
        is None
    )
    (tmp_path / "a.png").write_bytes(b"labe")
    assert ledger.stands("a", "in", "way") is None
    (tmp_path / "a.png").unlink()
    assert ledger.stands("a", "in", "way") is None


def test_a_fault_does_not_stand_and_the_last_line_counts(tmp_path: Path, made: Made) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(made)
    ledger.add(Made(case="a", fault="cut short"))
    assert ledger.stands("a", "in", "way") is None is Ledger(tmp_path).stands("a", "in", "way")
    ledger.add(made)
    assert Ledger(tmp_path).stands("a", "in", "way") == made


@pytest.mark.parametrize("left", [b'{"case": "b", "inp', b"\xff\xfe garbage", b'{"case": 3}'])
def test_half_a_line_is_cut_off_and_the_next_one_is_whole(tmp_path: Path, made: Made, left: bytes) -> None:
    ledger = Ledger(tmp_path)
    ledger.add(made)
    with ledger.file.open("ab") as opened:
        opened.write(left)
    again = Ledger(tmp_path)
    again.add(made.model_copy(update={"case": "c"}))
    assert again.file.read_bytes().count(b"\n") == 2
    assert all(Ledger(tmp_path).stands(case, "in", "way") for case in "ac")


def test_parts_read_each_others_lists_and_write_their_own(tmp_path: Path, made: Made) -> None:
    one, two = Ledger(tmp_path, "1_of_2"), Ledger(tmp_path, "2_of_2")
    one.add(made)
    assert two.file != one.file and not two.file.exists()
    assert Ledger(tmp_path, "2_of_2").stands("a", "in", "way") == made


def test_content_of_files_is_of_their_order_and_borders(tmp_path: Path) -> None:
    for name, content in (("a", b"12"), ("b", b"3"), ("c", b"1"), ("d", b"23")):
        (tmp_path / name).write_bytes(content)
    a, b, c, d = (tmp_path / name for name in "abcd")
    assert len({content_of(files) for files in ([a, b], [b, a], [c, d], [a])}) == 4
    assert content_of([a, tmp_path / "none"]) == ""
