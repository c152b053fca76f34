"""What a table says of every case: the column of a CSV file."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path, PurePosixPath

from autoseg.errors import BadUsage, nearest
from autoseg.layouts.common import split_channel
from autoseg.layouts.units import listed
from autoseg.readers import stem_of

FORM = "FILE.csv:COLUMN, or FILE.csv:COLUMN:CASES with the column that names the cases"
DELIMITERS = ",;\t|"
Row = dict[str, str]


def column_of(text: str, ids: Sequence[str], option: str) -> list[str | None]:
    """The cell of every case in a column of a CSV file; None where the cell is empty.

    The cases are named by the third part of `text`, else by the column that names most of them; file names with
    folders, endings and channel numbers name their case too. Rows of other cases are passed over.

    Args:
        text: FILE.csv:COLUMN or FILE.csv:COLUMN:CASES.
        option: what an error names.
    Raises: BadUsage for a file that is no table, a column that it has not, a case without a row or with two values.
    """
    file, wanted = _parsed(text, option)
    header, rows = _table(file, option)
    for name in wanted:
        _require_column(name, header, file, option)
    naming = wanted[1] if len(wanted) > 1 else _naming(header, rows, ids, wanted[0])
    where, known = f"{option}: {file}", set(ids)
    cells: dict[str, str] = {}
    for number, row in rows:
        case, cell = _case(row[naming], known), row[wanted[0]]
        if case in known and cells.setdefault(case, cell) != cell:
            what = f"the case {case!r} has the {wanted[0]} {cells[case]!r} and in line {number} {cell!r}"
            raise BadUsage(what, where=where, expected="one value per case")
    if absent := [id for id in ids if id not in cells]:
        what = f"no row for {len(absent)} of {len(ids)} cases ({listed(absent)}) in column {naming!r}"
        what += "" if cells else nearest(absent[0], [row[naming] for _, row in rows])
        remedy = "add the rows; a case that stands alone has an empty cell"
        raise BadUsage(what, where=where, expected="a row per case", remedy=remedy)
    return [cells[id] or None for id in ids]


def _parsed(text: str, option: str) -> tuple[Path, list[str]]:
    """The file, the column and perhaps the column of the cases. The longest beginning that is a file is the file."""
    parts = text.split(":")
    for length in range(len(parts), 0, -1):
        file = Path(os.path.expanduser(":".join(parts[:length])))  # noqa: PTH111 - an unknown ~user is no file
        names = [name.strip() for name in parts[length:]]
        if file.is_file():
            if len(names) not in (1, 2) or not all(names):
                raise BadUsage(f"{text!r} names no column", where=option, expected=FORM)
            return file, names
    raise BadUsage(f"there is no file {parts[0]!r}", where=option, expected=FORM)


def _table(file: Path, option: str) -> tuple[list[str], list[tuple[int, Row]]]:
    """The column names, and the rows with the number of their line; cells are stripped, empty lines left out."""
    where, expected = f"{option}: {file}", "a CSV file with column names in its first line"
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as problem:
        raise BadUsage(f"cannot be read: {problem}", where=where, expected=f"{expected}, in UTF-8") from None
    first = next((line for line in text.splitlines() if line.strip()), "")
    reader = csv.reader(io.StringIO(text), delimiter=max(DELIMITERS, key=first.count), strict=True)
    try:
        lines = [(reader.line_num, [cell.strip() for cell in cells]) for cells in reader if any(map(str.strip, cells))]
    except csv.Error as problem:
        raise BadUsage(f"line {reader.line_num} is no CSV: {problem}", where=where, expected=expected) from None
    if len(lines) < 2:
        raise BadUsage("holds no rows", where=where, expected=expected)
    (_, header), *rest = lines
    for number, cells in rest:
        if len(cells) != len(header):
            what = f"line {number} has {len(cells)} cells, the first line {len(header)}"
            raise BadUsage(what, where=where, expected=expected)
    return header, [(number, dict(zip(header, cells, strict=True))) for number, cells in rest]


def _require_column(name: str, header: Sequence[str], file: Path, option: str) -> None:
    count = Counter(header)[name]
    if count != 1:
        what = f"has {count} columns named {name!r}" if count else f"has no column {name!r}{nearest(name, header)}"
        raise BadUsage(what, where=f"{option}: {file}", expected=f"one of {', '.join(header)}")


def _naming(header: Sequence[str], rows: Sequence[tuple[int, Row]], ids: Sequence[str], wanted: str) -> str:
    """The column whose cells name most of the cases, the first of equals."""
    known = set(ids)
    others = [name for name in header if name != wanted]
    return max([*others, wanted], key=lambda name: len(known & {_case(row[name], known) for _, row in rows}))


def _case(cell: str, known: Collection[str]) -> str:
    """The case that a cell names: by itself, as a file, or as the file of a channel."""
    stem = stem_of(PurePosixPath(cell.replace("\\", "/")).name)
    return next((name for name in (cell, stem, split_channel(stem)[0]) if name in known), cell)
