"""From the files of a case to arrays, and between label values and class indices."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import BadData
from autoseg.image import IGNORE, Array, Case, Image
from autoseg.parts import READERS
from autoseg.readers import Reader
from autoseg.readers.colours import MANY, spelled
from autoseg.readers.raster import Raster
from autoseg.records import REFERENCE, CaseFiles, Question


def reader_of(question: Question) -> Reader:
    """The reader of the task's images."""
    reader: Reader = READERS.build(question.reader)
    return reader


def read_label(file: Path, question: Question) -> Image:
    """The label of a file in the task's values. Raises: BadData when it is unreadable."""
    reader = reader_of(question)
    if question.colours and isinstance(reader, Raster):
        with reader.open_label(file, question.colours) as label:
            return label.whole()
    return reader.read_label(file)


def read_image(files: list[Path], question: Question, reader: str | None = None) -> Image:
    """The image of a case. Raises: BadData when it is unreadable or has not the task's channels.

    Args:
        reader: the name of the reader of these files, where it is not the task's.
    """
    made: Reader = READERS.build(reader or question.reader)
    image = made.read(files)
    require_channels(image.channels, files, question)
    return image


def require_channels(found: int, files: list[Path], question: Question) -> None:
    """Raises: BadData when that is not the number of the task's channels."""
    if found != len(question.channels):
        names = ", ".join(channel.name for channel in question.channels)
        raise BadData(
            f"has {found} channels",
            where=" + ".join(map(str, files)),
            expected=f"{len(question.channels)} ({names})",
        )


def colours_of(label: Path) -> dict[str, int]:
    """The pixels of the colours of a label, most frequent first, as many as may be a code of classes."""
    colours = Raster().colours(label)
    return colours if len(colours) <= MANY else {}


def load(folder: Path, files: CaseFiles, question: Question) -> Case:
    """The case with the labels of its raters. Raises: BadData when something cannot be read or does not fit."""
    image = read_image([folder / name for name in files.images], question)
    if files.label is None:
        return Case(files.id, image)
    labels = {rater: _label(folder / file, image, question) for rater, file in files.labels.items()}
    numbered = {question.raters.index(rater): label for rater, label in labels.items() if rater in question.raters}
    (first, label), *others = numbered.items() or [(0, labels[next(iter(labels))])]
    return Case(files.id, image, label, first, dict(others))


def _label(file: Path, image: Image, question: Question) -> Array:
    label: Array = read_label(file, question).array[0]
    if label.shape != image.shape:
        raise BadData(f"has shape {label.shape}", where=str(file), expected=f"that of its image, {image.shape}")
    return label


def content_hash(folder: Path, files: CaseFiles) -> str:
    """SHA-256 over the contents of all files of the case, in order. Unreadable files count as empty."""
    total = hashlib.sha256()
    for rater in files.labels:
        if rater != REFERENCE:
            total.update(f"{rater}\0".encode())
    for name in (*files.images, *files.labels.values()):
        total.update(name.encode())
        try:
            with (folder / name).open("rb") as opened:
                while block := opened.read(1 << 20):
                    total.update(block)
        except OSError:
            continue
    return total.hexdigest()


def counted(label: Array) -> dict[float, int]:
    """The values in a label with their voxel counts."""
    if _is_small(label):
        counts = np.bincount(label.ravel())
        values: Array = np.flatnonzero(counts)
        counts = counts[values]
    else:
        values, counts = np.unique(label, return_counts=True)
    return {float(value): int(count) for value, count in zip(values.tolist(), counts, strict=True)}


def undeclared(counts: dict[float, int], question: Question) -> dict[float, int]:
    """Those of the `counted` values that the task does not declare, most frequent first."""
    known = {*question.labels.values(), *question.merged, question.ignore}
    strange = {value: count for value, count in counts.items() if value not in known}
    return dict(sorted(strange.items(), key=lambda item: -item[1]))


def index_of(question: Question) -> dict[int, int]:
    """The class index of every value that a label may hold, those that are merged among them."""
    indices = {value: question.classes.index(name) for name, value in question.labels.items()}
    return indices | {value: indices[target] for value, target in question.merged.items()}


def to_indices(
    label: Array, question: Question, valid: NDArray[np.bool_] | None = None, where: str = ""
) -> NDArray[np.uint8]:
    """Class indices (*S): IGNORE where the label has the ignore value or the image is not valid.

    Args:
        where: what an error names: the label's file or case.
    Raises: BadData when the label holds a value that is not declared.
    """
    out, strange = _looked_up(label, question) if _is_small(label) else _compared(label, question)
    if strange.size:
        shown = ", ".join(spelled(value) for value in strange[:5].tolist())
        raise BadData(
            f"label holds values that are not declared: [{shown}]", where=where, expected=f"{dict(question.labels)}"
        )
    if valid is not None:
        out[~valid] = IGNORE
    return out


def _is_small(label: Array) -> bool:
    """Whether a table can hold an entry for every value of the label's dtype."""
    return label.dtype.kind == "u" and label.dtype.itemsize <= 2


def _looked_up(label: Array, question: Question) -> tuple[NDArray[np.uint8], Array]:
    """Class indices of a label of few possible values, and the values that are not declared."""
    table, known = np.full(256**label.dtype.itemsize, IGNORE, np.uint8), set(index_of(question))
    for value, index in index_of(question).items():
        if 0 <= value < len(table):
            table[value] = index
    if question.ignore is not None:
        known.add(question.ignore)
    met = np.flatnonzero(np.bincount(label.ravel(), minlength=1))
    return table[label], met[~np.isin(met, [*known])]


def _compared(label: Array, question: Question) -> tuple[NDArray[np.uint8], Array]:
    """As `_looked_up` of a label of any dtype."""
    out = np.full(label.shape, IGNORE, np.uint8)
    done = np.zeros(label.shape, bool)
    for value, index in index_of(question).items():
        hit = label == value
        out[hit] = index
        done |= hit
    if question.ignore is not None:
        done |= label == question.ignore
    return out, np.unique(label[~done])


def to_values(indices: NDArray[np.uint8], question: Question) -> Array:
    """The label values of class indices, in the smallest of uint8, int16, uint16 and int32 that holds them all."""
    values = np.array([question.labels[name] for name in question.classes])
    for kind in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= values.min() and values.max() <= np.iinfo(kind).max:
            out: Array = values.astype(kind)[indices]
            return out
    raise BadData(f"label values {values.min()}..{values.max()} do not fit 32 bits")
