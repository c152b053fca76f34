"""Plug-ins: files and installed packages add their parts, whole or not at all, and a run asks for them again."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from autoseg import parts
from autoseg.errors import BadUsage
from autoseg.parts import SCHEDULES, TABLES
from autoseg.plugins import LOADED, load_files, load_installed, require, used
from autoseg.records import Configuration, Insert, Memory, Network, Part, Question, Train

Install = Callable[..., Path]
SCHEDULE = '''
from autoseg.parts import SCHEDULES

@SCHEDULES.add("NAME")
def NAME(steps: int, by: float = 2.0):
    """One over by."""
    return lambda step: 1 / by
'''


def schedule(name: str) -> str:
    return SCHEDULE.replace("NAME", name)


def added() -> set[str]:
    """The names of all parts that are not autoseg's own."""
    return {name for table in TABLES.values() for name in table.added}


def told() -> tuple[list[str], Callable[[str], None]]:
    lines: list[str] = []
    return lines, lines.append


def quietly() -> None:
    """Loads what is installed, and nothing is to be said of it."""
    lines, say = told()
    load_installed(say)
    assert lines == []


# -- files ---------------------------------------------------------------------------------------------


def test_a_file_adds_its_part_and_its_hash_is_answered(tmp_path: Path) -> None:
    file = tmp_path / "mine.py"
    file.write_text(schedule("halved"))
    assert load_files([file]) == {"mine.py": hashlib.sha256(file.read_bytes()).hexdigest()}
    assert SCHEDULES.build(Part(name="halved", options={"by": 4.0}), steps=1)(0) == 0.25


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 / 0", "ZeroDivisionError: division by zero"),
        ("def", "SyntaxError"),
        ("import nothing_of_that_name", "ModuleNotFoundError"),
        ("raise SystemExit(3)", "SystemExit: 3"),
        (schedule("poly"), "schedule 'poly' exists already; give the part another name"),
        (schedule("new") + schedule("new"), "schedule 'new' exists already"),
        ("from autoseg.parts import LOSSES\n@LOSSES.add\ndef mine(): ...", "cannot name a part"),
        ("from autoseg.parts import LOSSES\nLOSSES.add('my-loss')", "'my-loss' cannot name a part"),
        ("from autoseg.parts import LOSSES\nLOSSES.add('mine')(3)", "is not a callable object"),
    ],
)
def test_a_file_that_fails_is_named_and_leaves_nothing(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "broken.py"
    file.write_text(schedule("first") + text)
    with pytest.raises(BadUsage) as problem:
        load_files([file])
    assert f"--plugin {file}: could not be loaded: " in str(problem.value) and message in str(problem.value)
    assert added() == set() and LOADED == [] and "autoseg_plugin_broken" not in sys.modules


def test_what_is_no_python_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadUsage, match="no file"):
        load_files([tmp_path / "absent.py"])
    (tmp_path / "a.txt").write_text(schedule("halved"))
    with pytest.raises(BadUsage, match="is not a Python file"):
        load_files([tmp_path / "a.txt"])


def test_two_files_of_one_name_could_not_be_told_apart_in_a_run(tmp_path: Path) -> None:
    files = [tmp_path / folder / "mine.py" for folder in ("a", "b")]
    for file, name in zip(files, ("one", "two"), strict=True):
        file.parent.mkdir()
        file.write_text(schedule(name))
    with pytest.raises(BadUsage, match=r"two files are called mine\.py"):
        load_files(files)


# -- installed packages --------------------------------------------------------------------------------


def test_an_installed_package_adds_its_parts_once(install: Install) -> None:
    install("my-blocks", {"my_blocks/__init__.py": "", "my_blocks/slow.py": schedule("slow")}, "my_blocks.slow")
    quietly()
    quietly()
    assert SCHEDULES.build("slow", steps=3)(0) == 0.5
    assert [(plugin.name, set(plugin.parts)) for plugin in LOADED] == [("my-blocks==1.2", {("schedules", "slow")})]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'"),
        ("raise SystemExit", "SystemExit"),
        (schedule("poly"), "schedule 'poly' exists already"),
    ],
)
def test_one_that_fails_is_told_by_name_and_breaks_nothing_else(install: Install, text: str, message: str) -> None:
    broken = {"broken/__init__.py": "", "broken/good.py": schedule("first"), "broken/bad.py": text}
    install("a-broken", broken, "broken.good", "broken.bad")
    install("b-good", {"good.py": schedule("good")}, "good")
    lines, say = told()
    load_installed(say)
    assert len(lines) == 1 and lines[0].startswith("plug-in a-broken==1.2: could not be loaded: ")
    assert message in lines[0] and "\n" not in lines[0]
    assert added() == {"good"} and [plugin.name for plugin in LOADED] == ["b-good==1.2"]
    assert not {"broken", "broken.good"} & set(sys.modules)


@pytest.mark.parametrize("fails", [False, True])
def test_parts_belong_to_the_package_that_defines_them_whoever_imports_it(install: Install, fails: bool) -> None:
    install("z-base", {"base/__init__.py": schedule("base")}, "base")
    install("a-more", {"more.py": "import base\n" + schedule("more") + "1 / 0" * fails}, "more")
    lines, say = told()
    load_installed(say)
    owned = {plugin.name: {name for _, name in plugin.parts} for plugin in LOADED}
    more = {} if fails else {"a-more==1.2": {"more"}}
    assert owned == {**more, "z-base==1.2": {"base"}} and len(lines) == fails
    assert "base" in SCHEDULES


def test_packages_of_one_namespace_are_told_apart(install: Install) -> None:
    for name in ("one", "two"):
        install(f"acme-{name}", {f"acme/{name}/__init__.py": schedule(name)}, f"acme.{name}")
    quietly()
    assert {plugin.name: set(plugin.parts) for plugin in LOADED} == {
        f"acme-{name}==1.2": {("schedules", name)} for name in ("one", "two")
    }


def test_a_file_that_the_user_names_has_its_way(install: Install, tmp_path: Path) -> None:
    install("my-blocks", {"my_blocks.py": schedule("slow")}, "my_blocks")
    file = tmp_path / "mine.py"
    file.write_text(schedule("slow").replace("2.0", "5.0"))
    load_files([file])
    lines, say = told()
    load_installed(say)
    assert "my-blocks==1.2" in lines[0] and "'slow' exists already" in lines[0]
    assert SCHEDULES.build("slow", steps=1)(0) == 0.2


def test_damaged_entry_points_are_told(install: Install) -> None:
    folder = install("a-damaged", {}, "x")
    (folder / "a_damaged-1.2.dist-info" / "entry_points.txt").write_text("[autoseg.plugins]\nno equals sign\n")
    install("b-good", {"good.py": schedule("good")}, "good")
    lines, say = told()
    load_installed(say)
    assert len(lines) == 1 and "cannot be read" in lines[0]
    assert added() == {"good"}


def test_what_a_package_announces_is_a_module(install: Install) -> None:
    install("my-blocks", {"my_blocks.py": schedule("slow")}, "my_blocks:slow")
    lines, say = told()
    load_installed(say)
    assert "No module named 'my_blocks:slow'" in lines[0]


# -- readers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endings", "message"),
    [
        ((".npy", ".tif"), "reader 'mine' reads .tif, as reader 'raster' does already"),
        ((".NPY",), "expected an ending in small letters with its dot"),
        (("npy",), "expected an ending in small letters with its dot"),
    ],
)
def test_a_reader_takes_no_ending_from_another(tmp_path: Path, endings: tuple[str, ...], message: str) -> None:
    file = tmp_path / "mine.py"
    file.write_text(
        f"from autoseg.parts import READERS\n@READERS.add('mine')\nclass Mine:\n    endings = {endings!r}\n"
    )
    with pytest.raises(BadUsage) as problem:
        load_files([file])
    assert message in str(problem.value) and "mine" not in parts.READERS


# -- what a run needs ----------------------------------------------------------------------------------


def settings(**train: object) -> tuple[Configuration, Question]:
    """A configuration of autoseg's own parts, but for what the test changes."""
    ways = {"loss": "dice+ce", "augment": (), "optimiser": Part(name="sgd"), "schedule": Part(name="poly"), **train}
    plain = Part(name="plain")
    network = Network(
        architecture=Part(name="unet"), block=plain, decoder_block=plain, norm=Part(name="instance"), features=(4, 8),
        strides=((1, 1), (2, 2)), kernels=((3, 3), (3, 3)), depths=(1, 1), decoder_depths=(1,),
    )  # fmt: skip
    made = Configuration(
        spacing=(1.0, 1.0), patch=(8, 8), batch=2, normalise=(Part(name="zscore"),), resample=Part(name="linear"),
        network=network, train=Train(steps=1, foreground=0.5, **ways), memory=Memory(bytes=1, method=""),
    )  # fmt: skip
    channels = ({"name": "grey", "kind": "other"},)
    question = Question.model_validate({"reader": "raster", "channels": channels, "labels": {"a": 0, "b": 1}})
    return made, question


def standing(part: str) -> tuple[Configuration, Question]:
    made, question = settings()
    inserts = (Insert(part=Part(name=part), place="skip"),)
    return made.model_copy(update={"network": made.network.model_copy(update={"inserts": inserts})}), question


@pytest.mark.parametrize(
    "named",
    [
        settings(loss="dice+0.5*mine(by=2)"),
        settings(loss="mine"),
        settings(schedule=Part(name="mine")),
        settings(augment=(Part(name="mirror"), Part(name="mine"))),
        standing("mine"),
        (settings()[0], settings()[1].model_copy(update={"reader": "mine"})),
    ],
)
def test_a_run_needs_the_installed_plugins_whose_parts_it_names(
    install: Install, tmp_path: Path, named: tuple[Configuration, Question]
) -> None:
    install("my-blocks", {"my_blocks.py": schedule("mine")}, "my_blocks")
    install("others", {"others.py": schedule("other")}, "others")
    file = tmp_path / "named.py"
    file.write_text(schedule("extra"))
    load_files([file])
    quietly()
    assert list(used(*named)) == ["my-blocks==1.2"]
    assert used(*settings()) == {}
    assert used(*settings(schedule=Part(name="extra"))) == {}  # of a file, which is recorded because it is named


def test_the_hash_of_a_package_is_that_of_all_its_files_and_their_names(install: Install) -> None:
    files = {"my_blocks/__init__.py": "", "my_blocks/deep/a.py": "x = 1\n", "my_blocks/b.py": schedule("mine")}
    folder = install("my-blocks", {**files, "my_blocks/notes.txt": "not code"}, "my_blocks.b")
    quietly()
    once = LOADED[0].sha256()
    (folder / "my_blocks" / "notes.txt").write_text("changed")
    assert LOADED[0].sha256() == once
    (folder / "my_blocks" / "deep" / "a.py").rename(folder / "my_blocks" / "deep" / "c.py")
    renamed = LOADED[0].sha256()
    (folder / "my_blocks" / "deep" / "c.py").write_text("x = 2\n")
    assert len({once, renamed, LOADED[0].sha256()}) == 3


def test_a_module_alone_is_hashed_without_its_neighbours(install: Install) -> None:
    folder = install("my-blocks", {"my_blocks.py": schedule("mine"), "neighbour.py": ""}, "my_blocks")
    quietly()
    once = LOADED[0].sha256()
    (folder / "neighbour.py").write_text("changed = True")
    assert LOADED[0].sha256() == once
    (folder / "my_blocks.py").write_text(schedule("mine") + "changed = True")
    assert LOADED[0].sha256() != once


def test_a_missing_or_changed_plugin_is_asked_for(install: Install) -> None:
    folder = install("my-blocks", {"my_blocks.py": schedule("mine")}, "my_blocks")
    with pytest.raises(BadUsage, match=r"my-blocks==1\.0 is not installed.*; pip install my-blocks==1\.0"):
        require({"my-blocks==1.0": "a" * 64}, {})
    quietly()
    content = LOADED[0].sha256()
    require({"my-blocks==1.2": content}, {})
    require({"my-blocks==1.0": content}, {})  # another version of the same contents
    (folder / "my_blocks.py").write_text(schedule("mine") + "# changed\n")
    with pytest.raises(BadUsage, match=rf"my-blocks==1\.2 has other contents.*than my-blocks==1\.2 \({content[:12]}\)"):
        require({"my-blocks==1.2": content}, {})
    with pytest.raises(BadUsage, match=r"--plugin was not given: mine\.py.*--plugin mine\.py"):
        require({"mine.py": "a" * 64}, {"other.py": "a" * 64})
    with pytest.raises(BadUsage, match=r"is another version of mine\.py"):
        require({"mine.py": "a" * 64}, {"mine.py": "b" * 64})


def test_nothing_is_imported_because_a_record_says_so(install: Install, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    folder = install("sleeper", {"sleeper.py": f"open({str(mark)!r}, 'w')"})  # installed, but announces nothing
    for wanted in ("sleeper==1.2", "sleeper.py", str(folder / "sleeper.py")):
        with pytest.raises(BadUsage):
            require({wanted: hashlib.sha256((folder / "sleeper.py").read_bytes()).hexdigest()}, {})
    quietly()
    for table in TABLES.values():
        with pytest.raises(Exception, match="unknown"):
            table.build("sleeper:open")
    assert not mark.exists() and "sleeper" not in sys.modules


def test_the_plugins_of_these_tests_are_gone() -> None:
    assert added() == set() and LOADED == []
    assert not [name for name in sys.modules if name.startswith("autoseg_plugin_") or name in ("my_blocks", "base")]
