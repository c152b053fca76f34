"""The layout of nnU-Net v2: imagesTr/<case>_<channel><ending> and labelsTr/<case><ending>, no list."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path

from autoseg.errors import BadTask
from autoseg.layouts.common import (
    Description,
    assemble,
    channels_of,
    complete,
    duplicates,
    field_of,
    orphan,
    readable,
    split_channel,
    tidy,
)
from autoseg.readers import stem_of
from autoseg.records import REFERENCE, CaseFiles, Dataset, Fault

IMAGES, LABELS = "imagesTr", "labelsTr"


def read(folder: Path, description: Description) -> tuple[Dataset, tuple[Fault, ...]]:
    """The cases of the `dataset` field, else those that the two folders hold."""
    where = str(folder / "dataset.json")
    if "dataset" in description:
        return assemble(folder, description, _listed(description, where), ())
    images = _files(folder / IMAGES, description, "file_ending_images", where)
    labels = _by_stem(_files(folder / LABELS, description, "file_ending_labels", where), folder)
    cases, alone = _grouped(images, set(labels))
    count = len(channels_of(description, where))
    width = max((max(files) + 1 for files in cases.values()), default=1)
    if width > count:
        raise BadTask(f"{width} channels in {folder / IMAGES}", where=where, expected=f"{count} by channel_names")
    found = [
        CaseFiles(
            id=id,
            images=tuple(f"{IMAGES}/{name}" for name in complete(files, width)),
            labels={REFERENCE: f"{LABELS}/{labels[id]}"},
        )
        for id, files in sorted(cases.items())
    ]
    faults = [orphan("image", f"{IMAGES}/{name}", id) for id, name in alone]
    faults += [orphan("label", f"{LABELS}/{labels[id]}", id) for id in sorted(set(labels) - set(cases))]
    return assemble(folder, description, found, faults)


def _listed(description: Description, where: str) -> list[CaseFiles]:
    cases = []
    for id, entry in field_of(description, "dataset", dict, where).items():
        place = f"{where}: dataset.{id}"
        fields = entry if isinstance(entry, dict) else {}
        images, label = fields.get("images"), fields.get("label")
        if not isinstance(images, list) or not images or label is None:
            raise BadTask(f"is {json.dumps(entry)[:80]}", where=place, expected='{"images": [...], "label": ...}')
        paths = tuple(tidy(path, f"{place}.images") for path in images)
        cases.append(CaseFiles(id=id, images=paths, labels={REFERENCE: tidy(label, f"{place}.label")}))
    return cases


def _files(folder: Path, description: Description, field: str, where: str) -> list[str]:
    """The names of a folder's images, of the ending that the description asks for, if it does."""
    if not folder.is_dir():
        raise BadTask(f"no folder {folder}", where=where, expected="a list 'training', or imagesTr and labelsTr")
    names = readable(folder)
    ending = description.get(field, description.get("file_ending", ""))
    if not isinstance(ending, str):
        raise BadTask(f"file_ending is {json.dumps(ending)}", where=where, expected="a text like .nii.gz")
    fitting = [name for name in names if name.lower().endswith(ending.lower())]
    if not fitting:
        met = f"; {names[0]} is there" if names else ""
        raise BadTask(f"no {ending or 'image'} files in {folder}{met}", where=where, remedy="correct file_ending")
    return fitting


def _by_stem(names: list[str], folder: Path) -> dict[str, str]:
    if twice := duplicates(stem_of(name) for name in names):
        raise BadTask(f"two labels are named {twice[0]!r}", where=str(folder / LABELS), remedy="remove one of them")
    return {stem_of(name): name for name in names}


def _grouped(images: list[str], labels: set[str]) -> tuple[dict[str, dict[int, str]], list[tuple[str, str]]]:
    """(case -> channel -> file name, [(case, file name) without a label]).

    A file that is named as its label, without a suffix, holds all channels.
    """
    cases: dict[str, dict[int, str]] = defaultdict(dict)
    alone = []
    for name in images:
        stem = stem_of(name)
        id, channel = (stem, 0) if stem in labels else split_channel(stem)
        if id not in labels:
            alone.append((id, name))
        elif (channel or 0) in cases[id]:
            raise BadTask(f"{name} and {cases[id][channel or 0]} are one channel of one case", where=IMAGES)
        else:
            cases[id][channel or 0] = name
    return dict(cases), alone
