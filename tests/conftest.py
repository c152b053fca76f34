"""What all tests share: the folder of real images, a home, one thread."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from autoseg import parts, plugins

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--real", type=Path, default=ROOT.parent / "shared" / "data", help="folder of the real images")
    parser.addoption("--table", type=Path, help="file for the table of the matrix of networks")


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
def _one_thread(request: pytest.FixtureRequest) -> None:
    """Results may depend on the number of threads: one everywhere, as tests run side by side, but in slow studies."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.get_num_threads() != 1 and not request.node.get_closest_marker("slow"):
        torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _known_speed(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The speed of this machine is taken as known, as the plans of tests would differ by it; the demo measures it."""
    name = request.module.__name__
    if name.startswith(("tests.pipeline", "tests.cli", "tests.test_story")) and not name.endswith("test_demo"):
        monkeypatch.setattr("autoseg.pipeline.clock.Clock._measured", lambda *_: 0.1)


@pytest.fixture(autouse=True)
def _no_plugin_outlives_its_test() -> Iterator[None]:
    """The tables are those of autoseg again after every test, and the modules of plug-ins are forgotten."""
    before = set(sys.modules)
    yield
    for table in parts.TABLES.values():
        for name in table.added:
            table.take_back(name)
    packages = {name for plugin in plugins.LOADED for name in plugin.packages}
    for module in set(sys.modules) - before:
        if any(module == name or module.startswith(f"{name}.") for name in packages):
            del sys.modules[module]
    plugins.LOADED.clear()


Install = Callable[..., Path]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a package onto the path as pip would: `install("my-blocks", {"my_blocks.py": text}, "my_blocks")`."""

    def put(name: str, files: Mapping[str, str], *modules: str, version: str = "1.2") -> Path:
        folder = tmp_path / f"installed_{name}_{version}"
        points = "".join(f"{number} = {module}\n" for number, module in enumerate(modules))
        info = f"{name.replace('-', '_')}-{version}.dist-info"
        described = {
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
            f"{info}/entry_points.txt": f"[autoseg.plugins]\n{points}",
        }
        for file, text in {**files, **described}.items():
            (folder / file).parent.mkdir(parents=True, exist_ok=True)
            (folder / file).write_text(text)
        monkeypatch.syspath_prepend(folder)
        return folder

    return put


Launch = Callable[..., list["subprocess.Popen[str]"]]


@pytest.fixture(scope="session")
def launch() -> Launch:
    """Starts Python so many times, as a launcher does that tells each process which one it is: `launch(2, "x.py")`."""

    def start(size: int, *words: str) -> list[subprocess.Popen[str]]:
        with socket.socket() as opened:
            opened.bind(("localhost", 0))
            port = opened.getsockname()[1]
        there = {"WORLD_SIZE": size, "MASTER_ADDR": "localhost", "MASTER_PORT": port, "OMP_NUM_THREADS": 1}
        environments = ({**there, "RANK": rank, "LOCAL_RANK": rank} for rank in range(size))
        return [
            subprocess.Popen(
                [sys.executable, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                env={**os.environ, **{name: str(value) for name, value in one.items()}},
            )
            for one in environments
        ]  # fmt: skip

    return start


def _ball(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[np.ndarray, np.ndarray]:
    """A noisy image with a bright ball, and its label 0/1."""
    centre = [rng.uniform(0.35, 0.65) * size for size in shape]
    grid = np.meshgrid(*(np.arange(size) for size in shape), indexing="ij")
    distance = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, centre, strict=True)))
    label = (distance < min(shape[-2:]) / 4).astype(np.uint8)
    return (label * 2 + rng.normal(0, 0.5, shape) + 3).astype(np.float32), label


@pytest.fixture
def balls_3d(home: Path) -> Path:
    """A home with the task Task01_Balls."""
    return write_balls(home)


def write_balls(home: Path) -> Path:
    """Task01_Balls: ten NIfTI volumes of 10×16×16 voxels, 2×1×1 mm, in MSD's layout."""
    import nibabel

    folder = home / "datasets" / "Task01_Balls"
    rng, training = np.random.default_rng(0), []
    for number in range(10):
        for sub, array in zip(("imagesTr", "labelsTr"), _ball(rng, (10, 16, 16)), strict=True):
            file = folder / sub / f"ball_{number:02d}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            nibabel.save(nibabel.Nifti1Image(array.transpose(2, 1, 0), np.diag([1.0, 1.0, 2.0, 1.0])), file)
        names = (f"./{sub}/ball_{number:02d}.nii.gz" for sub in ("imagesTr", "labelsTr"))
        training.append(dict(zip(("image", "label"), names, strict=True)))
    task = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "ball"}, "training": training}
    (folder / "dataset.json").write_text(json.dumps(task))
    return home


@pytest.fixture
def balls_2d(home: Path) -> Path:
    """A home with the task Task02_Discs: ten grey PNGs of 32×32 pixels in nnU-Net's layout; label values 0 and 255."""
    from skimage.io import imsave

    folder = home / "datasets" / "Task02_Discs"
    rng = np.random.default_rng(0)
    for number in range(10):
        image, label = _ball(rng, (32, 32))
        for sub, array in (("imagesTr", np.clip(image * 30, 0, 255)), ("labelsTr", label * 255)):
            file = folder / sub / (f"disc_{number:02d}" + ("_0000.png" if sub == "imagesTr" else ".png"))
            file.parent.mkdir(parents=True, exist_ok=True)
            imsave(file, array.astype(np.uint8), check_contrast=False)
    task = {"channel_names": {"0": "grey"}, "labels": {"background": 0, "disc": 255}, "file_ending": ".png"}
    (folder / "dataset.json").write_text(json.dumps(task))
    return home


@contextmanager
def stopped_at(step: int) -> Iterator[None]:
    """Trainings inside are stopped by the keyboard before this step."""
    from autoseg.steps import train

    learn = train.learn

    def until_then(learner: Any, *more: Any) -> float:
        if learner.step == step:
            raise KeyboardInterrupt
        return learn(learner, *more)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(train, "learn", until_then)
        yield
