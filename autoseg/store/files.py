"""Files written whole or not at all, and locks."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import struct
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import AutosegError, BadFile, Busy, RunFailed
from autoseg.records import R, Record, parse

HEADER = "autoseg"  # the name of the header in a safetensors file's metadata


@contextlib.contextmanager
def whole(file: Path) -> Iterator[Path]:
    """A temporary path beside `file` that takes its place when the block ends well, and is removed when not.

    It keeps the file's endings, so that writers which choose a format by the name choose the right one.
    Raises: RunFailed when the disk is full or the folder cannot be written.
    """
    temporary = file.with_name(f".{uuid.uuid4().hex[:8]}.part.{file.name}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with temporary.open("rb+") as written:
            os.fsync(written.fileno())
        temporary.replace(file)
    except OSError as problem:
        raise _disk(problem, file) from problem
    finally:
        with contextlib.suppress(OSError):  # where the folder could not be made there is nothing to remove
            temporary.unlink(missing_ok=True)


def _disk(problem: OSError, file: Path) -> AutosegError:
    if problem.errno in (errno.ENOSPC, errno.EDQUOT):
        return RunFailed("the disk is full", where=str(file), remedy="free some space and start the command again")
    return RunFailed(f"cannot be written: {problem.strerror or problem}", where=str(file))


def save_text(file: Path, text: str) -> None:
    """Writes the text whole."""
    with whole(file) as temporary:
        temporary.write_text(text, encoding="utf-8")


def save_record(file: Path, record: Record) -> None:
    """Writes the record as JSON that people can read."""
    save_text(file, record.model_dump_json(indent=1) + "\n")


def load_record(kind: type[R], file: Path, error: type[AutosegError] = BadFile) -> R:
    """The record in the file. Raises: `error`, naming the file and every fault in it."""
    try:
        return parse(kind, file.read_bytes(), str(file), error)
    except OSError as problem:
        raise error(f"cannot be read: {problem.strerror}", where=str(file)) from None


def save_tensors(file: Path, tensors: Mapping[str, Any], header: Record | None = None) -> None:
    """Writes torch tensors, a JSON header and the hash of each as one safetensors file."""
    from safetensors.torch import save

    said = header.model_dump_json() if header else ""
    kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
    hashes = {HEADER: _hash(said.encode()), **{name: _hash(_bytes(tensor)) for name, tensor in kept.items()}}
    content = save(kept, metadata={HEADER: said, "blake2b": json.dumps(hashes)})
    with whole(file) as temporary:
        temporary.write_bytes(content)


def _bytes(tensor: Any) -> memoryview:
    """What a tensor on the CPU holds."""
    import torch

    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _hash(content: bytes | memoryview) -> str:
    return hashlib.blake2b(content, digest_size=8).hexdigest()


def save_arrays(file: Path, arrays: Mapping[str, NDArray[Any]], header: Record) -> None:
    """As `save_tensors`, of numpy arrays, without importing torch."""
    from safetensors.numpy import save

    content = save(
        {name: np.ascontiguousarray(array) for name, array in arrays.items()}, {HEADER: header.model_dump_json()}
    )
    with whole(file) as temporary:
        temporary.write_bytes(content)


def load_tensors(
    kind: type[R], file: Path, device: str = "cpu", wanted: Callable[[str], bool] = lambda name: True
) -> tuple[R, dict[str, Any]]:
    """(header, tensors) of a safetensors file; tensors whose name is not `wanted` are never read.

    Raises: BadFile when it is damaged or not autoseg's.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt") as opened:
            told = opened.metadata() or {}
            if not told.get(HEADER):
                raise BadFile("is not a file of autoseg", where=str(file))
            names = [name for name in opened.keys() if wanted(name)]  # noqa: SIM118
            tensors = {name: opened.get_tensor(name) for name in names}
            _require_hashes(told, tensors, file)
            return parse(kind, told[HEADER], str(file)), {name: one.to(device) for name, one in tensors.items()}
    except (SafetensorError, OSError, ValueError, AttributeError, RecursionError) as problem:
        raise BadFile(f"cannot be read: {problem}", where=str(file), expected="a whole safetensors file") from None


def _require_hashes(told: Mapping[str, str], tensors: Mapping[str, Any], file: Path) -> None:
    """Raises: BadFile where a byte is not what it was; files that came without hashes are taken as they are."""
    hashes = json.loads(told.get("blake2b", "{}"))
    found = {HEADER: _hash(told[HEADER].encode()), **{name: _hash(_bytes(one)) for name, one in tensors.items()}}
    changed = [name for name, here in found.items() if hashes and hashes.get(name) != here]
    if changed:
        raise BadFile(f"was changed after it was written (in {changed[0]})", where=str(file))


def load_header(kind: type[R], file: Path) -> R:
    """The JSON header of a safetensors file, without its tensors and without importing torch."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            if length > 100_000_000:
                raise BadFile("is not a safetensors file", where=str(file))
            fields = json.loads(opened.read(length))
        ends = [place["data_offsets"][1] for name, place in fields.items() if name != "__metadata__"]
        if file.stat().st_size != 8 + length + max(ends, default=0):
            raise BadFile("is cut short", where=str(file), expected="a whole safetensors file")
        return parse(kind, fields["__metadata__"][HEADER], str(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error, IndexError, RecursionError):
        raise BadFile("cannot be read", where=str(file), expected="a whole safetensors file of autoseg") from None


def header_hash(file: Path) -> str:
    """SHA-256 of the header of a safetensors file, which holds the hashes of its tensors. Raises: BadFile."""
    try:
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            return hashlib.sha256(opened.read(min(length, 100_000_000))).hexdigest()
    except (OSError, struct.error):
        raise BadFile("cannot be read", where=str(file), expected="a whole safetensors file of autoseg") from None


@contextlib.contextmanager
def lock(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Holds the folder for this process; ends with the process, however it ends.

    Args:
        patience: seconds to wait for another process.
    Raises: Busy.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        until = time.monotonic() + patience
        while not _try_lock(held):
            if time.monotonic() < until:
                time.sleep(1)
                continue
            raise Busy("another process works on this run", where=str(folder), remedy="wait for it, or stop it")
        yield


def _try_lock(file: IO[str]) -> bool:
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        with contextlib.suppress(OSError):
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
            return True
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
