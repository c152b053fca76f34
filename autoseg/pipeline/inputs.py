"""Which files of a folder are the images to predict."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from autoseg.errors import BadUsage
from autoseg.layouts.common import split_channel
from autoseg.readers import ending_of, is_litter, stem_of
from autoseg.records import Question
from autoseg.steps import cases as casework


def inputs(source: Path, question: Question) -> dict[str, list[Path]]:
    """Files per case: one with all channels, or one per channel with the suffixes _0000, _0001 ….

    Raises: BadUsage when there is nothing to predict or two inputs would give one output.
    """
    reader = casework.reader_of(question)
    known = " ".join(reader.endings)
    if source.is_file():
        files = [source]
        if ending_of(source.name) not in reader.endings:
            raise BadUsage("is no image of this task", where=str(source), expected=f"a file that ends in {known}")
    elif source.is_dir():
        files = [
            f
            for f in sorted(source.iterdir())
            if f.is_file() and not is_litter(f.name) and ending_of(f.name) in reader.endings
        ]
    else:
        raise BadUsage("no such file or folder", where=str(source))
    if not files:
        raise BadUsage("holds no image", where=str(source), expected=f"files that end in {known}")
    return _grouped(files, question.files)


def _grouped(files: Sequence[Path], per_case: int) -> dict[str, list[Path]]:
    """Files that are the channels 0000 … of one case together, where cases come so; every other file is a case."""
    families: dict[str, list[tuple[int | None, Path]]] = {}
    for file in files:
        stem, number = split_channel(stem_of(file.name))
        families.setdefault(stem, []).append((number, file))
    jobs: dict[str, list[Path]] = {}
    for stem, family in families.items():
        numbers = sorted(-1 if number is None else number for number, _ in family)
        whole_case = numbers in (list(range(per_case)), [0])
        members = [family] if whole_case else [[one] for one in family]
        for group in members:
            name = stem if whole_case else stem_of(group[0][1].name)
            if name in jobs:
                raise BadUsage(f"two images are called {name!r}", where=str(files[0].parent))
            jobs[name] = sorted(file for _, file in group)
    return jobs
