"""Columns of tables: the cell of every case, whatever the table was written by."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.errors import BadUsage
from autoseg.layouts.columns import column_of


@pytest.fixture
def table(tmp_path: Path) -> Path:
    file = tmp_path / "cases.csv"
    file.write_text("age,case,patient,site\n40,a_1,p1,A\n40,a_2,p1,A\n50,b_1,,B\n60,other,p9,B\n")
    return file


IDS = ["a_1", "a_2", "b_1"]


def test_a_column_is_read_by_case(table: Path) -> None:
    assert column_of(f"{table}:patient", IDS, "--groups") == ["p1", "p1", None]
    assert column_of(f"{table}:site", IDS[::-1], "--sites") == ["B", "A", "A"]
    assert column_of(f"{table}:case", IDS, "--groups") == IDS
    assert column_of(f"{table}:site:case", IDS, "--sites") == ["A", "A", "B"]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_tables_of_every_make(tmp_path: Path, encoding: str, delimiter: str, end: str) -> None:
    lines = ["", delimiter.join(["case", "löcation"]), delimiter.join([" a_1 ", '" x,;y "']), "", ""]
    lines[3] = delimiter.join(["a_2", "z"])
    (tmp_path / "t: 1.csv").write_bytes(end.join(lines).encode(encoding))
    assert column_of(f"{tmp_path}/t: 1.csv:löcation", IDS[:2], "--groups") == ["x,;y", "z"]


def test_files_name_their_cases(tmp_path: Path) -> None:
    file = tmp_path / "files.csv"
    file.write_text("nr,patient,image\n1,p,imagesTr/a_1_0000.nii.gz\n1,p,imagesTr/a_1_0001.nii.gz\n2,q,c\\a_2.tif\n")
    assert column_of(f"{file}:patient", IDS[:2], "--groups") == ["p", "q"]


cells = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=8)


@given(st.lists(cells, min_size=1, max_size=8))
def test_any_cell_comes_back(tmp_path_factory: pytest.TempPathFactory, values: list[str]) -> None:
    import csv

    file = tmp_path_factory.mktemp("t") / "t.csv"
    with file.open("w", encoding="utf-8", newline="") as stream:
        csv.writer(stream).writerows([["case", "group"], *([f"c{n}", value] for n, value in enumerate(values))])
    assert column_of(f"{file}:group", [f"c{n}" for n in range(len(values))], "--groups") == values


@pytest.mark.parametrize(
    ("text", "column", "message"),
    [
        ("", "g", "holds no rows"),
        ("case,g\n", "g", "holds no rows"),
        ("case,g\na_1,1\n", "", r"names no column; expected FILE\.csv:COLUMN"),
        ("case,g\na_1,1\n", "g:case:x", "names no column"),
        ("case,group\na_1,1\n", "goup", r"no column 'goup' \(did you mean group\?\); expected one of case, group"),
        ("case,g,g\na_1,1,2\n", "g", "has 2 columns named 'g'"),
        ("case,g\na_1,1\na_2,2\n", "g:g", r"no row for 3 of 3 cases .* in column 'g'"),
        ("case,g\na_1,1\na_1,2\n", "g", "the case 'a_1' has the g '1' and in line 3 '2'; expected one value per case"),
        ("case,g\na_1,1\na_2\n", "g", "line 3 has 1 cells, the first line 2"),
        ("case,g\na_1,1\n", "g", r"no row for 2 of 3 cases \(a_2, b_1\) in column 'case'.*has an empty cell"),
        ("case,g\nA-1,1\n", "g", r"no row for 3 of 3 cases \(a_1, a_2, b_1\)"),
        ('case,g\na_1,"1\n', "g", "is no CSV"),
        (b"\xff\xfe\x00", "g", "cannot be read: .*in UTF-8"),
        ("case\0,g\na_1,1\n", "g", "--groups"),
    ],
)
def test_tables_that_cannot_be_used(tmp_path: Path, text: str | bytes, column: str, message: str) -> None:
    file = tmp_path / "t.csv"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(BadUsage, match=message) as problem:
        column_of(f"{file}:{column}" if column else str(file), IDS, "--groups")
    assert str(problem.value).startswith("--groups")


def test_no_such_table(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match=r"there is no file '.*none.csv'; expected FILE\.csv:COLUMN"):
        column_of(f"{tmp_path}/none.csv:group", IDS, "--groups")
    with pytest.raises(BadUsage, match="there is no file"):
        column_of(f"{tmp_path}:group", IDS, "--groups")
