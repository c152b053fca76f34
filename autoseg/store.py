"""The home folder: where everything lies, written whole or not at all. The only file that spells file names."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
import struct
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import AutosegError, BadFile, BadTask, BadUsage, Busy, RunFailed, nearest
from autoseg.records import Checkpoint, Fingerprint, Folds, Plan, R, Record, Run, Scores, parse

DEFAULT_PLAN = "default"
DATASET_FILE = "dataset.json"


# -- writing -------------------------------------------------------------------------------------------


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
    """Writes torch tensors and a JSON header as one safetensors file."""
    from safetensors.torch import save

    metadata = {"autoseg": header.model_dump_json()} if header else None
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata=metadata)
    with whole(file) as temporary:
        temporary.write_bytes(content)


def load_tensors(kind: type[R], file: Path, device: str = "cpu") -> tuple[R, dict[str, Any]]:
    """(header, tensors) of a safetensors file. Raises: BadFile when it is damaged or not autoseg's."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, "pt", device=device) as opened:
            header = (opened.metadata() or {}).get("autoseg")
            if header is None:
                raise BadFile("is not a file of autoseg", where=str(file))
            return parse(kind, header, str(file)), {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as problem:
        raise BadFile(f"cannot be read: {problem}", where=str(file), expected="a whole safetensors file") from None


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
        return parse(kind, fields["__metadata__"]["autoseg"], str(file))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        raise BadFile("cannot be read", where=str(file), expected="a whole safetensors file of autoseg") from None


@contextlib.contextmanager
def lock(folder: Path) -> Iterator[None]:
    """Holds the folder for this process; ends with the process, however it ends. Raises: Busy."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as held:
        if not _try_lock(held):
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


# -- preprocessed arrays -------------------------------------------------------------------------------


class Prepared(Record):
    """Header of a preprocessed case. `signature` changes with its files and with how it was preprocessed."""

    signature: str
    shape: tuple[int, int, int]


@dataclass(frozen=True)
class StoredCase:
    """A preprocessed case on disk, read box by box.

    Attributes:
        points: up to 10,000 voxels (n, 3) per class index that occurs, for foreground sampling.
    """

    id: str
    shape: tuple[int, int, int]
    points: dict[int, NDArray[np.int32]]
    image_file: Path
    label_file: Path

    def read(self, box: tuple[slice, ...]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
        """Image (C, *box) and label (*box) of a box that lies inside the case."""
        import blosc2

        blosc2.set_nthreads(1)  # many threads read at once; more inside each only get in the way
        everywhere = (slice(None),)
        try:
            image, label = blosc2.open(str(self.image_file), "r"), blosc2.open(str(self.label_file), "r")
            return image[everywhere + box], label[box]
        except (RuntimeError, ValueError, OSError) as problem:  # how blosc2 tells of damage
            where, remedy = str(self.image_file), "remove it: the next run makes it anew"
            raise BadFile(f"or its label is damaged ({problem})", where=where, remedy=remedy) from None


@dataclass(frozen=True)
class Preprocessed:
    """The folder of one way of preprocessing one task. Points are written last: with them a case is whole."""

    folder: Path

    def _files(self, case: str) -> tuple[Path, Path, Path]:
        return (
            self.folder / f"{case}.image.b2nd",
            self.folder / f"{case}.label.b2nd",
            self.folder / f"{case}.points.safetensors",
        )

    def signature(self, case: str) -> str | None:
        """What the stored case was made from; None when it is not there or damaged."""
        import blosc2

        *arrays, points = self._files(case)
        try:
            header = load_header(Prepared, points)
            for file in arrays:
                blosc2.open(str(file), "r")
        except (BadFile, OSError, RuntimeError):  # the last is how blosc2 tells that a file is cut short
            return None
        return header.signature

    def save(
        self,
        case: str,
        signature: str,
        image: NDArray[np.float32],
        label: NDArray[np.uint8],
        points: Mapping[int, NDArray[np.int32]],
    ) -> None:
        """Stores image (C, z, y, x), in float16, and label (z, y, x) of class indices."""
        import torch

        image_file, label_file, points_file = self._files(case)
        points_file.unlink(missing_ok=True)
        limit = float(np.finfo(np.float16).max)
        _save_array(image_file, np.clip(image, -limit, limit).astype(np.float16))
        _save_array(label_file, label)
        z, y, x = label.shape
        tensors = {str(index): torch.from_numpy(np.ascontiguousarray(at)) for index, at in points.items()}
        save_tensors(points_file, tensors, Prepared(signature=signature, shape=(z, y, x)))

    def open(self, case: str) -> StoredCase:
        """The stored case. Raises: BadFile when it is damaged."""
        image_file, label_file, points_file = self._files(case)
        header, tensors = load_tensors(Prepared, points_file)
        points = {int(index): at.numpy() for index, at in tensors.items()}
        return StoredCase(case, header.shape, points, image_file, label_file)


def _save_array(file: Path, array: NDArray[Any]) -> None:
    import blosc2

    blocks = tuple(min(32, size) for size in array.shape[-3:])
    chunks = tuple(min(128, size) for size in array.shape[-3:])
    lead = (1,) * (array.ndim - 3)
    packed = blosc2.asarray(
        np.ascontiguousarray(array),
        cparams=blosc2.CParams(codec=blosc2.Codec.ZSTD, clevel=1, nthreads=1),
        chunks=(*lead, *chunks),
        blocks=(*lead, *blocks),
    )
    with whole(file) as temporary:
        temporary.write_bytes(packed.to_cframe())


# -- runs ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RunFolder:
    """The files of one run (plan, configuration, fold, seed)."""

    folder: Path

    @property
    def run_file(self) -> Path:
        return self.folder / "run.json"

    @property
    def checkpoint_file(self) -> Path:
        return self.folder / "checkpoint.safetensors"

    @property
    def log_file(self) -> Path:
        return self.folder / "log.jsonl"

    @property
    def scores_file(self) -> Path:
        return self.folder / "scores.json"

    @property
    def predictions(self) -> Path:
        return self.folder / "predictions"

    def run(self) -> Run | None:
        """What the run was started with; None before it was."""
        return load_record(Run, self.run_file) if self.run_file.exists() else None

    def checkpoint(self) -> Checkpoint | None:
        """The header of its last checkpoint; None when there is none."""
        return load_header(Checkpoint, self.checkpoint_file) if self.checkpoint_file.exists() else None

    def scores(self) -> Scores | None:
        """The scores of its validation cases; None before the run is finished."""
        return load_record(Scores, self.scores_file) if self.scores_file.exists() else None

    def log(self, entry: Mapping[str, object]) -> None:
        """Appends a line to the log."""
        with self.log_file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps(entry) + "\n")

    def rewind_log(self, step: int) -> None:
        """Drops the lines after `step` (and half a line, if a kill left one): they will be written again."""
        if not self.log_file.exists():
            return
        kept = []
        for line in self.log_file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError):
                if int(json.loads(line).get("step", 0)) <= step:
                    kept.append(line)
        save_text(self.log_file, "".join(line + "\n" for line in kept))

    def set_aside(self) -> Path | None:
        """Moves the run beside itself, so that it can start anew; answers where it went."""
        if not self.run_file.exists():
            return None
        number = 1
        while (aside := self.folder.with_name(f"{self.folder.name}.old{number}")).exists():
            number += 1
        self.folder.rename(aside)
        return aside


# -- home ----------------------------------------------------------------------------------------------


class Current(Record):
    """The task and plan that commands use when they are not told another."""

    task: str
    plan: str


@dataclass(frozen=True)
class Home:
    """A folder with `datasets/`, `plans/` and `work/`."""

    root: Path

    def tasks(self) -> list[str]:
        """Names of all task folders."""
        folder = self.root / "datasets"
        return sorted(p.name for p in folder.iterdir() if (p / DATASET_FILE).is_file()) if folder.is_dir() else []

    def task(self, beginning: str) -> str:
        """The task of that name or unambiguous beginning. Raises: BadTask that lists what there is."""
        known = self.tasks()
        if beginning in known:
            return beginning
        found = [name for name in known if name.lower().startswith(beginning.lower())]
        if len(found) == 1:
            return found[0]
        where = str(self.root / "datasets")
        if found:
            raise BadTask(f"{beginning!r} could be {' or '.join(found)}", where=where, remedy="write more of the name")
        raise BadTask(
            f"no task begins with {beginning!r}{nearest(beginning, known)}",
            where=where,
            expected=f"one of {', '.join(known)}" if known else "a folder with a dataset.json",
            remedy="" if known else "put a task there, make one with autoseg add, or name another --home",
        )

    def task_folder(self, task: str) -> Path:
        return self.root / "datasets" / task

    def new_task_file(self, name: str) -> Path:
        """Where the description of a new task is written. Raises: BadUsage when there is one already."""
        file = self.task_folder(name) / DATASET_FILE
        if file.exists():
            raise BadUsage(f"task {name} exists already", where=str(file), remedy="remove it or take another name")
        return file

    def plan_file(self, task: str, plan: str) -> Path:
        return self.root / "plans" / (f"{task}.json" if plan == DEFAULT_PLAN else f"{task}.{plan}.json")

    def folds_file(self, task: str) -> Path:
        return self.root / "plans" / f"{task}.folds.json"

    def fingerprint_file(self, task: str) -> Path:
        return self.root / "work" / task / "fingerprint.json"

    def preprocessed(self, task: str, key: str) -> Preprocessed:
        return Preprocessed(self.root / "work" / task / "preprocessed" / key)

    def run_folder(self, task: str, plan: str, configuration: str, fold: int | str, seed: int) -> RunFolder:
        runs = self.root / "work" / task / "runs"
        return RunFolder(runs / plan / configuration / f"fold_{fold}" / f"seed_{seed}")

    def finished_runs(self, task: str, plan: str) -> list[RunFolder]:
        """The runs of a plan that have reached their last step."""
        runs = (self.root / "work" / task / "runs" / plan).glob("*/fold_*/seed_*")
        folders = [RunFolder(folder) for folder in sorted(runs) if ".old" not in folder.name]
        return [f for f in folders if (point := f.checkpoint()) and point.step >= point.run.settings.train.steps]

    def plan(self, task: str, plan: str) -> Plan:
        """The plan. Raises: BadUsage when there is none yet."""
        file = self.plan_file(task, plan)
        if not file.exists():
            name = "" if plan == DEFAULT_PLAN else f" --as {plan}"
            raise BadUsage("there is no such plan", where=str(file), remedy=f"make it with autoseg plan {task}{name}")
        return load_record(Plan, file)

    def folds(self, task: str) -> Folds | None:
        file = self.folds_file(task)
        return load_record(Folds, file) if file.exists() else None

    def fingerprint(self, task: str) -> Fingerprint | None:
        file = self.fingerprint_file(task)
        return load_record(Fingerprint, file) if file.exists() else None

    def current(self) -> Current | None:
        file = self.root / "work" / "current.json"
        return load_record(Current, file) if file.exists() else None

    def make_current(self, task: str, plan: str) -> None:
        save_record(self.root / "work" / "current.json", Current(task=task, plan=plan))

    def free_bytes(self) -> int:
        """Free space of the disk that holds the home."""
        return shutil.disk_usage(self.root).free
