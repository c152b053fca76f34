"""Where tiles lie: blocks of a fixed grid, distances in metres on the plane and on the globe."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.transform import Affine

from autoseg.errors import BadTask, BadUsage
from autoseg.layouts.blocks import DEGREES, PLANE, Blocks, Tiles, length, tiles_of
from autoseg.records import CaseFiles

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def save(file: Path, crs: Any, transform: Affine | None, driver: str = "GTiff") -> CaseFiles:
    place = {} if transform is None else {"crs": crs, "transform": transform}
    with rasterio.open(file, "w", driver=driver, count=1, height=8, width=8, dtype="uint8", **place) as target:
        target.write(np.zeros((1, 8, 8), np.uint8))
    return CaseFiles(id=file.stem, images=(file.name,))


def utm(x: float, y: float) -> Affine:
    return Affine(10, 0, x, 0, -10, y)


@pytest.mark.parametrize(
    ("text", "blocks"),
    [
        ("blocks:2km:200m", (2000, 200)),
        ("blocks:2000:200", (2000, 200)),
        ("blocks:0.5km", (500, 0)),
        ("blocks:0.00001:0.00001", (1e-5, 1e-5)),
    ],
)
def test_blocks_are_spelled_with_units(text: str, blocks: tuple[float, float]) -> None:
    assert Blocks.parse(text) == blocks and Blocks.parse(Blocks.parse(text).text) == blocks


@pytest.mark.parametrize("text", ["blocks", "blocks:", "blocks:0", "blocks:2km:-3", "blocks:2mi", "blocks:1:2:3", "x"])
def test_what_spells_no_blocks(text: str) -> None:
    with pytest.raises(BadUsage, match=r"spells no blocks; expected blocks:SIZE:BUFFER, like blocks:2km:200m"):
        Blocks.parse(text)


def test_lengths_are_written_for_people() -> None:
    assert [length(metres) for metres in (0.5, 200, 1000, 2500)] == ["0.5 m", "200 m", "1 km", "2.5 km"]


def test_tiles_of_one_projected_system_are_measured_in_its_metres(tmp_path: Path) -> None:
    cases = [save(tmp_path / f"{n}.tif", "EPSG:32633", utm(500_000 + 80 * n, 4_000_080)) for n in range(3)]
    tiles = tiles_of(tmp_path, cases)
    assert tiles.ids == ("0", "1", "2") and tiles.grid is PLANE
    assert tiles.bounds.tolist() == [[500_000 + 80 * n, 4_000_000, 500_080 + 80 * n, 4_000_080] for n in range(3)]
    assert tiles.near({"0"}, 80.1) == ["1", "2"] and tiles.near({"0"}, 80) == ["1"] and tiles.near({"0"}, 0) == []
    assert list(tiles.blocks(160).values()) == ["25000,3125", "25000,3125", "25000,3126"]


def test_feet_become_metres_and_no_system_means_metres(tmp_path: Path) -> None:
    feet = tiles_of(tmp_path, [save(tmp_path / "a.tif", "EPSG:2263", utm(1_000_000, 200_000))])
    assert feet.bounds[0, 0] == pytest.approx(1_000_000 * 1200 / 3937)
    bare = tiles_of(tmp_path, [save(tmp_path / "b.tif", None, utm(70, 80))])
    assert bare.grid is PLANE and bare.bounds.tolist() == [[70, 0, 150, 80]]


def test_a_building_sites_own_system_is_plain_and_what_lies_outside_its_system_is_told(tmp_path: Path) -> None:
    site = 'LOCAL_CS["site grid",UNIT["metre",1]]'
    tiles = tiles_of(tmp_path, [save(tmp_path / f"{n}.tif", site, utm(80 * n, 80)) for n in range(2)])
    assert tiles.grid is PLANE and tiles.bounds[1].tolist() == [80, 0, 160, 80]
    far = [save(tmp_path / "far.tif", "EPSG:32633", utm(1e12, 1e12)), save(tmp_path / "b.tif", "EPSG:4326", utm(1, 2))]
    with pytest.raises(BadTask, match=r"coordinates .* (lie outside|cannot be brought)"):
        tiles_of(tmp_path, far)


def test_two_systems_meet_in_degrees(tmp_path: Path) -> None:
    zones = [save(tmp_path / "a.tif", "EPSG:32633", utm(760_000, 5_000_080))]
    with rasterio.open(tmp_path / "a.tif") as source:
        from rasterio.warp import transform_bounds

        west, _, _, north = transform_bounds(source.crs, "EPSG:32634", *source.bounds)
    zones.append(save(tmp_path / "b.tif", "EPSG:32634", utm(west + 200, north)))
    tiles = tiles_of(tmp_path, zones)
    assert tiles.grid is DEGREES and abs(tiles.bounds[0, 1] - 45.1) < 0.1
    # one zone's squares stand askew in the other's
    assert tiles.near({"a"}, 130) == ["b"] and tiles.near({"a"}, 90) == []


def test_tiles_that_overlap_are_near_without_a_buffer(tmp_path: Path) -> None:
    cases = [save(tmp_path / f"{n}.tif", "EPSG:32633", utm(500_000 + 70 * n, 4_000_080)) for n in range(3)]
    assert tiles_of(tmp_path, cases).near({"0"}, 0) == ["1"]


def test_without_coordinates_there_are_no_blocks(tmp_path: Path) -> None:
    bare = [save(tmp_path / "a.png", None, None, "PNG"), save(tmp_path / "b.tif", None, None)]
    with pytest.raises(BadTask, match=r"2 of 2 cases have no map coordinates \(a, b\).*--folds-by groups"):
        tiles_of(tmp_path, bare)
    mixed = [save(tmp_path / "c.tif", None, utm(0, 0)), save(tmp_path / "d.tif", "EPSG:32633", utm(0, 0))]
    with pytest.raises(BadTask, match=r"1 cases name no coordinate system \(c\), others do"):
        tiles_of(tmp_path, mixed)


def test_files_that_cannot_be_opened_have_no_place(tmp_path: Path) -> None:
    good = save(tmp_path / "a.tif", "EPSG:32633", utm(0, 0))
    (tmp_path / "b.tif").write_bytes(b"no raster")
    lost = [CaseFiles(id=id, images=(f"{id}.tif",)) for id in ("b", "c")]
    assert tiles_of(tmp_path, [good, *lost]).ids == ("a",)


def great_circle(one: tuple[float, float], other: tuple[float, float]) -> float:
    """Metres between two points (longitude, latitude) on a sphere of the earth's equatorial radius."""
    (a, b), (c, d) = (map(math.radians, point) for point in (one, other))
    half = math.sin((d - b) / 2) ** 2 + math.cos(b) * math.cos(d) * math.sin((c - a) / 2) ** 2
    return 2 * 6_378_137 * math.asin(math.sqrt(half))


@settings(max_examples=60)
@given(st.floats(-180, 180), st.floats(-75, 75), st.floats(-0.05, 0.05), st.floats(-0.05, 0.05))
def test_distances_on_the_globe_are_right_and_never_too_long(x: float, y: float, dx: float, dy: float) -> None:
    other = ((x + dx + 180) % 360 - 180, y + dy)
    tiles = Tiles(("a", "b"), np.array([(*point, *point) for point in ((x, y), other)]), DEGREES)
    real = great_circle((x, y), other)
    assert tiles.near({"a"}, real + 1e-3) == ["b"]
    assert tiles.near({"a"}, 0.985 * real - 1e-3) == []


def test_the_date_line_parts_nothing(tmp_path: Path) -> None:
    east = Tiles(("a", "b"), np.array([(179.99, 60, 179.999, 60.01), (-179.999, 60, -179.99, 60.01)]), DEGREES)
    assert east.near({"a"}, 120) == ["b"] and east.near({"b"}, 120) == ["a"] and east.near({"a"}, 90) == []
    across = tiles_of(tmp_path, [
        save(tmp_path / "a.tif", "EPSG:4326", Affine(0.01, 0, -180, 0, -0.01, 60.08)),
        save(tmp_path / "b.tif", "EPSG:32660", Affine(1000, 0, 663_000, 0, -1000, 6_656_000)),
    ])  # fmt: skip
    west, _, east_end, _ = across.bounds[1]
    assert west < 180 < east_end < 181 and across.near({"a"}, 0) == ["b"]


@settings(max_examples=60)
@given(st.floats(-179, 178), st.floats(-75, 75), st.sampled_from([500.0, 20_000.0]))
def test_blocks_on_the_globe_are_as_wide_as_asked(x: float, y: float, size: float) -> None:
    step = size / 111_319 / 20
    points = [(x + n * step / math.cos(math.radians(y)), y) for n in range(61)]  # three blocks eastward
    tiles = Tiles(tuple(map(str, range(61))), np.array([(*point, *point) for point in points]), DEGREES)
    found = list(tiles.blocks(size).values())
    assert 3 <= len(set(found)) <= 5 and all(found.count(block) <= 22 for block in found)
