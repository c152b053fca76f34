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
from autoseg.records import CaseFiles, Question


def reader_of(question: Question) -> Reader:
    """The reader of the task's images."""
    reader: Reader = READERS.build(question.reader)
    return reader


def read_image(files: list[Path], question: Question) -> Image:
    """The image of a case. Raises: BadData when it is unreadable or has not the task's channels."""
    image = reader_of(question).read(files)
    if image.channels != len(question.channels):
        names = ", ".join(channel.name for channel in question.channels)
        raise BadData(
            f"has {image.channels} channels",
            where=" + ".join(map(str, files)),
            expected=f"{len(question.channels)} ({names})",
        )
    return image


def load(folder: Path, files: CaseFiles, question: Question) -> Case:
    """The case with its first rater's label. Raises: BadData when something cannot be read or does not fit."""
    image = read_image([folder / name for name in files.images], question)
    if files.label is None:
        return Case(files.id, image)
    label = reader_of(question).read_label(folder / files.label).array[0]
    if label.shape != image.shape:
        raise BadData(
            f"has shape {label.shape}",
            where=str(folder / files.label),
            expected=f"that of its image, {image.shape}",
        )
    return Case(files.id, image, label)


def content_hash(folder: Path, files: CaseFiles) -> str:
    """SHA-256 over the contents of all files of the case, in order. Unreadable files count as empty."""
    total = hashlib.sha256()
    for name in (*files.images, *files.labels.values()):
        total.update(name.encode())
        try:
            with (folder / name).open("rb") as opened:
                while block := opened.read(1 << 20):
                    total.update(block)
        except OSError:
            continue
    return total.hexdigest()


def undeclared(label: Array, question: Question) -> dict[float, int]:
    """Values in the label that the task does not declare, with their voxel counts, most frequent first."""
    known = [*question.labels.values(), *question.merged]
    if question.ignore is not None:
        known.append(question.ignore)
    values, counts = np.unique(label, return_counts=True)
    strange = {float(v): int(n) for v, n in zip(values, counts, strict=True) if not np.isin(v, known)}
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
    out = np.full(label.shape, IGNORE, np.uint8)
    done = np.zeros(label.shape, bool)
    for value, index in index_of(question).items():
        hit = label == value
        out[hit] = index
        done |= hit
    if question.ignore is not None:
        done |= label == question.ignore
    if not done.all():
        strange = np.unique(label[~done])[:5].tolist()
        raise BadData(
            f"label holds values that are not declared: {strange}", where=where, expected=f"{dict(question.labels)}"
        )
    if valid is not None:
        out[~valid] = IGNORE
    return out


def to_values(indices: NDArray[np.uint8], question: Question) -> Array:
    """The label values of class indices, in the smallest of uint8, int16, uint16 and int32 that holds them all."""
    values = np.array([question.labels[name] for name in question.classes])
    for kind in (np.uint8, np.int16, np.uint16, np.int32):
        if np.iinfo(kind).min <= values.min() and values.max() <= np.iinfo(kind).max:
            out: Array = values.astype(kind)[indices]
            return out
    raise BadData(f"label values {values.min()}..{values.max()} do not fit 32 bits")
