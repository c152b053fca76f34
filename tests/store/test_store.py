"""The home folder: files whole or not at all, damage told, runs held by one process."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg import store
from autoseg.errors import BadFile, BadPlan, Busy, RunFailed
from autoseg.records import Channel, Folds, Part
from autoseg.store import (
    Prepared,
    Preprocessed,
    load_header,
    load_record,
    load_tensors,
    lock,
    save_record,
    save_tensors,
    save_text,
    whole,
)

HEADER = Prepared(signature="s", shape=(1, 2, 3))
TENSORS = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.tensor([1, 2], dtype=torch.int32), "c": torch.zeros(0, 3)}


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# -- whole files ---------------------------------------------------------------------------------------


def test_a_file_is_written_with_its_folders_and_replaced(tmp_path: Path) -> None:
    file = tmp_path / "a" / "b" / "x.nii.gz"
    for text in ("one", "two"):
        with whole(file) as temporary:
            assert temporary.parent == file.parent and temporary.name.endswith("x.nii.gz") and temporary != file
            temporary.write_text(text)
        assert file.read_text() == text
        assert names(file.parent) == ["x.nii.gz"]


@pytest.mark.parametrize("problem", [ValueError, KeyboardInterrupt, BadFile])
def test_an_error_leaves_the_old_content_and_nothing_else(tmp_path: Path, problem: type[BaseException]) -> None:
    file = tmp_path / "x.txt"
    file.write_text("old")

    def write() -> None:
        with whole(file) as temporary:
            temporary.write_text("ne")
            raise problem("stop")

    with pytest.raises(problem, match="stop"):
        write()
    assert names(tmp_path) == ["x.txt"] and file.read_text() == "old"


@pytest.mark.parametrize(
    ("number", "said"), [(errno.ENOSPC, "the disk is full"), (errno.EDQUOT, "the disk is full"), (errno.EIO, "written")]
)
@pytest.mark.parametrize("kind", ["text", "record", "tensors", "arrays"])
def test_a_full_disk_is_told_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str, kind: str
) -> None:
    arrays = Preprocessed(tmp_path)
    image, label = np.ones((1, 2, 3, 4), np.float32), np.ones((2, 3, 4), np.uint8)
    writers = {
        "text": lambda: save_text(tmp_path / "x", "text"),
        "record": lambda: save_record(tmp_path / "x", HEADER),
        "tensors": lambda: save_tensors(tmp_path / "x", TENSORS, HEADER),
        "arrays": lambda: arrays.save("x", "s", image, {0: label}, {}),
    }
    writers[kind]()
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if "points" not in path.name}

    def full(descriptor: int) -> None:
        raise OSError(number, "no")

    monkeypatch.setattr(store.files.os, "fsync", full)
    with pytest.raises(RunFailed, match=said) as told:
        writers[kind]()
    assert str(tmp_path / "x") in str(told.value)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


SMALL_FILES = """
import resource, sys
from pathlib import Path
import numpy as np, torch
from autoseg.errors import RunFailed
from autoseg.store import Preprocessed, save_tensors, save_text
folder = Path(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
noise = np.random.default_rng(0).normal(size=(1, 9, 20, 20)).astype(np.float32)
for write in (
    lambda: save_text(folder / "x", "a" * 5000),
    lambda: save_tensors(folder / "x", {"a": torch.zeros(5000)}),
    lambda: Preprocessed(folder).save("x", "s", noise, {0: (noise[0] > 0).astype(np.uint8)}, {}),
):
    try:
        write()
    except RunFailed as problem:
        print("told" if "cannot be written" in str(problem) else problem)
print(len(list(folder.iterdir())))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files as Linux does")
def test_what_the_system_refuses_in_the_middle_of_a_file_is_told(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", SMALL_FILES, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["told", "told", "told", "0"]


def test_a_file_in_the_place_of_a_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("")
    for file in (tmp_path / "a" / "x", tmp_path / "a" / "b" / "x"):
        with pytest.raises(RunFailed, match="cannot be written"):
            save_text(file, "text")


# -- records and tensors -------------------------------------------------------------------------------


def test_records_come_back_and_faults_name_the_file(tmp_path: Path) -> None:
    file = tmp_path / "folds.json"
    folds = Folds(rule="größer", folds=(("a",), ("b",)))
    save_record(file, folds)
    assert load_record(Folds, file) == folds
    assert file.read_text(encoding="utf-8").endswith("}\n")
    with pytest.raises(BadPlan, match=r"folds\.json: .*is not a known field"):
        load_record(Part, file, BadPlan)
    for absent in (tmp_path / "none.json", tmp_path):
        with pytest.raises(BadFile, match="cannot be read"):
            load_record(Folds, absent)


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    tensors = {**TENSORS, "turned": torch.arange(6).reshape(2, 3).T, "half": torch.tensor([1.5]).bfloat16()}
    save_tensors(file, tensors, HEADER)
    header, loaded = load_tensors(Prepared, file)
    assert header == HEADER == load_header(Prepared, file)
    assert set(loaded) == set(tensors)
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)
    assert all(loaded[name].dtype == tensors[name].dtype for name in tensors)
    save_tensors(file, {}, HEADER)
    assert load_tensors(Prepared, file) == (HEADER, {})
    assert load_header(Prepared, file) == HEADER


def test_tensors_that_are_not_wanted_are_never_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_tensors(tmp_path / "x", TENSORS, HEADER)
    read, opening = list[str](), safetensors.safe_open

    class Watched:
        def __init__(self, *words: object, **options: object) -> None:
            self.opened = opening(*words, **options).__enter__()

        def __enter__(self) -> Watched:
            return self

        def __exit__(self, *problem: object) -> None:
            self.opened.__exit__(*problem)

        def __getattr__(self, name: str) -> object:
            return getattr(self.opened, name)

        def get_tensor(self, name: str) -> torch.Tensor:
            read.append(name)
            return self.opened.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Watched)
    header, loaded = load_tensors(Prepared, tmp_path / "x", wanted=lambda name: name != "a")
    assert header == HEADER and sorted(read) == sorted(loaded) == ["b", "c"]


def test_a_file_cut_anywhere_is_a_bad_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save_tensors(file, TENSORS, HEADER)
    content = file.read_bytes()
    for length in range(len(content)):
        file.write_bytes(content[:length])
        for load in (load_header, load_tensors):
            with pytest.raises(BadFile, match=r"x\.safetensors"):
                load(Prepared, file)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_damaged_header_is_a_bad_file_or_reads_the_same_in_both_ways(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    file = tmp_path_factory.mktemp("damaged") / "x.safetensors"
    save_tensors(file, TENSORS, HEADER)
    content = bytearray(file.read_bytes())
    content[data.draw(st.integers(0, 7 + content[0]))] = data.draw(st.integers(0, 255))
    file.write_bytes(content)
    try:
        header, _ = load_tensors(Prepared, file)
    except BadFile:
        try:
            load_header(Prepared, file)  # it looks at less, but says nothing else
        except BadFile:
            return
    else:
        assert load_header(Prepared, file) == header


def test_a_file_of_another_kind_is_a_bad_file(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    for fields in (b"[]", b"{}", b'{"a": 1}', b'{"__metadata__": {"autoseg": 3}}', b'{"__metadata__": []}'):
        file.write_bytes(len(fields).to_bytes(8, "little") + fields)
        for load in (load_header, load_tensors):
            with pytest.raises(BadFile):
                load(Prepared, file)
    save_tensors(file, TENSORS)
    for load in (load_header, load_tensors):
        with pytest.raises(BadFile):
            load(Prepared, file)
    save_tensors(file, TENSORS, Channel(name="a", kind="mr"))
    for load in (load_header, load_tensors):
        with pytest.raises(BadFile, match="is not a known field"):
            load(Prepared, file)


# -- locks ---------------------------------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from autoseg.store import lock
with lock(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


def test_a_folder_is_held_by_one_process_until_it_dies(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    with subprocess.Popen([sys.executable, "-c", HOLD, folder], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(Busy, match="another process"), lock(folder):
            pass
        other.kill()
        other.wait()
    with lock(folder), pytest.raises(Busy), lock(folder):  # its own second hold is refused as well
        pass


def test_a_lock_is_given_back_after_an_error(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="stop"), lock(tmp_path):
        raise ValueError("stop")
    with lock(tmp_path):
        pass


@pytest.mark.parametrize("fields", [b"[" * 100_000, b'{"a": {"data_offsets": []}}', b"[]"])
def test_a_hostile_header_is_a_bad_file(tmp_path: Path, fields: bytes) -> None:
    file = tmp_path / "x.safetensors"
    file.write_bytes(len(fields).to_bytes(8, "little") + fields)
    with pytest.raises(BadFile, match=r"x\.safetensors"):
        load_header(Prepared, file)
