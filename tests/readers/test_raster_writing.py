"""Labels written by windows: equal to what was given, where the image lies, whole or not at all."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from hypothesis import given, settings
from hypothesis import strategies as st
from rasterio.control import GroundControlPoint
from rasterio.rpc import RPC

from autoseg.errors import BadData, RunFailed
from autoseg.readers import same_place
from autoseg.readers.raster import Raster
from autoseg.readers.raster_writing import colours_for, label_dtype, nodata_for, open_label
from autoseg.readers.windows import blank
from autoseg.records import Channel, Question

UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 359130, 0, -10, 5352340)}


def asked(labels: dict[str, int], **fields: Any) -> Question:
    return Question(reader="raster", channels=(Channel(name="x", kind="other"),), labels=labels, **fields)


def grid(shape: tuple[int, int], **placement: object) -> Any:
    return blank(shape, (1.0, 1.0), {"kind": "raster", **placement})


def image_of(file: Path, shape: tuple[int, int], **options: Any) -> Any:
    """The grid of an image file with such coordinates."""
    height, width = shape
    with rasterio.open(file, "w", driver="GTiff", count=1, height=height, width=width, dtype="uint8", **options) as out:
        out.write(np.ones((1, *shape), "u1"))
    with Raster().open_windows([file]) as opened:
        return opened.grid


def pieces(shape: tuple[int, int], rows: int, columns: int) -> list[tuple[slice, slice]]:
    """Boxes that cover the shape once, row by row."""
    return [
        (slice(y, min(y + rows, shape[0])), slice(x, min(x + columns, shape[1])))
        for y in range(0, shape[0], rows)
        for x in range(0, shape[1], columns)
    ]


def write(file: Path, label: np.ndarray, boxes: list[tuple[slice, slice]], *more: Any, like: Any = None) -> np.ndarray:
    """What a file holds that was written so."""
    with open_label(file, like or grid(label.shape), label.dtype, *more) as target:
        for box in boxes:
            target.write(box, label[box])
    with rasterio.open(file) as written:
        found: np.ndarray = written.read(1)
    return found


@settings(max_examples=25, deadline=None)
@given(
    st.integers(1, 700), st.integers(1, 700), st.integers(100, 700), st.integers(100, 700),
    st.sampled_from(["u1", "i2", "u2", "i4"]), st.randoms(use_true_random=False),
)  # fmt: skip
def test_pieces_of_any_size_in_any_order_make_the_label(tmp_path_factory, height, width, rows, columns, dtype, random):
    label = np.random.default_rng(0).integers(0, 120, (height, width)).astype(dtype)
    boxes = pieces(label.shape, rows, columns)
    random.shuffle(boxes)
    folder = tmp_path_factory.mktemp("pieces")
    assert np.array_equal(write(folder / "a.tif", label, boxes), label)
    assert [path.name for path in folder.iterdir()] == ["a.tif"]


def test_rows_hold_no_more_than_their_blocks(tmp_path: Path) -> None:
    label = np.arange(1000 * 900, dtype="u1").reshape(1000, 900)
    with open_label(tmp_path / "a.tif", grid(label.shape), "u1") as target:
        for box in pieces(label.shape, 70, 900):
            target.write(box, label[box])
            assert len(target._open) <= 4  # one row of blocks
    with rasterio.open(tmp_path / "a.tif") as written:
        assert np.array_equal(written.read(1), label)


@pytest.mark.parametrize(("size", "large"), [(512, False), (513, True), (1500, True)])
def test_large_labels_are_cloud_optimised(tmp_path: Path, size: int, large: bool) -> None:
    label = np.repeat(np.arange(size, dtype="i4")[:, None] // 64, 40, axis=1).astype("u1")
    assert np.array_equal(write(tmp_path / "a.tif", label, pieces(label.shape, 100, 40)), label)
    with rasterio.open(tmp_path / "a.tif") as written:
        layout = written.tags(ns="IMAGE_STRUCTURE").get("LAYOUT")
        assert (layout == "COG") is large and bool(written.overviews(1)) is large
        assert written.compression.name == "deflate"
        small = written.read(1, out_shape=(size // 8, 5))
        assert set(np.unique(small)) <= set(np.unique(label))  # no value between two classes


@pytest.mark.parametrize("size", [40, 600])
@pytest.mark.parametrize("kind", ["north", "turned", "degrees", "none"])
def test_a_label_lies_where_its_image_lies(tmp_path: Path, kind: str, size: int) -> None:
    places: dict[str, dict[str, Any]] = {
        "north": UTM,
        "turned": {"crs": "EPSG:32633", "transform": rasterio.Affine(8, -6, 359130, -6, -8, 5352340)},
        "degrees": {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-4, 0, 20, 0, -1e-4, 60)},
        "none": {},
    }
    like = image_of(tmp_path / "i.tif", (size, size + 3), **places[kind])
    label = np.ones(like.shape, "u1")
    write(tmp_path / "a.tif", label, pieces(label.shape, 256, 256), like=like)
    with rasterio.open(tmp_path / "i.tif") as image, rasterio.open(tmp_path / "a.tif") as written:
        assert written.crs == image.crs and written.transform == image.transform and written.shape == image.shape
    assert not same_place(like, Raster().read_label(tmp_path / "a.tif"))


@pytest.mark.parametrize("size", [40, 600])
def test_control_points_and_polynomials_are_kept(tmp_path: Path, size: int) -> None:
    points = [GroundControlPoint(r, c, 10 + c * 1e-4, 50 - r * 1e-4, 5.0) for r, c in ((0, 0), (0, 9), (9, 0), (9, 9))]
    offsets = {f"{name}_{what}": 2.0 for name in ("height", "lat", "long", "line", "samp") for what in ("off", "scale")}
    lists = {f"{name}_{part}_coeff": [1.0] * 20 for name in ("line", "samp") for part in ("num", "den")}
    rpcs = RPC(**offsets, **lists)
    like = image_of(tmp_path / "i.tif", (size, size), gcps=points, crs="EPSG:4326", rpcs=rpcs)
    write(tmp_path / "a.tif", np.ones(like.shape, "u1"), pieces(like.shape, 300, size), like=like)
    with rasterio.open(tmp_path / "a.tif") as written:
        found, crs = written.gcps
        assert [(p.row, p.col, p.x, p.y, p.z) for p in found] == [(p.row, p.col, p.x, p.y, p.z) for p in points]
        assert crs == "EPSG:4326" and written.rpcs.line_num_coeff == [1.0] * 20
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "i.tif"]


@pytest.mark.parametrize("size", [40, 600])
def test_nodata_is_declared_where_a_pixel_has_it_or_the_image_declares_one(tmp_path: Path, size: int) -> None:
    def declared(value: int, **placement: object) -> float | None:
        label = np.ones((size, size), "u1")
        label[-1, -1] = value
        found = write(
            tmp_path / "a.tif", label, pieces(label.shape, 256, 256), 255, like=grid(label.shape, **placement)
        )
        assert np.array_equal(found, label)
        with rasterio.open(tmp_path / "a.tif") as written:
            nodata: float | None = written.nodata
        return nodata

    assert declared(255) == 255 and declared(0) is None and declared(0, nodata=-9999.0) == 255


@pytest.mark.parametrize("size", [40, 600])
def test_classes_have_colours(tmp_path: Path, size: int) -> None:
    question = asked({"background": 0, "a": 1, "b": 2, "c": 9})
    colours = colours_for(question, 255)
    label = np.resize(np.array([0, 1, 2, 9, 255], "u1"), (size, size))
    found = write(tmp_path / "a.tif", label, pieces(label.shape, 256, 256), 255, colours)
    assert np.array_equal(found, label)
    with rasterio.open(tmp_path / "a.tif") as written:
        table = written.colormap(1)
    assert [table[value][:3] for value in (0, 1, 2, 9)] == [colours[value][:3] for value in (0, 1, 2, 9)]
    assert np.array_equal(Raster().read_label(tmp_path / "a.tif").array[0], label)
    write(tmp_path / "b.tif", label.astype("i2"), pieces(label.shape, 256, 256), 255, colours)  # has none


def test_colours_differ_and_are_the_tasks_own_where_it_has_some() -> None:
    many = asked({f"c{value}": value for value in range(30)})
    colours = np.array([colour[:3] for colour in colours_for(many, 255).values()], int)
    apart = np.abs(colours[:, None] - colours[None]).sum(2) + 999 * np.eye(len(colours), dtype=int)
    assert apart.min() >= 20 and colours_for(many)[0] == (0, 0, 0, 255)
    own = asked({"land": 3, "sea": 4}, colours={"#3c1098": 3, "#808080": 4, "#000000": 4})
    assert colours_for(own) == {3: (60, 16, 152, 255), 4: (128, 128, 128, 255)}
    assert colours_for(own, 0)[0] == (129, 129, 129, 0)


def test_the_value_of_nothing_is_that_of_no_class() -> None:
    plain = {"background": 0, "a": 1}
    assert nodata_for(asked(plain), {}) == 255
    assert nodata_for(asked(plain, ignore=254), {"nodata": 7.0}) == 254
    assert nodata_for(asked(plain, ignore=-1), {"nodata": 7.0}) == 7  # uint8 holds no -1
    for own in (0.0, 1.0, -9999.0, 7.5, float("nan"), None):
        assert nodata_for(asked(plain), {"nodata": own}) == 255
    assert nodata_for(asked({"a": 0, "b": 255}), {"nodata": 255.0}) == 254
    assert nodata_for(asked({"a": 0, "b": 1}, merged={255: 1, 254: 0}), {}) == 253
    assert nodata_for(asked({"a": -1, "b": 1}), {"nodata": -9999.0}) == -9999
    for labels in ({"a": 0, "b": 255}, {"a": -1, "b": 255}, {"a": 0, "b": 65535}, {"a": -1, "b": 65535}):
        limits = np.iinfo(label_dtype(asked(labels)))
        assert limits.min <= min(labels.values()) and max(labels.values()) <= limits.max


def test_pictures_get_png_of_plain_values(tmp_path: Path) -> None:
    label = np.resize(np.array([0, 1, 300], "i2"), (20, 30))
    assert np.array_equal(write(tmp_path / "a.png", label, pieces(label.shape, 7, 11), 255), label)
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]
    with pytest.raises(BadData, match=r"a.png: label values from -1"):
        write(tmp_path / "a.png", label - 1, pieces(label.shape, 20, 30))


@pytest.mark.parametrize("name", ["a.tif", "a.png"])
@pytest.mark.parametrize("size", [40, 600])
def test_a_label_with_a_gap_is_none(tmp_path: Path, name: str, size: int) -> None:
    label = np.ones((size, size), "u1")
    with pytest.raises(ValueError, match="were not written"):
        write(tmp_path / name, label, pieces(label.shape, 30, 30)[1:])
    assert not list(tmp_path.glob("*.tiles"))


def test_a_label_that_is_written_twice_or_does_not_fit_is_refused(tmp_path: Path) -> None:
    label = np.ones((600, 600), "u1")
    boxes = pieces(label.shape, 200, 600)
    with pytest.raises(ValueError, match="written"):
        write(tmp_path / "a.tif", label, [*boxes, boxes[0]])
    with pytest.raises(ValueError, match="does not fit"):
        write(tmp_path / "a.tif", label, [(slice(0, 700), slice(0, 600))])


def test_the_callers_own_error_comes_through_and_leaves_no_tiles(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="mine"), open_label(tmp_path / "a.tif", grid((600, 600)), "u1"):
        raise OSError("mine")
    assert not list(tmp_path.iterdir())


FULL = """
import resource, sys
from pathlib import Path
import numpy as np
from autoseg.errors import RunFailed
from autoseg.readers.raster_writing import open_label
from autoseg.readers.windows import blank
file, most, size = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
label = np.random.default_rng(0).integers(0, 255, (size, size)).astype("u1")
resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
try:
    with open_label(file, blank((size, size), (1.0, 1.0), {}), "u1") as target:
        for row in range(0, size, 100):
            box = slice(row, min(row + 100, size)), slice(0, size)
            target.write(box, label[box])
except RunFailed as problem:
    print(problem)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="a limit of the size of files stands for a full disk")
@pytest.mark.parametrize(("size", "most"), [(300, 20_000), (900, 200_000), (900, 850_000)])
def test_a_full_disk_is_told(tmp_path: Path, size: int, most: int) -> None:
    words = [sys.executable, "-c", FULL, str(tmp_path / "a.tif"), str(most), str(size)]
    told = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert "a.tif: could not be written" in told.stdout and "check the free disk space" in told.stdout, told.stderr
    assert not list(tmp_path.glob("*.tiles"))


def test_a_folder_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(RunFailed, match=r"a.tif.* could not be written"):
        write(tmp_path / "none" / "a.tif", np.ones((600, 600), "u1"), [])


REAL = [
    "Sen1Floods11_sample/S1/Mekong_333434_S1Hand.tif",
    "Amazon_Forest_GeoTIFF/imagesTr/Amazon_122_33.tif",
    "GeoTIFF_samples/naip_rgbn/m_4709963_se_14_1_20090818.tif",
]


@pytest.mark.parametrize("name", REAL)
def test_labels_of_real_rasters(real: Path, tmp_path: Path, name: str) -> None:
    with Raster().open_windows([real / name]) as opened:
        like = opened.grid
    label = np.resize(np.arange(4, dtype="u1"), like.shape)
    question = asked({"background": 0, "a": 1, "b": 2, "c": 3})
    nodata = nodata_for(question, like.placement)
    found = write(
        tmp_path / "a.tif", label, pieces(label.shape, 90, like.shape[1]), nodata, colours_for(question), like=like
    )
    assert np.array_equal(found, label)
    with rasterio.open(real / name) as image, rasterio.open(tmp_path / "a.tif") as written:
        assert written.crs == image.crs and written.transform == image.transform
        assert (written.nodata is None) == (image.nodata is None) and written.nodata not in (0, 1, 2, 3)
