"""autoseg's own dataset.json: {"autoseg": 1, "dataset": {...}}, written by `autoseg add`."""

from __future__ import annotations

import json
from pathlib import Path

from autoseg.errors import BadTask
from autoseg.layouts.common import Description, duplicates, field_of, missing
from autoseg.records import Dataset, Fault, parse

VERSION = 1


def dump(dataset: Dataset) -> str:
    """The text of a dataset.json that `read` reads back."""
    fields = {"autoseg": VERSION, "dataset": json.loads(dataset.model_dump_json())}
    return json.dumps(fields, indent=1, ensure_ascii=False) + "\n"


def read(folder: Path, description: Description) -> tuple[Dataset, tuple[Fault, ...]]:
    """The dataset as it was written, and its missing files."""
    where = str(folder / "dataset.json")
    if description["autoseg"] != VERSION:
        raise BadTask(
            f"autoseg is {json.dumps(description['autoseg'])[:80]}",
            where=where,
            expected=str(VERSION),
            remedy="update autoseg or make the task again",
        )
    text = json.dumps(field_of(description, "dataset", dict, where))
    dataset = parse(Dataset, text, where, BadTask)
    if not dataset.cases:
        raise BadTask("there are no cases", where=where, expected="at least one")
    if twice := duplicates(case.id for case in dataset.cases):
        raise BadTask(f"two cases are named {twice[0]!r}", where=where, remedy="make the task again")
    return dataset, tuple(missing(folder, dataset.cases))
