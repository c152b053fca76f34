"""Models on disk: the same as a folder and as a file, every byte watched, and safe to open whoever made them."""

from __future__ import annotations

import hashlib
import json
import random
import shutil
import struct
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from autoseg.errors import AutosegError, BadFile, BadUsage
from autoseg.records import Channel, Configuration, Member, Memory, Network, PackedModel, Part, Question, Train, parse
from autoseg.steps.learner import build_network
from autoseg.store import archive
from autoseg.store.archive import digest_of, open_packed, pack, require_whole, staged, weights_in, write_record

QUESTION = Question(
    reader="raster", channels=(Channel(name="grey", kind="other"),), labels={"background": 0, "disc": 255}
)


def settings(architecture: Part | None = None, **fields: object) -> Configuration:
    """A configuration with a network of a few hundred weights."""
    network = Network.plain((2, 3, 3), ((1, 1), (2, 2), (2, 2)), architecture=architecture or Part(name="unet"))
    train = Train(
        loss="dice+ce", augment=(), steps=1, optimiser=Part(name="adamw"), schedule=Part(name="poly"), foreground=0.3
    )
    made = Configuration(
        spacing=(1.0, 1.0), patch=(8, 8), batch=2, normalise=(Part(name="zscore"),), resample=Part(name="keep"),
        network=network, train=train, memory=Memory(bytes=1, method=""),
    )  # fmt: skip
    return made.model_copy(update=fields)


def fill(folder: Path, titles: dict[str, int], one: Configuration | None = None, question: Question = QUESTION) -> None:
    """Writes a model into the folder: so many folds of every configuration."""
    one, members = one or settings(), []
    for title, folds in titles.items():
        for fold in range(folds):
            torch.manual_seed(len(members))
            name = f"weights_{len(members):03d}.safetensors"
            size, content = archive.write_weights(folder, name, build_network(one, question).state_dict())
            one_of_them = Member(
                configuration=title, fold=fold, seed=0, settings=one, steps=1, precision="float32", weights=name,
                size=size, sha256=content,
            )  # fmt: skip
            members.append(one_of_them)
    record = PackedModel(
        version="0", created="2026-01-02", task="Task02_Discs", plan="default", decisions="d", measured="m",
        question=question, configurations=tuple(titles), members=tuple(members),
    )  # fmt: skip
    write_record(folder, record, "# A model\n")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the same model as `folder` and as `file.autoseg`."""
    root = tmp_path_factory.mktemp("models")
    (root / "folder").mkdir()
    fill(root / "folder", {"2d": 2})
    pack(root / "folder", root / "file.autoseg")
    return root


def content(path: Path) -> tuple[PackedModel, list[dict[str, list]]]:
    """All that a model says."""
    packed, record = open_packed(path)
    return record, [{k: v.tolist() for k, v in weights_in(packed, one).items()} for one in record.members]


# -- the same in both forms ----------------------------------------------------------------------------


def test_a_folder_and_a_file_hold_the_same(made: Path) -> None:
    assert content(made / "folder") == content(made / "file.autoseg")
    digests = {digest_of(open_packed(made / name)[0]) for name in ("folder", "file.autoseg")}
    assert len(digests) == 1
    torch.manual_seed(1)
    expected = build_network(settings(), QUESTION).state_dict()
    packed, record = open_packed(made / "file.autoseg")
    tensors = weights_in(packed, record.members[1])
    assert tensors.keys() == expected.keys() and all(torch.equal(tensors[name], expected[name]) for name in expected)


def test_the_same_model_gives_the_same_bytes_whenever_it_is_packed(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "folder", tmp_path / "copy", copy_function=shutil.copyfile)
    pack(tmp_path / "copy", tmp_path / "again.autoseg")
    assert (tmp_path / "again.autoseg").read_bytes() == (made / "file.autoseg").read_bytes()


def test_the_file_is_a_zip_archive_whose_hashes_anybody_can_check(made: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(made / "file.autoseg") as opened:
        assert opened.testzip() is None
        opened.extractall(tmp_path)
    lines = dict(reversed(line.split("  ")) for line in (tmp_path / "SHA256SUMS").read_text().splitlines())
    assert lines == {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in tmp_path.iterdir() if file.name != "SHA256SUMS"
    }  # fmt: skip


# -- changed -------------------------------------------------------------------------------------------


def test_every_changed_byte_is_noticed_or_changes_nothing(made: Path, tmp_path: Path) -> None:
    whole, target, rng = (made / "file.autoseg").read_bytes(), tmp_path / "changed.autoseg", random.Random(0)
    known = content(made / "file.autoseg")
    with zipfile.ZipFile(made / "file.autoseg") as opened:
        heads = [at for entry in opened.infolist() for at in range(entry.header_offset, entry.header_offset + 46)]
        places = [*heads, *range(opened.start_dir, len(whole)), *rng.sample(range(len(whole)), 120)]
    noticed = 0
    for place in places:
        changed = bytearray(whole)
        changed[place] ^= 1 << rng.randrange(8)
        target.write_bytes(changed)
        try:
            found = content(target)
        except BadFile as problem:
            noticed += 1
            assert "changed.autoseg" in str(problem)
        else:
            assert found == known
    assert noticed > len(places) / 2


def test_a_changed_byte_of_a_folder_is_noticed(made: Path, tmp_path: Path) -> None:
    for file in sorted((made / "folder").iterdir()):
        folder = tmp_path / file.name
        shutil.copytree(made / "folder", folder)
        whole = bytearray(file.read_bytes())
        for place in {0, len(whole) // 2, len(whole) - 1}:
            changed = bytearray(whole)
            changed[place] ^= 4
            (folder / file.name).write_bytes(changed)
            with pytest.raises(BadFile):
                content(folder)


def test_a_file_that_is_cut_short_or_goes_on_is_refused(made: Path, tmp_path: Path) -> None:
    whole, target = (made / "file.autoseg").read_bytes(), tmp_path / "a.autoseg"
    for text in (b"", whole[:1], whole[:21], whole[: len(whole) // 2], whole[:-1], whole + b"\0", b"\0" + whole):
        target.write_bytes(text)
        with pytest.raises(BadFile, match=r"a\.autoseg"):
            open_packed(target)


def test_a_member_without_its_weights_is_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "folder", tmp_path / "a")
    (tmp_path / "a" / "weights_001.safetensors").unlink()
    with pytest.raises(BadFile, match=r"weights_001\.safetensors is not there"):
        open_packed(tmp_path / "a")


def test_weights_that_nobody_declared_are_refused(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "folder", tmp_path / "a")
    shutil.copy(tmp_path / "a" / "weights_001.safetensors", tmp_path / "a" / "weights_002.safetensors")
    with pytest.raises(BadFile, match=r"holds weights_002\.safetensors, of which"):
        open_packed(tmp_path / "a")


def test_weights_that_are_none_are_refused_however_well_hashed(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "folder", tmp_path / "a")
    record = parse(PackedModel, (tmp_path / "a" / "model.json").read_bytes(), "")
    bad = struct.pack("<Q", 2**40) + b"{}"
    (tmp_path / "a" / "weights_000.safetensors").write_bytes(bad)
    first = record.members[0].model_copy(update={"size": len(bad), "sha256": hashlib.sha256(bad).hexdigest()})
    write_record(tmp_path / "a", record.model_copy(update={"members": (first, *record.members[1:])}), "")
    packed, found = open_packed(tmp_path / "a")
    require_whole(packed, found)
    with pytest.raises(BadFile, match="holds no tensors"):
        weights_in(packed, found.members[0])


# -- hostile -------------------------------------------------------------------------------------------


def entry(name: str, mode: int = 0o100644) -> zipfile.ZipInfo:
    made = zipfile.ZipInfo(name)
    made.create_system, made.external_attr = 3, mode << 16
    return made


def more(name: str, text: bytes = b"x", mode: int = 0o100644) -> Callable[[zipfile.ZipFile], None]:
    return lambda opened: opened.writestr(entry(name, mode), text)


def packed_well(text: bytes) -> Callable[[zipfile.ZipFile], None]:
    return lambda opened: opened.writestr(entry("weights_002.safetensors"), text, zipfile.ZIP_DEFLATED)


def commented(opened: zipfile.ZipFile) -> None:
    opened.comment = b"hello"


def overlapping(opened: zipfile.ZipFile) -> None:
    other = entry("weights_002.safetensors")
    first = opened.infolist()[-1]
    for name in ("header_offset", "file_size", "compress_size", "CRC"):
        setattr(other, name, getattr(first, name))
    opened.filelist.append(other)
    opened._didModify = True


def many(opened: zipfile.ZipFile) -> None:
    for number in range(1100):
        opened.writestr(entry(f"weights_{number:04d}.safetensors"), b"")


def large_record(opened: zipfile.ZipFile) -> None:
    opened.filelist.clear()
    opened.NameToInfo.clear()
    opened.fp.seek(0)
    opened.start_dir = 0
    opened.writestr(entry("model.json"), b" " * 16_000_001)
    opened.writestr(entry("README.md"), b"")
    opened.writestr(entry("SHA256SUMS"), b"")


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (more("../evil.py"), "holds '../evil.py'"),
        (more("/etc/evil"), "holds '/etc/evil'"),
        (more("a/model.json"), "holds 'a/model.json'"),
        (more("C:\\evil"), r"evil'"),
        (more("model.json\0.png"), "holds 'model.json'"),
        (more("plugin.py"), "holds 'plugin.py'"),
        (more("model.json"), "twice"),
        (more("weights_002.safetensors", b"/etc/passwd", 0o120777), "a link"),
        (more("weights_002.safetensors", b"", 0o040755), "a link"),
        (packed_well(b"\0" * 10_000_000), "compressed"),
        (commented, "is no whole model"),
        (overlapping, "does not lie where"),
        (many, "lists 1105 files"),
        (large_record, "model.json has 16000001 bytes"),
        (more("weights_002.safetensors"), "of which model.json knows nothing"),
    ],
)
def test_what_autoseg_does_not_write_is_not_opened(
    made: Path, tmp_path: Path, spoil: Callable[[zipfile.ZipFile], None], told: str
) -> None:
    target = tmp_path / "evil.autoseg"
    shutil.copy(made / "file.autoseg", target)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of names that are there twice
        with zipfile.ZipFile(target, "a") as opened:
            spoil(opened)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadFile) as problem:
        open_packed(target)
    assert told in str(problem.value)
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("at", "bit"), [(6, 1), (8, 8)])  # encrypted; deflated
def test_a_header_that_differs_from_the_list_is_not_believed(made: Path, tmp_path: Path, at: int, bit: int) -> None:
    changed = bytearray((made / "file.autoseg").read_bytes())
    changed[at] |= bit
    (tmp_path / "a.autoseg").write_bytes(changed)
    with pytest.raises(BadFile, match="does not lie where"):
        open_packed(tmp_path / "a.autoseg")


def test_a_size_that_is_declared_and_not_there_takes_no_memory(made: Path, tmp_path: Path) -> None:
    whole = bytearray((made / "file.autoseg").read_bytes())
    with zipfile.ZipFile(made / "file.autoseg") as opened:
        start = opened.start_dir
    for at in (20, 24):  # both sizes of the first entry
        whole[start + at : start + at + 4] = struct.pack("<L", 0xF0000000)
    (tmp_path / "a.autoseg").write_bytes(whole)
    with pytest.raises(BadFile):
        open_packed(tmp_path / "a.autoseg")


@pytest.mark.parametrize("text", [b"[" * 100_000, b'{"format": 2}', b"\xff\xfe", b"null", b""])
def test_a_record_of_anything_is_a_fault_in_one_line(made: Path, tmp_path: Path, text: bytes) -> None:
    shutil.copytree(made / "folder", tmp_path / "a")
    (tmp_path / "a" / "model.json").write_bytes(text)
    with pytest.raises(BadFile) as problem:
        open_packed(tmp_path / "a")
    assert "\n" not in str(problem.value) and len(str(problem.value)) < 1000


def test_a_folder_with_links_is_refused_and_other_files_are_left_alone(made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "folder", tmp_path / "a")
    (tmp_path / "a" / "LICENSE").write_text("mine")
    assert content(tmp_path / "a") == content(made / "folder")
    weights = tmp_path / "a" / "weights_000.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BadFile, match="is no plain file"):
        open_packed(tmp_path / "a")


def test_nothing_and_no_model_are_told_apart(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="no such model"):
        open_packed(tmp_path / "a.autoseg")
    with pytest.raises(BadFile, match="is no model"):
        open_packed(tmp_path)
    (tmp_path / "a.autoseg").write_text("hello")
    with pytest.raises(BadFile, match="is no whole model"):
        open_packed(tmp_path / "a.autoseg")


# -- written -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["model", "model.autoseg", "new/deep/model", "new/deep/model.autoseg"])
def test_a_model_replaces_a_model_and_nothing_else_is_left(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    for folds in (2, 1):
        with staged(target) as folder:
            fill(folder, {"2d": folds})
        assert len(content(target)[0].members) == folds
        assert [file.name for file in target.parent.iterdir()] == [target.name]


@pytest.mark.parametrize("name", ["model", "model.autoseg"])
def test_what_fails_leaves_the_old_model(tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    with staged(target) as folder:
        fill(folder, {"2d": 1})
    known = content(target)
    with pytest.raises(KeyboardInterrupt), staged(target) as folder:
        fill(folder, {"2d": 2})
        raise KeyboardInterrupt
    assert content(target) == known and [file.name for file in tmp_path.iterdir()] == [name]


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(AutosegError, match="the disk is full") as problem, staged(tmp_path / "a.autoseg"):
        raise OSError(28, "No space left on device")
    assert problem.value.exit_code == 1 and list(tmp_path.iterdir()) == []


def test_what_is_no_model_is_not_replaced(made: Path, tmp_path: Path) -> None:
    (tmp_path / "text.autoseg").write_text("my notes")
    (tmp_path / "folder.autoseg").mkdir()
    (tmp_path / "file").write_text("my notes")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.png").touch()
    shutil.copytree(made / "folder", tmp_path / "mixed")
    (tmp_path / "mixed" / "LICENSE").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    for name in ("text.autoseg", "folder.autoseg", "file", "photos", "mixed", "link"):
        with pytest.raises(BadUsage, match=name), staged(tmp_path / name):
            pytest.fail("was let in")
    assert json.loads((tmp_path / "mixed" / "model.json").read_text())["format"] == 1
    assert (tmp_path / "text.autoseg").read_text() == "my notes"


def test_an_empty_folder_may_be_filled(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with staged(tmp_path / "model") as folder:
        fill(folder, {"2d": 1})
    assert len(content(tmp_path / "model")[0].members) == 1
