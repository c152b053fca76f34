"""What all layouts share: dataset.json, channels, labels, case names, missing files and orphans."""

from __future__ import annotations

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NoReturn

from autoseg.errors import AutosegError, BadData, BadTask
from autoseg.layouts import regions
from autoseg.layouts.kinds import kind_of, kinds_of
from autoseg.readers import ending_of, is_litter, reader_for, stem_of
from autoseg.records import CaseFiles, Channel, Dataset, Fault, parse

__all__ = ["kind_of", "kinds_of"]

CHANNEL_SUFFIX = re.compile(r"_(\d{4})$")
Description = dict[str, Any]


def read_json(file: Path) -> Description:
    """The object in a JSON file. Raises: BadTask when it is missing, no JSON, no object, or holds NaN."""
    if not file.is_file():
        raise BadTask(
            "no such file",
            where=str(file),
            remedy="name a task's folder, or make a task with: autoseg add NAME --images GLOB --labels GLOB",
        )
    try:
        content = json.loads(file.read_text(encoding="utf-8-sig"), parse_constant=_refuse)
    except (ValueError, RecursionError) as problem:
        raise BadTask(f"not valid JSON: {problem}", where=str(file), remedy="correct the file") from problem
    if not isinstance(content, dict):
        raise BadTask(f"holds a {type(content).__name__}", where=str(file), expected="a JSON object {...}")
    return content


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no number")


def field_of(description: Description, name: str, kind: type, where: str) -> Any:
    """A field of the expected type. Raises: BadTask when it is missing or of another type."""
    if name not in description:
        raise BadTask(f"the field {name!r} is missing", where=where, expected=TYPES[kind], remedy="add it")
    value = description[name]
    if not isinstance(value, kind):
        raise BadTask(f"{name} is {json.dumps(value)[:80]}", where=where, expected=TYPES[kind])
    return value


TYPES: dict[type, str] = {dict: "an object {...}", list: "a list [...]", str: "a text"}


def tidy(path: object, where: str) -> str:
    """A listed path as posix text without './'. Raises: BadTask for what is no path."""
    if not isinstance(path, str) or not path.strip():
        raise BadTask(f"{json.dumps(path)[:80]} is no path", where=where, expected="a text like ./imagesTr/a.nii.gz")
    return PurePosixPath(path).as_posix()


def split_channel(stem: str) -> tuple[str, int | None]:
    """A file stem as (case, channel): ('a', 1) for 'a_0001', ('a', None) for 'a'."""
    found = CHANNEL_SUFFIX.search(stem)
    return (stem[: found.start()], int(found[1])) if found else (stem, None)


def complete(files: Mapping[int, str], width: int) -> list[str]:
    """The file names by channel; the name that a missing one would have stands in its place."""
    name = next(iter(files.values()))
    stem = stem_of(name)
    start = split_channel(stem)[0]
    return [files.get(channel, f"{start}_{channel:04d}{name[len(stem) :]}") for channel in range(width)]


def channels_of(description: Description, where: str) -> list[Channel]:
    """The channels by `channel_names` or `modality`, as an object by number or a list.

    A channel whose name in `channel_names` says nothing takes its kind from `modality`.
    """
    names = _channel_names(description, "channel_names", where)
    modalities = _channel_names(description, "modality", where)
    if not (names or modalities):
        raise BadTask("the field 'channel_names' is missing", where=where, expected='{"0": "MRI", ...}')
    kinds = kinds_of(names or modalities)
    if len(modalities) == len(names):
        also = kinds_of(modalities)
        kinds = [other if kind == "other" else kind for kind, other in zip(kinds, also, strict=True)]
    return [Channel(name=name, kind=kind) for name, kind in zip(names or modalities, kinds, strict=True)]


def _channel_names(description: Description, field: str, where: str) -> list[str]:
    value = description.get(field, [])
    if isinstance(value, dict):
        numbers = sorted((key for key in value if key.isdecimal()), key=int)
        if [int(number) for number in numbers] != list(range(len(value))):
            raise BadTask(f"{field} has the keys {list(value)}", where=where, expected="0, 1, 2, ...")
        value = [value[number] for number in numbers]
    if not isinstance(value, list) or not all(isinstance(name, str) and name for name in value):
        raise BadTask(f"{field} is {json.dumps(value)[:80]}", where=where, expected='{"0": "MRI", ...}')
    return value


def labels_of(description: Description, where: str) -> dict[str, Any]:
    """The fields `labels` and `ignore` by `labels`, written in either direction.

    Where an entry has several values, every entry but background and `ignore` is a region: see `regions`.
    Raises: BadTask for what is no whole number.
    """
    entries = field_of(description, "labels", dict, where)
    pairs = [(str(name), value) for name, value in entries.items()]
    if pairs and all(is_number(key) and isinstance(value, str) and not is_number(value) for key, value in pairs):
        pairs = [(value, key) for key, value in pairs]
    if twice := [name for name, count in Counter(name for name, _ in pairs).items() if count > 1]:
        raise BadTask(f"two labels are named {twice[0]!r}", where=where, remedy="give every value its own name")
    ignore = next((name for name, _ in pairs if name.lower() == "ignore"), None)
    ignored = next((_value(name, value, where) for name, value in pairs if name == ignore), None)
    values = {name: _values(name, value, where) for name, value in pairs if name != ignore}
    if all(len(entry) == 1 for entry in values.values()):
        return {"labels": {name: value for name, (value,) in values.items()}, "ignore": ignored}
    return {**regions.fields_of(values, _written(description, values, where)), "ignore": ignored}


def _written(description: Description, entries: Mapping[str, tuple[int, ...]], where: str) -> list[int]:
    """The value that each region writes by `regions_class_order`, else by the regions' order."""
    declared = regions.regions_of(entries)
    order = description.get("regions_class_order")
    if order is None:
        return regions.written_by_order(declared)
    if not isinstance(order, list) or len(order) != len(declared):
        expected = f"a list of {len(declared)} values, one for each of {', '.join(declared)}"
        raise BadTask(f"regions_class_order is {json.dumps(order)[:80]}", where=where, expected=expected)
    place = f"{where}: regions_class_order"
    return [_value(name, value, place) for name, value in zip(declared, order, strict=True)]


def is_number(text: str) -> bool:
    """Whether the text is a whole number."""
    return re.fullmatch(r"\s*-?\d+\s*", text) is not None


def _values(name: str, value: object, where: str) -> tuple[int, ...]:
    several = value if isinstance(value, list) and value else [value]
    return tuple(_value(name, one, where) for one in several)


def _value(name: str, value: object, where: str) -> int:
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, str) and is_number(value):
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise BadTask(f"label {name!r} is {json.dumps(value)}", where=where, expected="a whole number")
    return value


def grouped(cases: Sequence[CaseFiles], pattern: object, where: str) -> tuple[list[CaseFiles], list[Fault]]:
    """The cases with `group` set by a regex on their names: its first group, or the whole match.

    A case that has a group keeps it; one without a match gets none, which is a fault that is not fatal.
    """
    if pattern is None:
        return list(cases), []
    matches = match_all(pattern, [case.id for case in cases], f"{where}: group", BadTask)
    done, faults = [], []
    for case, match in zip(cases, matches, strict=True):
        done.append(case if case.group is not None else case.model_copy(update={"group": match}))
        if done[-1].group is None:
            detail = f"the case's name does not match {pattern!r}: it is a group of its own"
            faults.append(Fault(case=case.id, fault="no group", detail=detail, fatal=False))
    return done, faults


def match_all(pattern: object, names: Sequence[str], where: str, error: type[AutosegError]) -> list[str | None]:
    """What a regex finds in every name. Raises: `error` when it is none, or finds nothing at all."""
    try:
        regex = re.compile(pattern) if isinstance(pattern, str) else None
    except re.error as problem:
        raise error(f"{pattern!r} is no regular expression: {problem}", where=where) from problem
    if regex is None:
        raise error(f"{json.dumps(pattern)[:80]} is no text", where=where, expected="a regular expression")
    found = [regex.search(name) for name in names]
    texts = [(match[1] if regex.groups else match[0]) if match else None for match in found]
    if names and not any(texts):
        raise error(f"{pattern!r} matches no case's name", where=where, expected=f"a match in {names[0]!r}")
    return [text or None for text in texts]


def assemble(
    folder: Path, description: Description, cases: Sequence[CaseFiles], faults: Iterable[Fault]
) -> tuple[Dataset, tuple[Fault, ...]]:
    """The dataset of these cases, and all faults, those of missing files among them."""
    where = str(folder / "dataset.json")
    if not cases:
        raise BadTask("there are no training cases", where=where, expected="at least one image with its label")
    if twice := duplicates(case.id for case in cases):
        raise BadTask(f"two cases are named {twice[0]!r}", where=where, remedy="give each image its own file name")
    cases, ungrouped = grouped(cases, description.get("group"), where)
    fields = {
        "name": folder.resolve().name,
        "reader": one_reader(cases, where, BadTask),
        "channels": [channel.model_dump() for channel in channels_of(description, where)],
        **labels_of(description, where),
        "cases": [case.model_dump() for case in cases],
    }
    dataset = parse(Dataset, json.dumps(fields), where, BadTask)
    return dataset, (*missing(folder, cases), *ungrouped, *faults)


def duplicates(names: Iterable[str]) -> list[str]:
    """The names that occur more than once, in order."""
    return sorted(name for name, count in Counter(names).items() if count > 1)


def one_reader(cases: Sequence[CaseFiles], where: str, error: type[AutosegError]) -> str:
    """The reader of all files of all cases. Raises: `error` when there is none, or they need several."""
    first: dict[str, str] = {}
    for case in cases:
        for path in (*case.images, *case.labels.values()):
            try:
                first.setdefault(reader_for(path), path)
            except BadData as problem:
                raise error(str(problem), where=where) from problem
    if len(first) > 1:
        files = " and ".join(first.values())
        raise error(f"{files} need different readers", where=where, remedy="convert one kind to the other")
    return next(iter(first))


def missing(folder: Path, cases: Sequence[CaseFiles]) -> list[Fault]:
    """A fatal fault for every file of a case that does not exist."""
    return [
        Fault(case=case.id, fault="missing file", detail=f"{path} does not exist", fatal=True)
        for case in cases
        for path in (*case.images, *case.labels.values())
        if not (folder / path).is_file()
    ]


def orphans(folder: Path, cases: Sequence[CaseFiles], known: Iterable[str] = ()) -> list[Fault]:
    """Images and labels that lie beside those of the cases and belong to none. `known` are no orphans."""
    images = {path for case in cases for path in case.images}
    labels = {path for case in cases for path in case.labels.values()}
    used = {os.path.normpath(folder / path) for path in (*images, *labels, *known)}
    faults, seen = [], set(used)
    for what, paths in (("image", images), ("label", labels)):
        for place in sorted({(folder / path).parent for path in paths}):
            for name in readable(place):
                full = os.path.normpath(place / name)
                if full not in seen:
                    seen.add(full)
                    faults.append(orphan(what, full, stem_of(name)))
    return faults


def orphan(what: str, path: str, case: str) -> Fault:
    """The fault of an image without a label, or the reverse."""
    detail = f"{path} belongs to no case"
    return Fault(case=case, fault=f"orphan {what}", detail=detail, fatal=False)


def readable(folder: Path) -> list[str]:
    """The sorted names of the files in a folder that some reader knows, without litter."""
    if not folder.is_dir():
        return []
    return sorted(
        entry.name
        for entry in os.scandir(folder)
        if entry.is_file() and ending_of(entry.name) and not is_litter(entry.name)
    )
