"""The house stands: no import runs upward, nothing heavy at the door, nothing forbidden anywhere."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from autoseg import parts

ROOT = Path(__file__).resolve().parent.parent
FLOORS = [
    {"errors", "records", "image"},
    {"parts", "spelling"},
    {"plugins"},
    {"arrays", "readers", "catalogue"},
    {"layouts", "store", "nets", "losses", "augment"},
    {"steps", "engine"},
    {"pipeline", "interop"},
    {"cli"},
]
FREE = {"__init__", "__main__"}
CODE = {"parts", "plugins"}  # where a name becomes code
LAUNCHED = {"cli.runs"}  # may read what torchrun says to the processes that it starts
HEAVY = {
    "torch", "monai", "SimpleITK", "rasterio", "nibabel", "matplotlib", "cc3d", "blosc2", "skimage", "scipy",
}  # fmt: skip
MODULES = sorted(
    str(path.relative_to(ROOT / "autoseg").with_suffix("")).replace("/", ".")
    for path in (ROOT / "autoseg").rglob("*.py")
)


def tree_of(module: str) -> ast.Module:
    return ast.parse((ROOT / "autoseg" / (module.replace(".", "/") + ".py")).read_text(encoding="utf-8"))


def floor(room: str) -> int:
    """Raises: StopIteration for a room that has no floor."""
    return next(number for number, rooms in enumerate(FLOORS) if room in rooms)


def imported(nodes: Iterator[ast.AST], module: str) -> Iterator[str]:
    """Dotted names that the import statements name; `from a import b` names a.b. Relative ones resolved."""
    package = ["autoseg", *module.split(".")[:-1]]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            start = ".".join([*above, *(node.module or "").split(".")]).strip(".")
            yield from (f"{start}.{alias.name}" for alias in node.names)


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes that run when the module is imported: not the bodies of functions, not TYPE_CHECKING."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and ast.unparse(child.test).endswith("TYPE_CHECKING"):
            continue
        yield child
        yield from at_import(child)


def upward(module: str, tree: ast.Module) -> list[str]:
    """The imports that run to the same floor's other rooms or to higher ones. F0 is one room."""
    room = module.split(".")[0]
    if room in FREE:
        return []
    here, wrong = floor(room), []
    for name in imported(ast.walk(tree), module):
        if not name.startswith("autoseg.") or name == "autoseg.__version__":
            continue
        target = name.split(".")[1]
        known = any(target in rooms for rooms in FLOORS)
        below = known and (floor(target) < here or here == floor(target) == 0)
        if target != room and not below:
            wrong.append(name)
    return wrong


def forbidden(module: str, tree: ast.Module) -> list[str]:
    """What the principles forbid, as the offending source."""
    roots = {name.split(".")[0] for name in imported(ast.walk(tree), module)}
    wrong = sorted(roots & {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"})
    for name in imported(ast.walk(tree), module):
        data = name.startswith(("importlib.metadata", "importlib.resources"))
        if name in {"os.environ", "os.getenv"} or (name.startswith("importlib") and module not in CODE and not data):
            wrong.append(name)
    for node in ast.walk(tree):
        environment = isinstance(node, ast.Attribute) and ast.unparse(node) in {"os.environ", "os.getenv", "os.putenv"}
        if environment and module not in LAUNCHED:
            wrong.append(ast.unparse(node))
        if isinstance(node, ast.Call) and not allowed(node, module):
            wrong.append(ast.unparse(node))
    return wrong


def allowed(call: ast.Call, module: str) -> bool:
    name = ast.unparse(call.func)
    keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    if name == "print":
        return module.split(".")[0] == "cli"
    if name == "torch.load":
        return keywords.get("weights_only") == "True"
    return name not in {"eval", "exec", "__import__"} and keywords.get("allow_pickle") in {None, "False"}


@pytest.mark.parametrize("module", MODULES)
def test_imports_run_downward(module: str) -> None:
    assert upward(module, tree_of(module)) == []


@pytest.mark.parametrize("module", MODULES)
def test_nothing_forbidden(module: str) -> None:
    assert forbidden(module, tree_of(module)) == []


@pytest.mark.parametrize("module", MODULES)
def test_heavy_imports_are_inside_functions(module: str) -> None:
    roots = {name.split(".")[0] for name in imported(at_import(tree_of(module)), module)}
    light = HEAVY | {"pydantic"} if module.split(".")[0] == "cli" else {"SimpleITK", "rasterio"}
    assert roots & light == set()


def test_importing_the_command_line_loads_nothing_heavy() -> None:
    code = "import autoseg.cli, sys; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert set(found.stdout.split()) & (HEAVY | {"pydantic"}) == set()


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, t in parts.TABLES.items() for name in t])
def test_the_names_of_the_tables_resolve(kind: str, name: str) -> None:
    assert callable(parts.TABLES[kind].get(name))


@pytest.mark.parametrize(
    ("module", "source", "wrong"),
    [
        ("arrays.boxes", "from autoseg.steps import plan", ["autoseg.steps.plan"]),
        ("arrays.boxes", "def f():\n    import autoseg.cli", ["autoseg.cli"]),
        ("arrays.boxes", "from ..nets import unet", ["autoseg.nets.unet"]),
        ("nets.unet", "from autoseg.losses import dice", ["autoseg.losses.dice"]),
        ("nets.unet", "from autoseg import Model", ["autoseg.Model"]),
        ("nets.unet", "from . import blocks\nfrom autoseg.nets.blocks import Plain", []),
        ("errors", "from autoseg.parts import Table", ["autoseg.parts.Table"]),
        ("records", "from autoseg.errors import BadFile\nfrom autoseg import __version__", []),
        ("cli.main", "from autoseg.pipeline import crossval\nimport os", []),
    ],
)
def test_an_upward_import_is_caught(module: str, source: str, wrong: list[str]) -> None:
    assert upward(module, ast.parse(source)) == wrong


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from os import environ",
        "import os\nos.environ['A'] = '1'",
        "eval('1')",
        "exec('1')",
        "torch.load('x')",
        "torch.load('x', weights_only=False)",
        "numpy.load('x', allow_pickle=True)",
        "import importlib",
        "import importlib.util",
        "def f():\n    print(1)",
    ],
)
def test_a_forbidden_thing_is_caught(source: str) -> None:
    assert forbidden("steps.train", ast.parse(source))


def test_what_looks_forbidden_but_is_not() -> None:
    source = "net.eval()\ntorch.load('x', weights_only=True)\nfrom importlib.metadata import version"
    assert forbidden("steps.train", ast.parse(source)) == []


def test_a_heavy_import_at_the_top_is_caught() -> None:
    source = "try:\n    import torch\nexcept ImportError:\n    pass\ndef f():\n    import scipy"
    assert list(imported(at_import(ast.parse(source)), "cli.main")) == ["torch"]
