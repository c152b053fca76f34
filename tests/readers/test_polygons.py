"""Polygons of labels: whole objects, in the right place, with the right area."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.features import rasterize, shapes
from rasterio.warp import transform_geom

from autoseg.errors import BadData
from autoseg.readers import polygons
from autoseg.readers.polygons import write_polygons

UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 359130, 0, -10, 5352340)}
NAMES = {0: "background", 1: "water", 2: "wood", 7: "Straße"}


def save(file: Path, label: np.ndarray, **options: Any) -> Path:
    height, width = label.shape
    size = {"count": 1, "height": height, "width": width, "dtype": label.dtype.name}
    with rasterio.open(file, "w", driver="PNG" if file.suffix == ".png" else "GTiff", **size, **options) as target:
        target.write(label, 1)
    return file


def written(label: Path, names: dict[int, str] = NAMES, **keys: Any) -> list[dict[str, Any]]:
    target = label.with_suffix(".geojson")
    count = write_polygons(label, target, names, **keys)
    found = json.loads(target.read_text(encoding="utf-8"))
    assert found["type"] == "FeatureCollection" and len(found["features"]) == count
    assert {path.name for path in target.parent.iterdir()} == {label.name, target.name}
    features: list[dict[str, Any]] = found["features"]
    return features


def blobs(height: int = 90, width: int = 70) -> np.ndarray:
    noise = np.random.default_rng(0).random((height // 5 + 1, width // 5 + 1))
    label = np.select([noise > 0.8, noise > 0.6, noise > 0.4], [7, 2, 1]).astype("u1")
    return np.kron(label, np.ones((5, 5), "u1"))[:height, :width]


def burnt(features: list[dict[str, Any]], shape: tuple[int, int], **place: Any) -> np.ndarray:
    """The polygons as a label."""
    crs, transform = place.get("crs"), place.get("transform", rasterio.Affine.identity())
    pairs = [
        (transform_geom("EPSG:4326", crs, one["geometry"]) if crs else one["geometry"], one["properties"]["value"])
        for one in features
    ]
    filled: np.ndarray = rasterize(pairs, out_shape=shape, transform=transform, dtype="uint8")
    return filled


@pytest.mark.parametrize("turned", [False, True])
@pytest.mark.parametrize("rows", [1000, 16, 1])
def test_polygons_burn_back_to_their_label(tmp_path, monkeypatch, rows: int, turned: bool) -> None:
    label = blobs()
    monkeypatch.setattr(polygons, "PIXELS", rows * label.shape[1])
    place = dict(UTM)
    if turned:
        place["transform"] = rasterio.Affine(8, -6, 359130, -6, -8, 5352340)
    features = written(save(tmp_path / "a.tif", label, **place))
    assert np.array_equal(burnt(features, label.shape, **place), label)
    count = sum(1 for _ in shapes(label, mask=label > 0, connectivity=4))
    assert len(features) == count > 20  # whole ones, whatever was looked at together
    assert {one["properties"]["class"] for one in features} == {"water", "wood", "Straße"}


def test_outer_rings_run_counterclockwise_and_holes_clockwise(tmp_path: Path) -> None:
    label = np.zeros((9, 9), "u1")
    label[1:8, 1:8] = 1
    label[3:5, 3:6] = 0
    (feature,) = written(save(tmp_path / "a.tif", label, **UTM))
    outer, hole = (np.array(ring) for ring in feature["geometry"]["coordinates"])
    for ring, sign in ((outer, 1), (hole, -1)):
        assert np.array_equal(ring[0], ring[-1])
        x, y = ring.T
        assert sign * (x[:-1] * y[1:] - x[1:] * y[:-1]).sum() > 0
    assert feature["properties"]["pixels"] == 43


@pytest.mark.parametrize(
    ("crs", "transform", "expected"),
    [
        ("EPSG:32633", UTM["transform"], 100.0),
        ("EPSG:4326", rasterio.Affine(1e-4, 0, 20, 0, -1e-4, 60), 1e-8 * 111_412.24 * 55_800.25),
        ("EPSG:3857", rasterio.Affine(20, 0, 2_226_389.8, 0, -20, 8_399_737.9), 100.0),  # at 60° N a pixel is 10 m
        ("EPSG:2263", rasterio.Affine(3, 0, 984_000, 0, -6, 200_000), 18 * 0.3048006**2),
    ],
)
def test_areas_are_those_on_the_ground(tmp_path: Path, crs: str, transform: Any, expected: float) -> None:
    label = np.zeros((9, 9), "u1")
    label[2:6, 2:7] = 1
    (feature,) = written(save(tmp_path / "a.tif", label, crs=crs, transform=transform))
    assert feature["properties"]["pixels"] == 20
    assert feature["properties"]["area_m2"] == pytest.approx(20 * expected, rel=5e-3)


def test_the_whole_earth_has_its_area() -> None:
    ring = np.array([(-180.0, -90.0), (180.0, -90.0), (180.0, 90.0), (-180.0, 90.0), (-180.0, -90.0)])
    assert polygons._area([polygons._equal_area(ring)]) == pytest.approx(510_065_621_724_089, rel=1e-9)


def test_background_nodata_and_what_has_no_name_are_left_out(tmp_path: Path) -> None:
    label = np.array([[0, 1, 255], [2, 9, 255]], "u1")
    values = {one["properties"]["value"] for one in written(save(tmp_path / "a.tif", label, **UTM))}
    assert values == {1, 2}
    declared = save(tmp_path / "a.tif", label, nodata=255, **UTM)
    assert {one["properties"]["value"] for one in written(declared, NAMES | {255: "x"})} == {1, 2}
    assert {one["properties"]["value"] for one in written(declared, NAMES, nodata=2)} == {1}


@pytest.mark.parametrize("dtype", ["i2", "u2", "i4"])
def test_labels_of_any_whole_numbers(tmp_path: Path, dtype: str) -> None:
    label = np.array([[0, 300, 300], [5, 5, 0]], dtype)
    found = written(save(tmp_path / "a.tif", label, **UTM), {300: "a", 5: "b"})
    assert sorted((one["properties"]["value"], one["properties"]["pixels"]) for one in found) == [(5, 2), (300, 2)]


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
def test_without_coordinates_they_are_in_pixels_and_that_is_noted(tmp_path: Path, name: str) -> None:
    label = np.zeros((4, 5), "u1")
    label[1:3, 2:5] = 2
    (feature,) = written(save(tmp_path / name, label))
    ring = np.array(feature["geometry"]["coordinates"][0])
    assert (ring.min(0).tolist(), ring.max(0).tolist()) == ([2, 1], [5, 3])
    assert feature["properties"] == {"class": "wood", "value": 2, "pixels": 6}
    assert "no coordinate system" in json.loads((tmp_path / "a.geojson").read_text())["note"]


def test_across_the_date_line_a_polygon_stays_in_one_piece(tmp_path: Path) -> None:
    place = {"crs": "EPSG:32601", "transform": rasterio.Affine(100_000, 0, 100_000, 0, -1000, 2000)}
    (feature,) = written(save(tmp_path / "a.tif", np.ones((1, 2), "u1"), **place))
    x = np.array(feature["geometry"]["coordinates"][0])[:, 0]
    assert 179 < x.min() < 180 < x.max() < 182
    assert feature["properties"]["area_m2"] == pytest.approx(2e8, rel=5e-3)


@pytest.mark.parametrize("shape", [(1, 1), (1, 30), (30, 1)])
@pytest.mark.parametrize("value", [0, 1])
def test_a_pixel_a_row_and_nothing(tmp_path: Path, shape: tuple[int, int], value: int) -> None:
    features = written(save(tmp_path / "a.tif", np.full(shape, value, "u1"), **UTM))
    assert [one["properties"]["pixels"] for one in features] == [shape[0] * shape[1]] * value


def test_what_lies_outside_of_the_earth_is_told(tmp_path: Path) -> None:
    place = {"crs": "EPSG:4326", "transform": rasterio.Affine(1, 0, 0, 0, -1, 400)}
    with pytest.raises(BadData, match=r"a.tif: .*(outside of the Earth|cannot be read)"):
        write_polygons(save(tmp_path / "a.tif", np.ones((2, 2), "u1"), **place), tmp_path / "a.json", NAMES)


def test_no_more_polygons_are_held_than_a_strip_has_or_cross_one(tmp_path, monkeypatch) -> None:
    label = np.zeros((100, 60), "u1")
    label[::2, ::2] = 1
    label[:, 30] = 2
    monkeypatch.setattr(polygons, "PIXELS", 60 * 10)
    held: list[int] = []

    def counted(*words: Any, **keys: Any) -> Any:
        found = list(shapes(*words, **keys))
        held.append(len(found))
        return iter(found)

    monkeypatch.setattr("rasterio.features.shapes", counted)
    features = written(save(tmp_path / "a.tif", label, **UTM))
    assert len(features) == sum(held) == 50 * 29 + 1 and len(held) == 11
    assert max(held) < 10 * 30  # the last is the column, and what lies in the first and last rows of strips


def test_a_real_label(real: Path, tmp_path: Path) -> None:
    file = real / "Sen1Floods11_sample" / "labels" / "Mekong_333434_LabelHand.tif"
    target = tmp_path / "a.geojson"
    count = write_polygons(file, target, {0: "dry", 1: "water"})
    found = json.loads(target.read_text())["features"]
    with rasterio.open(file) as opened:
        water = opened.read(1) == 1
        left, bottom, right, top = opened.bounds
    assert len(found) == count > 0
    assert sum(one["properties"]["pixels"] for one in found) == water.sum()
    corners = np.concatenate([ring for one in found for ring in one["geometry"]["coordinates"]])
    assert (corners.min(0) >= (left - 1e-6, bottom - 1e-6)).all()
    assert (corners.max(0) <= (right + 1e-6, top + 1e-6)).all()
