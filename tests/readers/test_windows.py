"""Rasters read window by window are what they are when read whole."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.enums import ColorInterp

from autoseg.errors import BadData
from autoseg.image import Image
from autoseg.readers.raster import Raster
from autoseg.readers.windows import Windows, blank, spread

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
sizes = st.integers(1, 3000)
blocks = st.sampled_from([1, 8, 16, 256, 512, 1024])


def save(file: Path, bands: np.ndarray, alpha: bool = False, **options: Any) -> Path:
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": bands.dtype.name, "photometric": "minisblack"}
    with rasterio.open(file, "w", driver="GTiff", **size, **options) as target:
        last = ColorInterp.alpha if alpha else ColorInterp.undefined
        target.colorinterp = [ColorInterp.gray, *[ColorInterp.undefined] * (count - 2), last][:count]
        target.write(bands)
    return file


@settings(max_examples=200, deadline=None)
@given(sizes, sizes, blocks, blocks, st.integers(1, 600), st.integers(1, 50))
def test_windows_spread_are_even_aligned_and_inside(height, width, rows, columns, edge, count):
    found = spread((height, width), (rows, columns), edge, count)
    assert 1 <= len(found) <= count and found == sorted(found, key=lambda w: (w[0].start, w[1].start))
    size = {(y.stop - y.start, x.stop - x.start) for y, x in found}
    assert len(size) == 1 and len({(y.start, x.start) for y, x in found}) == len(found)
    for axis, (full, block) in enumerate(zip((height, width), (rows, columns), strict=True)):
        for window in found:
            part = window[axis]
            assert 0 <= part.start < part.stop <= full and part.stop - part.start >= min(edge, full)
            assert part.start % block == 0 or part.stop == full
        middle = np.mean([(window[axis].start + window[axis].stop) / 2 for window in found])
        assert abs(middle - full / 2) <= max(block, 1)


def test_windows_lie_over_all_of_the_image() -> None:
    found = spread((30_000, 30_000), (512, 512), 512, 16)
    assert len(found) == 16 and all(window[0].start % 512 == window[1].start % 512 == 0 for window in found)
    starts = sorted({window[0].start for window in found})
    assert len(starts) == 4 and starts[0] < 7500 and starts[-1] > 22_500 - 512
    assert len(spread((100, 40_000), (1, 40_000), 512, 16)) == 1  # whole rows are the block


@pytest.mark.parametrize("tiled", [True, False])
@pytest.mark.parametrize("kind", ["plain", "nodata", "nan", "alpha", "infrared"])
def test_a_window_is_what_the_whole_is_there(tmp_path: Path, kind: str, tiled: bool) -> None:
    bands = np.random.default_rng(0).integers(1, 99, (4, 40, 70)).astype("f4" if kind == "nan" else "u1")
    bands[1, 3:9, 5:60] = np.nan if kind == "nan" else 200
    if kind == "alpha":
        bands[3] = 255
        bands[3, :7, 50:] = 0
    options: dict[str, Any] = {"tiled": True, "blockxsize": 16, "blockysize": 16} if tiled else {}
    options |= {"nodata": 200} if kind == "nodata" else {}
    file = save(tmp_path / "a.tif", bands, alpha=kind in ("alpha", "infrared"), **options)
    whole = Raster().read([file, file])
    with Raster().open_windows([file, file]) as opened:
        assert opened.shape == whole.shape and opened.channels == whole.channels == (6 if kind == "alpha" else 8)
        assert opened.block == ((16, 16) if tiled else opened.block)
        assert opened.grid.spacing == whole.spacing and opened.grid.placement == whole.placement
        for window in ((slice(0, 40), slice(0, 70)), (slice(2, 11), slice(40, 70)), (slice(39, 40), slice(69, 70))):
            part = opened.read(window)
            assert part.array.dtype == whole.array.dtype
            assert np.array_equal(
                part.array, whole.array[(slice(None), *window)], equal_nan=part.array.dtype.kind == "f"
            )
            valid = np.ones(whole.shape, bool) if whole.valid is None else whole.valid
            assert np.array_equal(np.ones(part.shape, bool) if part.valid is None else part.valid, valid[window])


def test_a_window_of_a_label_is_what_the_whole_is_there(tmp_path: Path) -> None:
    values = np.random.default_rng(0).integers(0, 3, (1, 30, 20)).astype("u1")
    file = save(tmp_path / "l.tif", np.repeat(values, 3, axis=0))
    with Raster().open_label(file) as label:
        assert label.channels == 1
        assert np.array_equal(label.read((slice(4, 9), slice(1, 20))).array, values[:, 4:9, 1:20])


def test_small_is_read_whole_and_large_by_windows() -> None:
    read: list[object] = []

    def note(window: object) -> Image:
        read.append(window)
        return Image(np.zeros((1, 1, 1)), (1.0, 1.0))

    grid = blank((3000, 2000), (1.0, 1.0), {})
    opened = Windows(grid, 2, (256, 256), note)
    assert grid.array.nbytes == 6_000_000 and grid.array.base is not None and grid.array.base.nbytes <= 8
    assert opened.some(large=12_000_000) == [opened.all] == [(slice(0, 3000), slice(0, 2000))]
    assert len(opened.some(large=11_999_999, budget=4_000_000, edge=512)) == 6
    assert len(opened.some(large=10, budget=1, edge=512)) == 1
    askew = Windows(grid, 1, (384, 384), note).some(large=10, budget=2_000_000, edge=512)
    assert len(askew) == 3 and sum(prod(part.stop - part.start for part in one) for one in askew) <= 2_000_000
    opened.whole()
    assert read == [opened.all]


def test_what_the_caller_does_wrong_is_not_the_files_fault(tmp_path: Path) -> None:
    file = save(tmp_path / "a.tif", np.ones((1, 4, 4), "u1"))
    with pytest.raises(ValueError, match="mine"), Raster().open_windows([file]) as opened:
        opened.whole()
        raise ValueError("mine")


def test_a_file_that_is_cut_short_is_told_by_its_window(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (1, 256, 256)).astype("u1")
    whole = save(tmp_path / "a.tif", noise, tiled=True, blockxsize=64, blockysize=64, compress="deflate").read_bytes()
    (tmp_path / "b.tif").write_bytes(whole[: len(whole) // 2])
    with (
        pytest.raises(BadData, match=r"b.tif: cannot be read"),
        Raster().open_windows([tmp_path / "b.tif"]) as opened,
    ):
        opened.read((slice(192, 256), slice(192, 256)))
