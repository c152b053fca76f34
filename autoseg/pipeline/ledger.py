"""The list of what was predicted into a folder: it makes a run that was killed go on, and is read by people too."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path

from autoseg.errors import BadFile
from autoseg.records import Made, parse
from autoseg.store import whole

NAME = "predicted"


class Ledger:
    """The lines of `predicted.jsonl`, or of the one of a part of the work, in the folder of the labels.

    A line is added when all files of a case are in their places. Lines that a kill cut short are passed over; of
    several of one case the last one counts. Those of other parts are read, never written.
    """

    def __init__(self, out: Path, part: str = "") -> None:
        self.out, self.file = out, out / (f"{NAME}_{part}.jsonl" if part else f"{NAME}.jsonl")
        out.mkdir(parents=True, exist_ok=True)
        self._known: dict[str, Made] = {}
        for file in (*sorted(out.glob(f"{NAME}*.jsonl")), self.file):
            self._known |= {one.case: one for one in _lines(file)}
        self._end_line()

    def stands(self, case: str, inputs: str, way: str) -> Made | None:
        """What was made of the case: of these contents, in this way, and no file of it has changed since; else None."""
        made = self._known.get(case)
        if made is None or made.fault or (made.inputs, made.way) != (inputs, way):
            return None
        intact = all(content_of([self.out / name]) == known for name, known in made.outputs.items())
        return made if intact and made.outputs else None

    def add(self, made: Made) -> None:
        """Writes a line."""
        self._known[made.case] = made
        with self.file.open("ab") as opened:
            opened.write(made.model_dump_json(exclude_defaults=True).encode() + b"\n")
            opened.flush()
            os.fsync(opened.fileno())

    def _end_line(self) -> None:
        """Cuts off half a line that a kill left."""
        if self.file.exists() and (content := self.file.read_bytes()) and not content.endswith(b"\n"):
            with whole(self.file) as temporary:
                temporary.write_bytes(content[: content.rfind(b"\n") + 1])


def _lines(file: Path) -> Iterable[Made]:
    if not file.exists():
        return
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        try:
            yield parse(Made, line, f"{file}, line {number}")
        except BadFile:
            continue


def content_of(files: Iterable[Path]) -> str:
    """SHA-256 over the contents of the files, in order; '' where one cannot be read."""
    total = hashlib.sha256()
    for file in files:
        try:
            with file.open("rb") as opened:
                while block := opened.read(1 << 20):
                    total.update(block)
        except OSError:
            return ""
        total.update(b"\0")
    return total.hexdigest()
