"""Large rasters are looked at by windows, and what is measured of these stands for the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import rasterio

from autoseg.arrays.statistics import AFTER, BEFORE, IMAGE
from autoseg.readers.raster import Raster
from autoseg.readers.windows import Window, Windows
from autoseg.records import CaseFacts, CaseFiles, Channel, Question
from autoseg.steps.fingerprint import examine, measure
from autoseg.steps.look import Look, look, pieces

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
CHANNELS = (Channel(name="a", kind="other"), Channel(name="b", kind="other"))
QUESTION = Question(reader="raster", channels=CHANNELS, labels={"background": 0, "field": 1, "roof": 2})
FILES = CaseFiles(id="x", images=("image.tif",), labels={"r": "label.tif"})
SIZE = 256


def save(file: Path, bands: np.ndarray) -> None:
    options = {"tiled": True, "blockxsize": 16, "blockysize": 16, "crs": "EPSG:32633"}
    options |= {"transform": rasterio.Affine(2, 0, 359130, 0, -2, 5352340)}
    count, height, width = bands.shape
    with rasterio.open(
        file, "w", driver="GTiff", count=count, height=height, width=width, dtype="uint8", **options
    ) as f:
        f.write(bands)


@pytest.fixture
def scene(tmp_path: Path) -> tuple[Path, np.ndarray]:
    """A folder with an image of noise, brighter where its label has fields and roofs."""
    label = np.zeros((1, SIZE, SIZE), np.uint8)
    label[0, 100:] = 1
    for y in range(4, SIZE - 8, 16):
        for x in range(4, SIZE - 8, 16):
            label[0, y : y + 5, x : x + 6] = 2
    image = np.random.default_rng(0).integers(10, 60, (2, SIZE, SIZE)).astype(np.uint8) + 40 * label
    image[:, :2, :2] = 255
    save(tmp_path / "image.tif", image)
    save(tmp_path / "label.tif", label)
    return tmp_path, label


def looked(folder: Path, budget: int = 2 * 16 * 32 * 32, edge: int = 32) -> Look:
    with Raster().open_windows([folder / "image.tif"]) as image, Raster().open_label(folder / "label.tif") as label:
        return pieces("x", image, label, image.some(large=1, budget=budget, edge=edge))


def test_figures_of_a_sample_stand_for_the_whole(scene: tuple[Path, np.ndarray]) -> None:
    folder, _ = scene
    full, part = examine(folder, FILES, QUESTION), measure(looked(folder), QUESTION, "", [])
    assert full.sampled == 1 and part.sampled == 16 * 32 * 32 / SIZE**2 == 0.25 and not part.faults
    for same in ("shape", "cropped", "spacing", "dtype", "nodata", "orientation"):
        assert getattr(full, same) == getattr(part, same)
    assert full.shape == (1, SIZE, SIZE) and full.spacing == (1.0, 2.0, 2.0)
    assert sum(part.voxels.values()) == pytest.approx(SIZE**2, abs=3)
    for name in QUESTION.classes:
        assert part.voxels[name] == pytest.approx(full.voxels[name], rel=0.15)
    assert part.components["roof"] == pytest.approx(full.components["roof"], rel=0.15)
    assert part.objects["roof"].sizes == full.objects["roof"].sizes == (120.0,) * 5  # 5 × 6 pixels of 4 m²
    assert part.objects["roof"].border == pytest.approx(full.objects["roof"].border, rel=0.15)
    for one, other in zip(full.valid, part.valid, strict=True):
        assert other.mean == pytest.approx(one.mean, rel=0.05) and other.sd == pytest.approx(one.sd, rel=0.05)


def test_a_sample_of_everything_is_everything(scene: tuple[Path, np.ndarray]) -> None:
    folder, _ = scene
    full, part = examine(folder, FILES, QUESTION), measure(looked(folder, 10**9, 64), QUESTION, "", [])
    assert part.sampled == 1 and part.voxels == full.voxels and part.values == full.values
    assert part.components["roof"] == full.components["roof"]


def test_looking_again_sees_the_same(scene: tuple[Path, np.ndarray]) -> None:
    folder, _ = scene
    assert measure(looked(folder), QUESTION, "", []) == measure(looked(folder), QUESTION, "", [])


def test_faults_of_a_sample_say_so(scene: tuple[Path, np.ndarray]) -> None:
    folder, label = scene
    save(folder / "label.tif", label * 3)
    found = measure(looked(folder), QUESTION, "", [])
    assert not found.usable and "25.00% of the image was looked at" in found.faults[0].detail


def test_a_rim_marks_where_windows_cut(scene: tuple[Path, np.ndarray]) -> None:
    folder, _ = scene
    rim = looked(folder, 2 * 4 * 128 * 128, 128).rim
    assert rim.shape == (4, 128, 128)
    assert (rim[0, 0, :-1] == IMAGE).all() and (rim[0, -1] == AFTER).all() and (rim[0, 1:, -1] == AFTER).all()
    assert (rim[3, 0] == BEFORE).all() and (rim[3, :, 0] == BEFORE).all() and (rim[3, -1, 1:] == IMAGE).all()
    assert (rim[:, 1:-1, 1:-1] == 0).all()


def test_only_a_large_raster_is_looked_at_by_windows(
    scene: tuple[Path, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, _ = scene
    read: list[Window] = []
    some = Windows.some
    monkeypatch.setattr(Windows, "some", lambda self: some(self, large=50_000, budget=30_000, edge=32))
    monkeypatch.setattr(Windows, "whole", lambda self: read.append(self.all))
    seen, place = look(folder, FILES, QUESTION)
    assert seen is not None and seen.share < 0.3 and not place and read == []
    assert isinstance(examine(folder, FILES, QUESTION), CaseFacts) and read == []


def test_a_large_label_of_another_size_is_told_before_anything_is_read(scene: tuple[Path, np.ndarray]) -> None:
    folder, label = scene
    save(folder / "label.tif", label[:, 1:])
    seen, place = look(folder, FILES, QUESTION)
    assert seen is None and place.fatal and "255" in place.sentence
