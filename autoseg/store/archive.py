"""Models as one folder or one file, which may come from anybody: nothing in them runs, every byte is checked.

A `.autoseg` file is a zip archive of a few flat files, none of them compressed, so that it holds what it is long and
its weights are read in place.
"""

from __future__ import annotations

import hashlib
import shutil
import struct
import uuid
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from autoseg.errors import BadFile, BadUsage
from autoseg.records import Member, PackedModel, parse
from autoseg.records.model import WEIGHTS
from autoseg.store.files import _disk, whole

ENDING = ".autoseg"
RECORD, CARD, SUMS = "model.json", "README.md", "SHA256SUMS"
LARGEST = {RECORD: 16_000_000, CARD: 1_000_000, SUMS: 1_000_000}  # bytes
MOST = 1000 + len(LARGEST)  # files
DATE = (1980, 1, 1, 0, 0, 0)  # the same model gives the same bytes
END, LOCAL = struct.Struct("<4s4H2LH"), struct.Struct("<4s5H3L2H")  # the ends of zip archives and of a file's header
REMEDY = "copy it again from where it came, or export it again"


@dataclass(frozen=True)
class Packed:
    """A model on disk: where each of its files begins in `path`, and how long it is; all begin at 0 in a folder."""

    path: Path
    places: Mapping[str, tuple[int, int]]

    def read(self, name: str, size: int | None = None) -> bytes:
        """A file's content. Raises: BadFile where it is not there, or not of that size."""
        if name not in self.places:
            raise _bad(self.path, f"holds no {name}")
        start, length = self.places[name]
        if length != (length if size is None else size) or length > LARGEST.get(name, length):
            raise _bad(self.path, f"{name} has {length} bytes", "" if size is None else f"{size}, as {RECORD} says")
        file = self.path / name if self.path.is_dir() else self.path
        try:
            with file.open("rb") as opened:
                opened.seek(start)
                content = opened.read(length)
        except OSError as problem:
            raise _bad(self.path, f"{name} cannot be read: {problem.strerror or problem}") from None
        if len(content) != length:
            raise _bad(self.path, f"{name} is cut short")
        return content


def _bad(path: Path, what: str, expected: str = "") -> BadFile:
    return BadFile(what, where=str(path), expected=expected, remedy=REMEDY)


# -- reading -------------------------------------------------------------------------------------------


def open_packed(path: Path) -> tuple[Packed, PackedModel]:
    """The model in a folder or a file. The weights are looked at when they are read.

    Raises: BadUsage where there is nothing; BadFile where it is no model, was changed, or is not as autoseg writes it.
    """
    if not path.exists():
        raise BadUsage("no such model", where=str(path), expected=f"a file that ends in {ENDING}, or a model's folder")
    packed = Packed(path, _in_folder(path) if path.is_dir() else _in_file(path))
    text, card = packed.read(RECORD), packed.read(CARD)
    record = parse(PackedModel, text, f"{path} ({RECORD})")
    if packed.read(SUMS) != _sums(text, card, record):
        raise _bad(path, f"was changed after it was written (in {RECORD}, {CARD} or {SUMS})")
    strange = set(packed.places) - set(LARGEST) - {member.weights for member in record.members}
    if strange:
        raise _bad(path, f"holds {sorted(strange)[0]}, of which {RECORD} knows nothing")
    for member in record.members:
        if packed.places.get(member.weights, (0, 0))[1] != member.size:
            raise _bad(path, f"{member.weights} is not there, or not of {member.size} bytes")
    return packed, record


def weights_in(packed: Packed, member: Member) -> dict[str, Any]:
    """The tensors of a member, by name. Raises: BadFile where a byte of them is not what it was."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    content = _checked(packed, member)
    try:
        tensors: dict[str, Any] = load(content)
    except (SafetensorError, ValueError, KeyError, TypeError, RuntimeError, RecursionError) as problem:
        raise _bad(packed.path, f"{member.weights} holds no tensors: {problem}") from None
    return tensors


def require_whole(packed: Packed, record: PackedModel) -> None:
    """Reads all weights. Raises: BadFile where a byte of them is not what it was."""
    for member in record.members:
        _checked(packed, member)


def _checked(packed: Packed, member: Member) -> bytes:
    content = packed.read(member.weights, member.size)
    if hashlib.sha256(content).hexdigest() != member.sha256:
        raise _bad(packed.path, f"{member.weights} was changed after it was written")
    return content


def digest_of(packed: Packed) -> str:
    """A hash of all that a model is; the same for the folder and the file."""
    return hashlib.sha256(packed.read(SUMS)).hexdigest()


def _sums(text: bytes, card: bytes, record: PackedModel) -> bytes:
    """The hash of every file, as `sha256sum --check` takes it."""
    known = {RECORD: hashlib.sha256(text).hexdigest(), CARD: hashlib.sha256(card).hexdigest()}
    known |= {member.weights: member.sha256 for member in record.members}
    return "".join(f"{content}  {name}\n" for name, content in known.items()).encode()


def _is_known(name: str) -> bool:
    return name in LARGEST or WEIGHTS.fullmatch(name) is not None


def _in_folder(folder: Path) -> dict[str, tuple[int, int]]:
    """The files of a model's folder; others in it are left alone."""
    places = {}
    for file in sorted(folder.iterdir()):
        if _is_known(file.name):
            if file.is_symlink() or not file.is_file():
                raise _bad(folder, f"{file.name} is no plain file")
            places[file.name] = (0, file.stat().st_size)
    if RECORD not in places:
        raise BadFile("is no model", where=str(folder), expected=f"a folder with a {RECORD} that autoseg wrote")
    return places


def _in_file(path: Path) -> dict[str, tuple[int, int]]:
    """Where the files of an archive lie. Raises: BadFile for all but what `pack` writes."""
    try:
        with path.open("rb") as opened:
            _require_few(path, opened)
            with zipfile.ZipFile(opened) as archive:
                entries, start = archive.infolist(), archive.start_dir
            return _places(path, opened, entries, start)
    except OSError as problem:
        raise _bad(path, f"cannot be read: {problem.strerror or problem}") from None
    # NotImplementedError is what zipfile raises for compressions that it does not know
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error, OverflowError, EOFError):
        raise BadFile("is no whole model", where=str(path), expected=f"a {ENDING} file", remedy=REMEDY) from None


def _require_few(path: Path, opened: IO[bytes]) -> None:
    """Raises: BadFile for an archive of many files or with a long list of them, before the list is read."""
    size = opened.seek(0, 2)
    opened.seek(max(0, size - END.size))
    magic, disk, first, here, count, length, _, comment = END.unpack(opened.read(END.size))
    if magic != b"PK\5\6" or disk or first or here != count or comment:
        raise zipfile.BadZipFile
    if count > MOST or length > 200 * MOST:
        raise _bad(path, f"lists {count} files in {length} bytes", f"at most {MOST}")


def _places(path: Path, opened: IO[bytes], entries: list[zipfile.ZipInfo], start: int) -> dict[str, tuple[int, int]]:
    """The entries one behind the other, without gaps or overlaps, from the first byte to the list at `start`."""
    places: dict[str, tuple[int, int]] = {}
    end = 0
    for entry in entries:
        name = entry.filename
        if not _is_known(name) or name in places or entry.orig_filename != name:
            raise _bad(path, f"holds {name!r}" + (" twice" if name in places else ""), "the files of a model")
        plain = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
        if not plain or entry.flag_bits or entry.comment or entry.external_attr >> 16 != 0o100644:
            raise _bad(path, f"{name} is compressed, encrypted or a link", "plain files as they are")
        opened.seek(entry.header_offset)
        magic, _, flags, method, *_, letters, more = LOCAL.unpack(opened.read(LOCAL.size))
        same = opened.read(letters) == name.encode()
        if magic != b"PK\3\4" or flags or method or not same or entry.header_offset != end:
            raise _bad(path, f"{name} does not lie where the archive says")
        begin = entry.header_offset + LOCAL.size + letters + more
        places[name], end = (begin, entry.file_size), begin + entry.file_size
    if end != start:
        raise _bad(path, "holds more than its files")
    return places


# -- writing -------------------------------------------------------------------------------------------


def require_replaceable(target: Path) -> None:
    """Raises: BadUsage where a model written there would replace what is none."""
    if not target.exists() and not target.is_symlink():
        return
    remedy = "name another place, or remove it"
    wants_file = target.suffix == ENDING
    if target.is_symlink() or wants_file == target.is_dir():
        kind = "a file" if wants_file else "a folder"
        raise BadUsage(f"exists already and is not {kind}", where=str(target), remedy=remedy)
    if not wants_file:
        names = [file.name for file in target.iterdir()]
        strange = [name for name in names if not _is_known(name)]
        if not names or (RECORD in names and not strange):
            return
        what = "is a folder of other things" if RECORD not in names else f"holds {strange[0]}, which is no model's"
        raise BadUsage(what, where=str(target), remedy=remedy)
    with suppress(BadFile):
        _in_file(target)
        return
    raise BadUsage("exists already and is no model", where=str(target), remedy=remedy)


@contextmanager
def staged(target: Path) -> Iterator[Path]:
    """An empty folder beside `target` to write a model into; when the block ends well, it takes the target's place.

    Where the target ends in .autoseg it is packed into one file. Raises: BadUsage, RunFailed.
    """
    require_replaceable(target)
    folder = target.with_name(f".{uuid.uuid4().hex[:8]}.part.{target.name}")
    try:
        folder.mkdir(parents=True)
        yield folder
        if target.suffix == ENDING:
            pack(folder, target)
        else:
            _move(folder, target)
    except OSError as problem:
        raise _disk(problem, target) from problem
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move(folder: Path, target: Path) -> None:
    """Puts the folder where an older model may lie, which goes last."""
    old = folder.with_name(f"{folder.name}.old")
    if target.exists():
        target.rename(old)
    try:
        folder.rename(target)
    except OSError:
        if old.exists():
            old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def write_weights(folder: Path, name: str, tensors: Mapping[str, Any]) -> tuple[int, str]:
    """Writes tensors without a word of where they come from; answers the file's size and SHA-256."""
    from safetensors.torch import save

    content = save({key: tensor.contiguous() for key, tensor in tensors.items()}, metadata={"format": "pt"})
    with whole(folder / name) as temporary:
        temporary.write_bytes(content)
    return len(content), hashlib.sha256(content).hexdigest()


def write_record(folder: Path, record: PackedModel, card: str) -> None:
    """Writes what a model's folder holds beside the weights."""
    text, said = (record.model_dump_json(indent=1) + "\n").encode(), card.encode()
    for name, content in ((RECORD, text), (CARD, said), (SUMS, _sums(text, said, record))):
        with whole(folder / name) as temporary:
            temporary.write_bytes(content)


def pack(folder: Path, target: Path) -> None:
    """Packs a model's folder into one file; the same folder gives the same bytes."""
    order = (RECORD, CARD, SUMS, *sorted(file.name for file in folder.iterdir() if WEIGHTS.fullmatch(file.name)))
    with whole(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
        for name in order:
            entry = zipfile.ZipInfo(name, DATE)
            entry.create_system, entry.external_attr = 3, 0o100644 << 16
            entry.file_size = (folder / name).stat().st_size
            with (folder / name).open("rb") as source, archive.open(entry, "w") as sink:
                shutil.copyfileobj(source, sink, 1 << 20)
