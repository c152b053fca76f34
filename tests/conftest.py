"""What all tests share: the folder of real images, a home, two threads."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the real images")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Whatever reads the real images is marked `real`, and skipped with a reason where they are absent."""
    folder = config.getoption("real")
    for item in items:
        if "real" in getattr(item, "fixturenames", ()):
            item.add_marker("real")
        if item.get_closest_marker("real") and not folder.is_dir():
            item.add_marker(pytest.mark.skip(reason=f"no folder {folder}; name one with --real DIR"))


@pytest.fixture
def real(pytestconfig: pytest.Config) -> Path:
    """The folder of the real images."""
    folder: Path = pytestconfig.getoption("real")
    return folder.resolve()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """An empty home: datasets/, plans/, work/."""
    for name in ("datasets", "plans", "work"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture(autouse=True)
def _two_threads() -> None:
    """Results may depend on the number of threads: the same everywhere, once torch is imported."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 2:
        torch.set_num_threads(2)
