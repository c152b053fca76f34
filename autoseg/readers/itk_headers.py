"""What the headers of NRRD and MetaImage files say of where their voxels are, before anything follows them.

Both formats can name any file of the machine for the voxels. ITK would open it, so that a foreign header could have
private files read as an image. Only what lies in the header's own folder is let pass.
"""

from __future__ import annotations

import mmap
import re
import zlib
from dataclasses import dataclass
from pathlib import Path

from autoseg.errors import BadData

LARGEST = 1 << 20  # bytes of a NRRD header
RATIO = 1040  # deflate cannot shrink data further than this
AGAIN = "copy it again from its source"
NRRD_FILE = re.compile(rb"\s*data\s?file\s*:(.*)", re.IGNORECASE)
META_NUMBERS = re.compile(
    rb"^\s*(Offset|Origin|Position|TransformMatrix|Rotation|Orientation|Element\w+)[ \t]*[=:].*\b(nan|inf)",
    re.IGNORECASE | re.MULTILINE,
)
META_FILE = re.compile(rb"ElementDataFile[ \t]*[=:][ \t]*([^\r\n]*)")


@dataclass(frozen=True)
class Stored:
    """Where voxels are stored: from a byte of a file on, deflated or as they are.

    `start` is None where that is not known, which is left to ITK.
    """

    file: Path
    start: int | None
    deflated: bool

    def require(self, promised: int, header: Path) -> None:
        """Raises: BadData where fewer bytes are held than the header promises, or deflated ones are damaged."""
        held = self.file.stat().st_size - (self.start or 0)
        if promised > held * (RATIO if self.deflated or self.start is None else 1):
            raise BadData(f"cut short: {promised} bytes promised, {held} held", where=str(header), remedy=AGAIN)
        if self.deflated and self.start is not None:
            self._inflate(promised, header)

    def _inflate(self, promised: int, header: Path) -> None:
        """ITK reads on past checksums that do not fit: they are compared here."""
        stream, total = zlib.decompressobj(47), 0
        try:
            with self.file.open("rb") as opened:
                opened.seek(self.start or 0)
                while not stream.eof and (block := opened.read(1 << 20)):
                    while block and total <= promised:
                        total += len(stream.decompress(block, 1 << 24))
                        block = stream.unconsumed_tail
        except zlib.error as problem:
            raise BadData(f"its voxels are damaged: {problem}", where=str(header), remedy=AGAIN) from problem
        if not stream.eof or total != promised:
            what = f"cut short: {promised} bytes promised, {total} held"
            raise BadData(what, where=str(header), remedy=AGAIN)


def stored(file: Path) -> Stored:
    """Where the voxels of a file are. Raises: BadData for a header that sends the reader elsewhere, or has no end."""
    nrrd = file.suffix.lower() in (".nrrd", ".nhdr")
    try:
        return _of_nrrd(file) if nrrd else _of_meta(file)
    except OSError as problem:
        raise BadData(f"cannot be read: {problem.strerror}", where=str(file), remedy="check the file") from problem


def _of_nrrd(file: Path) -> Stored:
    with file.open("rb") as opened:
        start = opened.read(LARGEST)
    if not start.startswith(b"NRRD"):
        raise BadData("this is no NRRD file", where=str(file), remedy=AGAIN)
    end = re.search(rb"\n\n|\r\n\r\n", start)
    if end is None and len(start) == LARGEST:
        raise BadData(f"its header does not end within {LARGEST} bytes", where=str(file), remedy=AGAIN)
    lines = re.split(rb"[\r\n]+", start[: end.start() if end else None])
    lines = [line for line in lines if not line.startswith(b"#")]
    named = [found[1] for line in lines if (found := NRRD_FILE.match(line))]
    parted = (line.partition(b":") for line in lines)
    fields = {name.strip().lower(): value.strip().lower() for name, _, value in parted}
    skips = any(fields.get(name, b"0") not in (b"", b"0") for name in _spellings("line skip", "byte skip"))
    deflated = fields.get(b"encoding", b"") in (b"gz", b"gzip")
    known = not skips and (deflated or fields.get(b"encoding") == b"raw")
    if named:
        return Stored(_beside(file, named), 0 if known else None, deflated)
    if end is None:
        raise BadData("its header has no end, or names no data", where=str(file), remedy=AGAIN)
    return Stored(file, end.end() if known else None, deflated)


def _spellings(*names: str) -> list[bytes]:
    return [spelled.encode() for name in names for spelled in (name, name.replace(" ", ""))]


def _of_meta(file: Path) -> Stored:
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
        names = [one.start() for one in re.finditer(rb"ElementDataFile", content)]
        found = [(one.end(), one[1]) for one in META_FILE.finditer(content)]
        header = content[: found[0][0]] if found else b""
    deflated = _says(header, b"CompressedData", b"true")
    if len(found) != 1 or len(names) != 1:
        what = "its header names no data" if not found else f"its header names its data {len(names)} times"
        raise BadData(what, where=str(file), expected="ElementDataFile = LOCAL or a file beside it", remedy=AGAIN)
    if META_NUMBERS.search(header):  # which ITK reads as 0
        raise BadData("the geometry holds NaN or inf", where=str(file), remedy="mend its header")
    end, name = found[0]
    known = b"HeaderSize" not in header and not _says(header, b"BinaryData", b"false")
    if name.strip().upper() == b"LOCAL":
        return Stored(file, _after_line(file, end) if known else None, deflated)
    return Stored(_beside(file, [name]), 0 if known else None, deflated)


def _says(header: bytes, field: bytes, value: bytes) -> bool:
    return re.search(rb"(?im)^\s*%s[ \t]*[=:][ \t]*%s" % (field, value), header) is not None


def _after_line(file: Path, end: int) -> int:
    with file.open("rb") as opened:
        opened.seek(end)
        mark = opened.read(2)
    return end + (2 if mark == b"\r\n" else 1)


def _beside(file: Path, named: list[bytes]) -> Path:
    """The one file that a header names. Raises: BadData where that is no plain file of the header's own folder."""
    remedy = f"convert it to {'.nrrd' if file.suffix.lower() in ('.nrrd', '.nhdr') else '.mha'}"
    name = named[0].strip().decode("utf-8", "replace").removeprefix("./")
    plain = len(named) == 1 and re.fullmatch(r"[^/\\:%\x00-\x1f]+", name) and name not in (".", "..")
    if not plain or re.match(r"(?i)list\b", name):
        raise BadData(
            f"its voxels are elsewhere: {name[:80]!r}", where=str(file), expected="the name of one file beside it",
            remedy=remedy,
        )  # fmt: skip
    data = file.parent / name
    if not data.is_file():
        raise BadData(f"its voxels are missing: there is no {name!r} beside it", where=str(file), remedy=remedy)
    if data.resolve().parent != file.parent.resolve():
        raise BadData(
            f"its voxels are elsewhere: {name!r} is a link", where=str(file), expected="a file beside it", remedy=remedy
        )
    return data
