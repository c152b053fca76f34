"""Which files of a folder are the images to predict."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import BadData, BadUsage
from autoseg.layouts.common import split_channel
from autoseg.parts import READERS
from autoseg.readers import ending_of, endings, is_litter, stem_of
from autoseg.readers.dicom_series import Series, find_series, is_dicom
from autoseg.records import Question

VOLUMES = ("nifti", "itk", "dicom")  # readers that give the same array for the same volume


@dataclass(frozen=True)
class Job:
    """One image to predict.

    Attributes:
        stem: the name of the output without its ending.
        files: all that `reader` reads as its channels, in order.
        ending: that of the output.
        notes: what is to be said of the image.
    """

    stem: str
    files: tuple[Path, ...]
    reader: str
    ending: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Jobs:
    """What a folder holds: images, what is wrong with those that cannot be predicted, and what was left out.

    Faults are kept by the stem of the image.
    """

    jobs: tuple[Job, ...]
    faults: Mapping[str, str]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Found:
    """One file, or one series: a whole image or one of its channels. `place` is what errors call it."""

    name: str
    files: tuple[Path, ...]
    reader: str
    ending: str
    place: str
    notes: tuple[str, ...] = ()
    fault: str = ""


def inputs(source: Path, question: Question) -> Jobs:
    """The images of a file, a folder, or a DICOM series or tree of them.

    Volumes may come in any mixture of formats, as may pictures. An image is one file with all channels, or one file per
    channel, told by the suffixes _0000, _0001 … or by the channels' names (_T1, _FLAIR, in capitals or small letters).

    Raises: BadUsage when there is nothing to predict, or two inputs would give one output.
    """
    family = VOLUMES if question.reader in VOLUMES else (question.reader,)
    known = {ending: reader for ending, reader in endings().items() if reader in family}
    notes: tuple[str, ...] = ()
    if source.is_dir():
        found = list(_files(source, known))
        if "dicom" in family:
            more, notes = _series(source)
            found += more
    elif source.is_file():
        found = [_file(source, known)]
        near = _grouped(list(_files(source.parent, known)), question) if len(question.channels) > 1 else []
        own = [group for group in near if any(source in one.files for one in group[1].values())]
        if own:  # one channel of an image stands for all
            return _as_jobs(own, question, source, notes)
    else:
        raise BadUsage("no such file or folder", where=str(source))
    if not found:
        kinds = f"files that end in {' '.join(known)}" + (", or DICOM series" if "dicom" in family else "")
        raise BadUsage("; ".join(["holds no image", *notes]), where=str(source), expected=kinds)
    return _as_jobs(_grouped(found, question), question, source, notes)


def _files(folder: Path, known: Mapping[str, str]) -> Iterator[_Found]:
    """The images in a folder, not below it, but for slices of DICOM series."""
    for file in sorted(folder.iterdir()):
        ending = ending_of(file.name)
        if not is_litter(file.name) and known.get(ending, "dicom") != "dicom" and file.is_file():
            yield _Found(stem_of(file.name), (file,), known[ending], ending, file.name)


def _file(file: Path, known: Mapping[str, str]) -> _Found:
    ending = ending_of(file.name)
    if ending in known:
        return _Found(stem_of(file.name), (file,), known[ending], ending, file.name)
    if "dicom" in known.values() and is_dicom(file):
        return _Found(file.name, (file,), "dicom", ".dcm", file.name)
    raise BadUsage("is no image of this task", where=str(file), expected=f"a file that ends in {' '.join(known)}")


def _series(folder: Path) -> tuple[list[_Found], tuple[str, ...]]:
    """The DICOM series of a tree, named by where they lie in it; what is left out, said."""
    every = find_series(folder, [ending for ending in endings() if ending != ".dcm"])
    kept = {key: series for key, series in every.items() if not series.left_out}
    found = []
    for key, series in kept.items():
        beside = {other: one for other, one in kept.items() if one.folder == series.folder}
        name, place = _name(folder, key, beside), _place(folder, series)
        found.append(_Found(name, series.files, "dicom", ".dcm", place, series.notes, series.fault))
    left = Counter(series.left_out for series in every.values() if series.left_out)
    first = {series.left_out: _place(folder, series) for series in reversed(every.values())}
    notes = [f"left out: {what} ({first[what]}{f' and {n - 1} more' if n > 1 else ''})" for what, n in left.items()]
    return sorted(found, key=lambda one: one.name), tuple(notes)


def _place(folder: Path, series: Series) -> str:
    return series.folder.relative_to(folder).as_posix()


def _name(folder: Path, key: str, beside: Mapping[str, Series]) -> str:
    """The folders that lead to a series; where several lie in one, its number, or a hash where that tells too little.

    Nothing else of a header goes into the name of a file.
    """
    series = beside[key]
    name = "_".join(series.folder.relative_to(folder).parts) or folder.resolve().name
    if len(beside) == 1:
        return name
    numbers = [one.number for one in beside.values()]
    if len(set(numbers)) == len(numbers) and all(number.isdecimal() for number in numbers):
        return f"{name}_series{series.number}"
    return f"{name}_{hashlib.sha256(key.encode()).hexdigest()[:8]}"


# -- channels ------------------------------------------------------------------------------------------

Group = tuple[str, dict[int, _Found], int]  # stem, what is found by channel, how many there should be


def _grouped(found: Sequence[_Found], question: Question) -> list[Group]:
    """What is found as images: the channels of one together, everything else by itself."""
    numbered: dict[str, list[tuple[int, _Found]]] = {}
    named: dict[str, list[tuple[int, _Found]]] = {}
    plain = []
    for one in found:
        stem, number = split_channel(one.name)
        said = None if number is not None else _channel_in(one.name, question)
        if number is not None:
            numbered.setdefault(stem, []).append((number, one))
        elif said is not None:
            named.setdefault(said[0], []).append((said[1], one))
        else:
            plain.append(one)
    alone = {one.name for one in plain}
    groups: list[Group] = [(one.name, {0: one}, 1) for one in plain]
    for stem, family in numbered.items():
        count = question.files
        together = {number for number, _ in family} <= set(range(count)) and (count > 1 or stem not in alone)
        groups += _joined(stem, family, count if together else 0)
    for stem, family in named.items():
        count = len(question.channels)
        whole = {channel for channel, _ in family} == set(range(count))
        groups += _joined(stem, family, count if whole or question.files == count else 0)
    return sorted(groups, key=lambda group: group[0])


def _joined(stem: str, family: Sequence[tuple[int, _Found]], count: int) -> list[Group]:
    """The family as one image of so many channels; each for itself where that is 0, or two are the same channel."""
    members = dict(family)
    if count and len(members) == len(family):
        return [(stem, dict(sorted(members.items())), count)]
    return [(stem if count else one.name, {0: one}, 1) for _, one in family]


def _channel_in(name: str, question: Question) -> tuple[str, int] | None:
    """The stem and the channel of a name that ends in the name of one; the longest such name counts."""
    best: tuple[str, int] | None = None
    if len(question.channels) < 2:
        return None
    for number, channel in enumerate(question.channels):
        for spelled in {channel.name.lower().replace(" ", other) for other in (" ", "_", "-")}:
            stem = name[: -len(spelled) - 1]
            if name.lower() == f"{stem.lower()}_{spelled}" and stem and (best is None or len(stem) < len(best[0])):
                best = stem, number
    return best


def _as_jobs(groups: Sequence[Group], question: Question, source: Path, notes: tuple[str, ...]) -> Jobs:
    """Raises: BadUsage for two images of one name."""
    jobs, faults, places = [], dict[str, str](), dict[str, str]()
    for stem, members, count in groups:
        found = list(members.values())
        place = found[0].place
        if stem in places:
            raise BadUsage(
                f"two images are called {stem!r}: {places[stem]} and {place}", where=str(source),
                remedy="rename one of them, or predict them into different folders",
            )  # fmt: skip
        places[stem] = place
        if fault := _fault(stem, members, count, question):
            faults[_shown(stem)] = fault
            continue
        ending = READERS.build(found[0].reader).label_ending(found[0].ending)
        files = tuple(file for one in found for file in one.files)
        told = tuple(note for one in found for note in one.notes)
        jobs.append(Job(stem, files, found[0].reader, ending, told))
    return Jobs(tuple(jobs), faults, notes)


def _shown(name: str) -> str:
    """A file's name as text: bytes that are no UTF-8 as question marks."""
    return name.encode("utf-8", "replace").decode()


def _fault(stem: str, members: Mapping[int, _Found], count: int, question: Question) -> str:
    """Why what was found is no image; "" where it is one."""
    found = list(members.values())
    if stem != _shown(stem):
        what = "its name is no text in UTF-8, so that nothing can be named after it"
        return str(BadData(what, where=_shown(str(found[0].files[0])), remedy="rename it"))
    if broken := next((one.fault for one in found if one.fault), ""):
        return broken
    if lacking := sorted(set(range(count)) - set(members)):
        by_name = count == len(question.channels)
        names = [question.channels[number].name if by_name else f"{number:04d}" for number in lacking]
        beside = found[0].files[0]
        wanted = f"a file {stem}_{lacking[0]:04d}" + (f" or {stem}_{names[0]}" if by_name else "") + " beside it"
        return str(BadData(f"lacks the channel {', '.join(names)}", where=str(beside), expected=wanted))
    if len({one.reader for one in found}) > 1:
        what = f"its channels are of different formats: {', '.join(one.place for one in found)}"
        return str(BadData(what, where=stem, remedy="convert them to one"))
    return ""
