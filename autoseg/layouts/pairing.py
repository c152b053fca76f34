"""Which of the files that a user names belong together: channels of one image, an image and its label."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

from autoseg.errors import BadUsage
from autoseg.layouts.common import duplicates, split_channel
from autoseg.readers import stem_of

Words = tuple[str, ...]


def cases_of(images: Sequence[Path], labels: int) -> dict[str, list[Path]]:
    """Case name -> its files by channel.

    `_0000`, `_0001`, ... are channels when every image has the same ones and that brings the number of
    images nearer to the number of `labels`; else they are part of the name.
    """
    apart = {name: [file] for name, file in zip(names_of(images), images, strict=True)}
    found: dict[str, dict[int, list[Path]]] = defaultdict(lambda: defaultdict(list))
    for name, [file] in apart.items():
        case, channel = split_channel(name)
        if channel is None:
            return apart
        found[case][channel].append(file)
    channels = {tuple(sorted(files)) for files in found.values()}
    regular = channels == {tuple(range(len(next(iter(channels), ()))))}
    if not regular or abs(len(found) - labels) > abs(len(apart) - labels):
        return apart
    return {case: [files[channel][0] for channel in sorted(files)] for case, files in found.items()}


def names_of(files: Sequence[Path]) -> list[str]:
    """A name for every file: its stem, led by the folders that tell it from the others of that stem.

    Raises: BadUsage for two files that only their endings tell apart.
    """
    stems = [stem_of(file.name) for file in files]
    if not duplicates(stems):
        return stems
    parts = [(*file.parent.parts, stem) for file, stem in zip(files, stems, strict=True)]
    shared = _shared([place[:-1] for place in parts])
    names = ["_".join(place[shared:]) for place in parts]
    if twice := duplicates(names):
        same = [file for file, name in zip(files, names, strict=True) if name == twice[0]]
        text = " and ".join(str(file) for file in same[:2])
        raise BadUsage(f"{text} have one name", where="--images", remedy="choose one of them")
    return names


def pair(images: Sequence[str], labels: Sequence[str]) -> dict[str, str]:
    """Image name -> label name, one to one. Names of either side that are left over are orphans.

    Equal names are pairs. Where there are none, what all images share and what all labels share is left
    out (img_012 and mask_012), then numbers alone are compared (a-7 and 007_mask); orphans are then allowed
    on one side only, because a guess that leaves both sides with some is a bad guess.

    Raises: BadUsage with examples when there is no unambiguous pairing.
    """
    if equal := {name: name for name in sorted(set(images) & set(labels))}:
        return equal
    if len(images) == len(labels) == 1:
        return {images[0]: labels[0]}
    for key in (_outer, _varying, _numbers):
        if found := _matched(images, labels, key):
            return found
    raise BadUsage(
        f"cannot tell which label belongs to which image: images {_some(images)}; labels {_some(labels)}",
        where="--labels",
        expected="names that are equal, or differ in one common part",
        remedy="rename the labels to their images' names",
    )


def _matched(images: Sequence[str], labels: Sequence[str], key: Callable[[list[Words]], list[Words]]) -> dict[str, str]:
    """The pairs whose keys are equal, or nothing when keys repeat or both sides keep some to themselves."""
    left = key([_words(name) for name in images])
    right = key([_words(name) for name in labels])
    if () in left or () in right or max(Counter(left).values()) > 1 or max(Counter(right).values()) > 1:
        return {}
    if not (set(left) <= set(right) or set(right) <= set(left)):
        return {}
    by_key = dict(zip(right, labels, strict=True))
    return {image: by_key[words] for image, words in zip(images, left, strict=True) if words in by_key}


def _words(name: str) -> Words:
    """Runs of digits, without leading zeros, and runs of letters."""
    runs = re.findall(r"\d+|[^\W\d_]+", name.lower())
    return tuple(run.lstrip("0") or "0" if run.isdecimal() else run for run in runs)


def _outer(names: list[Words]) -> list[Words]:
    """The names without the words that all of them begin with and end with."""
    start = _shared(names)
    ends = [name[start:][::-1] for name in names]
    end = _shared(ends)
    return [name[end:][::-1] for name in ends]


def _shared(names: Sequence[Words]) -> int:
    """How many words all of them begin with."""
    columns = zip(*names, strict=False)
    return next((n for n, words in enumerate(columns) if len(set(words)) > 1), min(map(len, names), default=0))


def _varying(names: list[Words]) -> list[Words]:
    """The words at the places where the names differ; nothing for names of different lengths."""
    if len({len(name) for name in names}) != 1:
        return [()] * len(names)
    places = [place for place in range(len(names[0])) if len({name[place] for name in names}) > 1]
    return [tuple(name[place] for place in places) for name in names]


def _numbers(names: list[Words]) -> list[Words]:
    """The numbers at the places where they differ."""
    return _varying([tuple(word for word in name if word.isdecimal()) for name in names])


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
