"""Parts of others: files that the user names, and installed packages that announce themselves."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any

from autoseg.errors import AutosegError, BadPlan, BadUsage
from autoseg.parts import READERS, TABLES
from autoseg.records import Configuration, Part, Question, Record
from autoseg.spelling import weighed

GROUP = "autoseg.plugins"  # of the entry points by which an installed package announces its modules


@dataclass(frozen=True)
class Plugin:
    """Where parts come from that are not autoseg's own.

    Attributes:
        name: the name of the file, or the package as pip has it: my-blocks==1.2.
        file: None for an installed package.
        modules: what is imported.
        parts: (table, name) of what they have added.
    """

    name: str
    file: Path | None
    modules: tuple[str, ...]
    parts: frozenset[tuple[str, str]] = frozenset()

    @property
    def packages(self) -> set[str]:
        """The modules, or the outermost packages that hold them."""
        return {_package(module) for module in self.modules}

    def run(self) -> None:
        """Imports the modules, which add their parts to the tables."""
        if self.file is not None:
            _execute(self.modules[0], self.file)
        else:
            for module in self.modules:
                importlib.import_module(module)  # named by an installed package's metadata, never by a plan or a run

    def sha256(self) -> str:
        """Of the file; of a package's Python files, in the order of their paths, each with its path."""
        if self.file is not None:
            return hashlib.sha256(self.file.read_bytes()).hexdigest()
        total = hashlib.sha256()
        for package in sorted(self.packages):
            for name, file in sorted(_sources(package).items()):
                content = file.read_bytes()
                total.update(f"{name} {len(content)}\n".encode() + content)
        return total.hexdigest()


LOADED: list[Plugin] = []  # those of this process, which other processes that work for it run too


def load_files(files: Iterable[Path]) -> dict[str, str]:
    """Loads the plug-in files that the user named; answers their names and contents (sha256).

    Raises: BadUsage for a file that fails, whose parts are then in no table, and for two of one name.
    """
    found: dict[str, str] = {}
    for file in files:
        if file.name in found:
            raise BadUsage(f"two files are called {file.name}", where="--plugin", remedy="give one another name")
        if not file.is_file():
            raise BadUsage(f"no file {file}", where="--plugin", expected="a Python file")
        plugin = Plugin(file.name, file.resolve(), (f"autoseg_plugin_{file.stem}",))
        _load(plugin, f"--plugin {file}")
        found[file.name] = plugin.sha256()
    return found


def load_installed(say: Callable[[str], None]) -> None:
    """Loads the installed plug-ins that this process has not loaded; one that fails is told of and left out whole."""
    announced = _announced(say)
    for plugin in announced:
        if plugin.name in {loaded.name for loaded in LOADED}:
            continue
        others = {package for other in announced if other is not plugin for package in other.packages}
        try:
            _load(plugin, f"plug-in {plugin.name}", others - plugin.packages)
        except BadUsage as problem:
            say(f"{problem}; going on without it")


def _announced(say: Callable[[str], None]) -> list[Plugin]:
    """The installed packages with entry points of ours, by name; nothing of them is imported yet."""
    from importlib import metadata

    found: dict[str, Plugin] = {}
    for package in metadata.distributions():
        if GROUP not in (package.read_text("entry_points.txt") or ""):
            continue
        try:
            modules = sorted({point.value for point in package.entry_points if point.group == GROUP})
            name = package.metadata["Name"]
            found.setdefault(name, Plugin(f"{name}=={package.version}", None, tuple(modules)))  # first on the path
        except Exception as problem:  # a damaged package is no reason to stop
            say(f"the entry points of an installed plug-in cannot be read: {type(problem).__name__}: {problem}")
    return [found[name] for name in sorted(found)]


def _load(plugin: Plugin, where: str, others: Collection[str] = ()) -> None:
    """Runs a plug-in and notes what it has added. Raises: BadUsage when it fails; nothing of it is left then.

    Args:
        others: packages of other plug-ins, which this one may import.
    """
    before = {(kind, name) for kind, table in TABLES.items() for name in table.added}
    known = set(sys.modules)
    try:
        plugin.run()
        parts = frozenset(_parts_of(plugin, before, others))
        _require_new_endings(sorted(name for kind, name in parts if kind == "readers"))
    except (Exception, SystemExit) as problem:  # whatever the code of others raises
        for kind, name in list(_parts_of(plugin, before, others)):
            TABLES[kind].take_back(name)
        for module in [module for module in sys.modules if module not in known and _within(module, plugin.packages)]:
            del sys.modules[module]
        said = str(problem) if isinstance(problem, AutosegError) else f"{type(problem).__name__}: {problem}"
        raise BadUsage(f"could not be loaded: {said}", where=where) from problem
    LOADED.append(replace(plugin, parts=parts))


def _parts_of(
    plugin: Plugin, before: Collection[tuple[str, str]], others: Collection[str]
) -> Iterator[tuple[str, str]]:
    """What a plug-in has added: what its packages define, and what is new and not defined by others."""
    own = plugin.packages if plugin.file is None else set()
    for kind, table in TABLES.items():
        for name, factory in table.added.items():
            home = str(getattr(factory, "__module__", ""))
            if _within(home, own) or ((kind, name) not in before and not _within(home, others)):
                yield kind, name


def _require_new_endings(readers: Collection[str]) -> None:
    """Raises: BadPlan for a reader whose endings another one reads already, or that no file can match."""
    if not readers:
        return
    taken = {ending: name for name in READERS if name not in readers for ending in READERS.build(name).endings}
    for name in readers:
        for ending in READERS.build(name).endings:
            if ending in taken:
                raise BadPlan(f"reader {name!r} reads {ending}, as reader {taken[ending]!r} does already")
            if not ending.startswith(".") or ending != ending.lower():
                raise BadPlan(f"reader {name!r} reads {ending!r}", expected="an ending in small letters with its dot")
            taken[ending] = name


def _execute(name: str, file: Path) -> None:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise BadUsage("is not a Python file")
    module, kept = importlib.util.module_from_spec(spec), sys.dont_write_bytecode
    sys.modules[name] = module
    try:
        sys.dont_write_bytecode = True  # a cached file could be run under the hash of a newer one
        spec.loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = kept


# -- packages ------------------------------------------------------------------------------------------


def _package(module: str) -> str:
    """The outermost package that holds a module, or itself; namespaces, which many share, do not count."""
    try:
        for name in accumulate(module.split("."), "{}.{}".format):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin:
                return name
    except (ImportError, ValueError):  # it will be told when it is imported
        pass
    return module


def _within(module: str, packages: Collection[str]) -> bool:
    return any(module == package or module.startswith(f"{package}.") for package in packages)


def _sources(package: str) -> Mapping[str, Path]:
    """The files of a package, or of a module, by their paths within it."""
    spec = importlib.util.find_spec(package)
    assert spec is not None and spec.origin is not None  # it was imported
    origin = Path(spec.origin)
    if spec.submodule_search_locations is None:
        return {origin.name: origin}
    files = {origin, *origin.parent.rglob("*.py")}
    return {file.relative_to(origin.parent).as_posix(): file for file in files}


# -- what a run needs ----------------------------------------------------------------------------------


def used(settings: Configuration, question: Question) -> dict[str, str]:
    """Name and content of the installed plug-ins with a part that is named here, of whatever kind it is."""
    losses = (part.name for _, part in weighed(settings.train.loss))
    names = {question.reader, *losses, *_named(settings)}
    found = [plugin for plugin in LOADED if plugin.file is None and names & {name for _, name in plugin.parts}]
    return {plugin.name: plugin.sha256() for plugin in found}


def _named(value: Any) -> Iterator[str]:
    """The names of all parts in a record."""
    if isinstance(value, Part):
        yield value.name
    elif isinstance(value, Record):
        for field in type(value).model_fields:
            yield from _named(getattr(value, field))
    elif isinstance(value, Mapping | tuple | list):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from _named(one)


def require(wanted: Mapping[str, str], given: Mapping[str, str]) -> None:
    """Raises: BadUsage when a plug-in that a run was trained with is absent, or has other contents now.

    Args:
        wanted: names and contents that the run has recorded.
        given: those of the files that the user named.
    """
    for name, content in wanted.items():
        package, installed, _ = name.partition("==")
        if installed:
            _require_package(package, name, content)
        elif given.get(name) != content:
            what = "is another version of" if name in given else "was not given:"
            raise BadUsage(
                f"--plugin {what} {name} (sha256 {content[:12]}), with which this run was trained",
                remedy=f"name that file with --plugin {name}",
            )


def _require_package(package: str, name: str, content: str) -> None:
    now = next((plugin for plugin in LOADED if plugin.file is None and plugin.name.partition("==")[0] == package), None)
    if now is None:
        what = f"the plug-in {name} is not installed, with which this run was trained"
        raise BadUsage(what, remedy=f"pip install {name}")
    if (found := now.sha256()) != content:
        what = f"the plug-in {now.name} has other contents (sha256 {found[:12]}) than {name} ({content[:12]})"
        raise BadUsage(f"{what}, with which this run was trained", remedy=f"pip install {name}")
