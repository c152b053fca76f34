"""The DICOM series of a folder tree."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from autoseg.errors import BadData
from autoseg.readers.dicom import read_slice
from autoseg.readers.dicom_slices import Slice, stacked

STORAGE = "1.2.840.10008.5.1.4.1.1."
NO_IMAGES = {  # kinds of DICOM files by the next part of their class
    "9": "waveforms", "11": "presentation states", "66": "segmentations or registrations", "67": "value mappings",
    "68": "surfaces", "88": "reports", "104": "documents", "481": "radiotherapy",
}  # fmt: skip
DIRECTORY = "1.2.840.10008.1.3.10"
MAGIC, META = 128, 4096  # where DICM stands; bytes in which the file's class does


@dataclass(frozen=True)
class Series:
    """A stack of slices that belong together.

    Attributes:
        files: by position along the normal of the slices.
        folder: where the first of them lies; `number` and `description` are the header's.
        notes: what is to be said of it.
        fault: why it cannot be read; "" where it can.
        left_out: why it is no image to work on; "" where it is one.
    """

    files: tuple[Path, ...]
    folder: Path
    number: str = ""
    description: str = ""
    notes: tuple[str, ...] = ()
    fault: str = ""
    left_out: str = ""


def is_dicom(file: Path) -> bool:
    """Whether a file says that it is DICOM, whatever its name. Raises: OSError."""
    with file.open("rb") as opened:
        return opened.read(MAGIC + 4)[MAGIC:] == b"DICM"


def find_series(folder: Path, other: Sequence[str] = ()) -> dict[str, Series]:
    """The series in a folder and all below it, by their UID; those that one UID mixes have a number after it.

    Series that are no images to work on are among them, and say so, as are those that cannot be read.

    Args:
        other: endings of files that are not looked into.
    """
    slices: dict[str, list[Slice]] = {}
    found: dict[str, Series] = {}
    broken: dict[Path, str] = {}
    for file in _files(folder, tuple(other)):
        kind = _kind(file)
        if kind == "":
            continue
        if kind in NO_IMAGES.values():
            key = f"{kind} in {file.parent}"
            files = (*(found[key].files if key in found else ()), file)
            found[key] = Series(files, file.parent, left_out=f"files that hold {kind} and no image")
            continue
        try:
            one = read_slice(file)
            slices.setdefault(one.uid or str(file.parent), []).append(one)
        except BadData as problem:
            broken.setdefault(file.parent, str(problem))
    found |= dict(_series(slices))
    return _without_localisers(_with_faults(found, broken))


def _files(folder: Path, other: tuple[str, ...]) -> Iterator[Path]:
    """All that may be DICOM, sorted, without hidden files and folders; links to folders are not followed."""
    for here, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and not name.lower().endswith(other):
                yield Path(here) / name


def _kind(file: Path) -> str:
    """ "image", a kind of NO_IMAGES, or "" for what is no DICOM."""
    if not file.is_file():  # a pipe would be waited for
        return ""
    try:
        with file.open("rb") as opened:
            start = opened.read(META)
    except OSError:
        return ""
    if start[MAGIC : MAGIC + 4] != b"DICM":
        return "image" if file.suffix.lower() == ".dcm" else ""
    of = _class(start)
    if of == DIRECTORY:
        return ""
    return NO_IMAGES.get(of.removeprefix(STORAGE).split(".")[0], "image") if of.startswith(STORAGE) else "image"


def _class(start: bytes) -> str:
    """The class of a DICOM file, element (0002,0002) of its first group, which is of one coding always."""
    at = start.find(b"\x02\x00\x02\x00UI", MAGIC + 4)
    if at < 0:
        return ""
    length = int.from_bytes(start[at + 6 : at + 8], "little")
    return start[at + 8 : at + 8 + length].decode("ascii", "replace").rstrip("\0 ")


def _series(slices: Mapping[str, Sequence[Slice]]) -> Iterator[tuple[str, Series]]:
    for uid, mixed in slices.items():
        groups: list[list[Slice]] = []
        for one in mixed:
            group = next((group for group in groups if group[0].is_like(one)), None)
            if group is None:
                groups.append([one])
            else:
                group.append(one)
        groups.sort(key=len, reverse=True)
        for number, group in enumerate(groups, 1):
            yield (uid if number == 1 else f"{uid}#{number}"), _one(group, number, len(groups))


def _one(group: Sequence[Slice], number: int, of: int) -> Series:
    first = group[0]
    files = tuple(one.file for one in group)
    series = Series(files, first.file.parent, first.number, first.description)
    if "LOCALIZER" in first.image_type.upper().split("\\") or (of > 1 and len(group) == 1):
        return replace(series, left_out="a localiser")
    try:
        stack = stacked(group)
    except BadData as problem:
        return replace(series, fault=str(problem))
    mixed = (f"stack {number} of {of} of a series that mixes sizes or orientations",) if of > 1 else ()
    return replace(series, files=stack.files, notes=(*mixed, *stack.notes))


def _with_faults(found: Mapping[str, Series], broken: Mapping[Path, str]) -> dict[str, Series]:
    """A file that cannot be read is a slice of what lies beside it, which is not whole without it."""
    out = dict(found)
    for folder, fault in broken.items():
        beside = [key for key, series in found.items() if series.folder == folder and not series.left_out]
        for key in beside:
            out[key] = replace(found[key], fault=fault)
        if not beside:
            out[str(folder)] = Series((), folder, fault=fault)
    return out


def _without_localisers(found: Mapping[str, Series]) -> dict[str, Series]:
    """Where there are stacks, a single slice is no image to work on."""
    stacks = any(len(series.files) > 1 and not series.left_out for series in found.values())
    return {
        key: replace(series, left_out="a single slice")
        if stacks and len(series.files) == 1 and not (series.left_out or series.fault)
        else series
        for key, series in found.items()
    }
