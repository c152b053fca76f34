"""What a run has predicted of its validation cases: of which files, and whether it still lies there."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from autoseg.errors import BadFile
from autoseg.readers import ending_of
from autoseg.records import CaseFiles, Predicted, Question
from autoseg.steps import cases as casework
from autoseg.store import RunFolder


def label_file(folder: RunFolder, files: CaseFiles, question: Question) -> Path:
    """Where the prediction of a validation case lies."""
    return folder.predictions / (files.id + casework.reader_of(question).label_ending(ending_of(files.images[0])))


def hash_of(file: Path) -> str:
    """SHA-256 of the file's content; "" where it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def noted(folder: RunFolder) -> Predicted:
    """What is noted of the predictions; nothing where that is not there or cannot be read."""
    try:
        return folder.predicted() or Predicted()
    except BadFile:
        return Predicted()


def lacking(folder: RunFolder, wanted: Iterable[tuple[CaseFiles, str]], question: Question) -> list[str]:
    """Why predictions do not count, a sentence per case; each case comes with the hash of its files now.

    A prediction counts if it was made of these very files and lies there as it was written.
    """
    known, faults = noted(folder), []
    for files, content in wanted:
        file = label_file(folder, files, question)
        if not file.exists():
            faults.append(f"there is no prediction of {files.id}")
        elif files.id not in known.cases:
            faults.append(f"it is not known of which files {files.id} was predicted")
        elif known.cases[files.id] != content:
            faults.append(f"{files.id} has changed since it was predicted")
        elif known.labels.get(file.name) != hash_of(file):
            faults.append(f"the prediction of {files.id} is not as it was written")
    return faults


def content_of(folder: RunFolder) -> str:
    """A hash of all that a run predicted of its validation cases; "" where that is not noted."""
    labels = sorted(noted(folder).labels.items())
    total = hashlib.sha256()
    for name, content in labels:
        total.update(name.encode() + bytes.fromhex(content))
    return total.hexdigest()[:16] if labels else ""
