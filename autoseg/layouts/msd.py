"""The layout of the Medical Segmentation Decathlon: dataset.json lists every training pair."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from autoseg.errors import BadTask
from autoseg.layouts.common import (
    Description,
    assemble,
    channels_of,
    complete,
    duplicates,
    field_of,
    orphans,
    readable,
    split_channel,
    tidy,
)
from autoseg.readers import ending_of, is_litter, stem_of
from autoseg.records import REFERENCE, CaseFiles, Dataset, Fault


def read(folder: Path, description: Description) -> tuple[Dataset, tuple[Fault, ...]]:
    """The listed cases. An entry's image is a file, a list, or the stem of `_0000` files (nnU-Net v1)."""
    where = str(folder / "dataset.json")
    entries = field_of(description, "training", list, where)
    channels = len(channels_of(description, where))
    cases = [
        case
        for number, entry in enumerate(entries)
        if (case := _case(folder, entry, channels, f"{where}: training[{number}]")) is not None
    ]
    cases = _named(cases)
    return assemble(folder, description, cases, orphans(folder, cases, _tests(description)))


def _case(folder: Path, entry: object, channels: int, where: str) -> CaseFiles | None:
    """One entry as a case that is named after its first image's whole stem; None for litter."""
    if not isinstance(entry, dict):
        raise BadTask(f"is {json.dumps(entry)[:80]}", where=where, expected='{"image": ..., "label": ...}')
    if absent := {"image", "label"} - set(entry):
        raise BadTask(f"has no {min(absent)!r}", where=where, expected='{"image": ..., "label": ...}')
    image = entry["image"]
    listed = image if isinstance(image, list) else [image]
    if not listed:
        raise BadTask("names no image", where=where, expected='{"image": ..., "label": ...}')
    images = [tidy(path, f"{where}.image") for path in listed]
    label = entry["label"]
    drawn = label if isinstance(label, dict) and label else {REFERENCE: label}
    if "" in map(str.strip, drawn):
        raise BadTask("names a rater without a name", where=f"{where}.label", expected='{"ann": "./labelsTr/a.png"}')
    labels = {rater: tidy(path, f"{where}.label") for rater, path in drawn.items()}
    if any(is_litter(PurePosixPath(path).name) for path in (*images, *labels.values())):
        return None
    if not isinstance(image, list):
        images = _suffixed(folder, images[0], channels)
    extra = {key: entry[key] for key in ("group", "site") if entry.get(key) is not None}
    for key, value in extra.items():
        if isinstance(value, bool) or not isinstance(value, (str, int)):
            raise BadTask(f"is {json.dumps(value)[:80]}", where=f"{where}.{key}", expected="a text")
    texts = {key: str(value) for key, value in extra.items()}
    stem = stem_of(PurePosixPath(images[0]).name)
    return CaseFiles(id=stem, images=tuple(images), labels=labels, **texts)


def _suffixed(folder: Path, image: str, channels: int) -> list[str]:
    """The image, or where it does not exist the `<stem>_dddd` files that stand for it, by channel."""
    if (folder / image).is_file():
        return [image]
    path = PurePosixPath(image)
    wanted, ending = stem_of(path.name), ending_of(path.name)
    files: dict[int, str] = {}
    for name in readable(folder / path.parent):
        stem, channel = split_channel(stem_of(name))
        if stem == wanted and channel is not None and ending_of(name) == ending:
            files[channel] = name
    if not files:
        return [image]
    width = max(max(files) + 1, channels if len(files) > 1 else 1)
    return [str(path.parent / name) for name in complete(files, width)]


def _named(cases: Sequence[CaseFiles]) -> list[CaseFiles]:
    """The cases without the channel suffix in their names, unless four digits are what tells them apart."""
    short = [split_channel(case.id)[0] for case in cases]
    if duplicates(short):
        return list(cases)
    return [case.model_copy(update={"id": name}) for case, name in zip(cases, short, strict=True)]


def _tests(description: Description) -> list[str]:
    """The listed test images: they are no orphans."""
    listed = description.get("test", [])
    entries = listed if isinstance(listed, list) else []
    paths = [entry.get("image") if isinstance(entry, dict) else entry for entry in entries]
    return [path for path in paths if isinstance(path, str)]
