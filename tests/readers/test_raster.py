"""Rasters: bands, masks and metres in; labels out on the image's grid; bad files are told."""

from __future__ import annotations

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from autoseg.errors import BadData
from autoseg.readers import same_place
from autoseg.readers.raster import Raster

UTM = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 359130, 0, -10, 5352340)}
pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


def save(path: Path, bands: np.ndarray, alpha: bool = False, **options: Any) -> Path:
    driver = {".png": "PNG", ".jpg": "JPEG"}.get(path.suffix, "GTiff")
    count, height, width = bands.shape
    size = {"count": count, "height": height, "width": width, "dtype": bands.dtype.name}
    if driver == "GTiff":
        options = {"photometric": "minisblack", **options}
    with rasterio.open(path, "w", driver=driver, **size, **options) as target:
        if driver == "GTiff" and count > 1:
            last = ColorInterp.alpha if alpha else ColorInterp.undefined
            target.colorinterp = [ColorInterp.gray] + [ColorInterp.undefined] * (count - 2) + [last]
        target.write(bands)
    return path


def bands_of(count: int, dtype: str = "u1") -> np.ndarray:
    return np.random.default_rng(0).integers(1, 99, (count, 5, 7)).astype(dtype)


@pytest.mark.parametrize("dtype", ["u1", "u2", "i2", "f4"])
@pytest.mark.parametrize("count", [1, 2, 3, 4, 13])
def test_bands_are_read_as_they_are(tmp_path: Path, count: int, dtype: str) -> None:
    bands = bands_of(count, dtype)
    image = Raster().read([save(tmp_path / "a.tif", bands)])
    assert image.array.dtype == bands.dtype and np.array_equal(image.array, bands)
    assert image.spacing == (1.0, 1.0) and image.valid is None


@pytest.mark.parametrize(("dtype", "expected"), [("f8", "f4"), ("i1", "i2"), ("i4", "f4"), ("u4", "f4")])
def test_other_dtypes_are_widened(tmp_path: Path, dtype: str, expected: str) -> None:
    bands = bands_of(2, dtype)
    image = Raster().read([save(tmp_path / "a.tif", bands)])
    assert image.array.dtype == np.dtype(expected) and np.array_equal(image.array, bands)


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match=r"a.tif: holds complex64"):
        Raster().read([save(tmp_path / "a.tif", bands_of(1, "c8"))])


@pytest.mark.parametrize(("ending", "count", "dtype"), [("png", 1, "u1"), ("png", 3, "u2"), ("jpg", 3, "u1")])
def test_pictures(tmp_path: Path, ending: str, count: int, dtype: str) -> None:
    bands = bands_of(count, dtype)
    image = Raster().read([save(tmp_path / f"a.{ending}", bands)])
    assert image.array.shape == bands.shape and image.array.dtype == bands.dtype
    assert ending == "jpg" or np.array_equal(image.array, bands)


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_alpha_is_a_mask_and_no_channel(tmp_path: Path, ending: str, count: int) -> None:
    bands = bands_of(count)
    bands[-1] = 255
    bands[-1, 2, 3] = 0
    image = Raster().read([save(tmp_path / f"a.{ending}", bands, alpha=True)])
    assert np.array_equal(image.array, bands[:-1])
    assert image.valid is not None and np.array_equal(image.valid, bands[-1] > 0)


def test_nodata_is_handed_on_where_it_hides_nothing(tmp_path: Path) -> None:
    def handed_on(nodata: float | None, values: list[int]) -> float | None:
        image = Raster().read([save(tmp_path / "a.tif", bands_of(2, "f4"), nodata=nodata)])
        label = np.resize(np.array(values), image.shape)
        Raster().write_label(tmp_path / "l.tif", label, image)
        with rasterio.open(tmp_path / "l.tif") as written:
            assert np.array_equal(written.read(1), label)
            found: float | None = written.nodata
        return found

    assert handed_on(255, [0, 1]) == 255
    assert handed_on(0, [0, 1]) is None and handed_on(0, [1, 2]) == 0
    assert handed_on(-9999, [0, 1]) is None and handed_on(-9999, [0, -1]) == -9999
    assert handed_on(np.nan, [0, 1]) is None and handed_on(None, [0, 1]) is None


def test_nodata_and_nan_are_not_valid(tmp_path: Path) -> None:
    bands = bands_of(2, "f4")
    bands[0, 1, 1], bands[1, 2, 2] = -9999, np.nan
    image = Raster().read([save(tmp_path / "a.tif", bands, nodata=-9999)])
    assert image.valid is not None and np.argwhere(~image.valid).tolist() == [[1, 1], [2, 2]]
    assert image.placement["nodata"] == -9999
    for nodata in (np.nan, None):
        image = Raster().read([save(tmp_path / "b.tif", bands, nodata=nodata)])
        assert image.valid is not None and np.argwhere(~image.valid).tolist() == [[2, 2]]


def test_palettes_are_indices_in_labels_and_colours_in_pictures(tmp_path: Path) -> None:
    index = np.array([[[0, 1], [2, 1]]], dtype=np.uint8)
    with rasterio.open(tmp_path / "a.png", "w", driver="PNG", count=1, height=2, width=2, dtype="uint8") as target:
        target.write_colormap(1, {0: (9, 8, 7, 255), 1: (255, 0, 0, 255), 2: (0, 0, 255, 255)})
        target.write(index)
    assert np.array_equal(Raster().read_label(tmp_path / "a.png").array, index)
    colours = Raster().read([tmp_path / "a.png"]).array
    assert colours[:, 0, 0].tolist() == [9, 8, 7] and colours[:, 1, 0].tolist() == [0, 0, 255]


def test_labels_saved_as_colours(tmp_path: Path) -> None:
    grey = np.repeat(bands_of(1), 3, axis=0)
    assert np.array_equal(Raster().read_label(save(tmp_path / "a.png", grey)).array, grey[:1])
    with pytest.raises(BadData, match="3 bands that differ"):
        Raster().read_label(save(tmp_path / "b.png", bands_of(3)))


def test_spacing_in_metres(tmp_path: Path) -> None:
    bands = bands_of(1)
    assert Raster().read([save(tmp_path / "a.tif", bands, **UTM)]).spacing == pytest.approx((10, 10))
    feet = {"crs": "EPSG:2263", "transform": rasterio.Affine(3, 0, 0, 0, -6, 0)}
    spacing = Raster().read([save(tmp_path / "b.tif", bands, **feet)]).spacing
    assert spacing == pytest.approx((6 * 0.3048, 3 * 0.3048), rel=1e-4)
    turned = rasterio.Affine(2 * 0.8, -5 * 0.6, 9, 2 * 0.6, 5 * 0.8, 9)
    spacing = Raster().read([save(tmp_path / "c.tif", bands, crs="EPSG:32633", transform=turned)]).spacing
    assert spacing == pytest.approx((5, 2))
    degrees = {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-4, 0, 20, 0, -1e-4, 60)}
    height, width = Raster().read([save(tmp_path / "d.tif", bands, **degrees)]).spacing
    assert height == pytest.approx(11.14, rel=0.01)
    assert width == pytest.approx(11.13 * math.cos(math.radians(60)), rel=0.01)


def test_a_pixel_is_enough(tmp_path: Path) -> None:
    image = Raster().read([save(tmp_path / "a.tif", np.array([[[7]]], dtype=np.uint8), **UTM)])
    Raster().write_label(tmp_path / "b.tif", image.array[0], image)
    assert np.array_equal(Raster().read_label(tmp_path / "b.tif").array, image.array)


@pytest.mark.parametrize(
    ("values", "dtype"), [((0, 255), "u1"), ((0, 256), "u2"), ((-1, 9), "i2"), ((-1, 99999), "i4")]
)
@pytest.mark.parametrize("size", [2, 600])
def test_labels_lie_where_their_image_lies(tmp_path: Path, values: tuple[int, int], dtype: str, size: int) -> None:
    image = Raster().read([save(tmp_path / "a.tif", np.ones((1, size, size + 1), np.uint8), **UTM)])
    label = np.full(image.shape, values[0])
    label[-1, -1] = values[1]
    Raster().write_label(tmp_path / "b.tif", label, image)
    with rasterio.open(tmp_path / "b.tif") as written:
        assert written.crs == UTM["crs"] and written.transform == UTM["transform"] and written.nodata is None
        assert written.dtypes[0] == np.dtype(dtype).name and (written.block_shapes[0] == (256, 256)) == (size > 512)
    read = Raster().read_label(tmp_path / "b.tif")
    assert np.array_equal(read.array[0], label) and not same_place(image, read)


def test_pictures_get_png_labels(tmp_path: Path) -> None:
    assert [Raster().label_ending(e) for e in (".jpg", ".png", ".tif", ".tiff")] == [".png", ".png", ".tif", ".tiff"]
    image = Raster().read([save(tmp_path / "a.jpg", bands_of(3))])
    label = bands_of(1)[0]
    Raster().write_label(tmp_path / "b.png", label, image)
    assert np.array_equal(Raster().read_label(tmp_path / "b.png").array[0], label)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.jpg", "b.png"]
    for wrong in (label.astype(int) - 200, label[:2], label.astype(float)):
        with pytest.raises(BadData, match=r"b.png"):
            Raster().write_label(tmp_path / "b.png", wrong, image)


def test_band_groups_are_joined_when_they_fit(tmp_path: Path) -> None:
    one = save(tmp_path / "one.tif", bands_of(2), **UTM)
    two = save(tmp_path / "two.tif", bands_of(1, "f4"), **UTM)
    plain = save(tmp_path / "plain.png", bands_of(1))
    image = Raster().read([plain, one, two])
    assert image.array.shape == (4, 5, 7) and image.array.dtype == np.float32 and image.spacing == (10, 10)
    small = save(tmp_path / "small.tif", bands_of(1)[:, :3], **UTM)
    moved = save(tmp_path / "moved.tif", bands_of(1), crs=UTM["crs"], transform=rasterio.Affine(10, 0, 0, 0, -10, 0))
    other = save(tmp_path / "other.tif", bands_of(1), crs="EPSG:32634", transform=UTM["transform"])
    for bad in (small, moved, other):
        with pytest.raises(BadData, match=rf"{bad.name}: differs from .*one.tif"):
            Raster().read([one, bad])


def test_labels_of_another_place(tmp_path: Path) -> None:
    image = Raster().read([save(tmp_path / "a.tif", bands_of(1), **UTM)])
    shifted = {"crs": UTM["crs"], "transform": rasterio.Affine(10, 0, 359133, 0, -10, 5352340)}
    misfit = same_place(image, Raster().read_label(save(tmp_path / "b.tif", bands_of(1), **shifted)))
    assert misfit.sentence == "the label lies 3 m away from the image (0.3 voxels)" and not misfit.fatal
    far = {"crs": "EPSG:4326", "transform": rasterio.Affine(1e-4, 0, 1, 0, -1e-4, 1)}
    misfit = same_place(image, Raster().read_label(save(tmp_path / "c.tif", bands_of(1), **far)))
    assert misfit.fatal and "EPSG:32633" in misfit.sentence and "EPSG:4326" in misfit.sentence
    assert not same_place(image, Raster().read_label(save(tmp_path / "d.png", bands_of(1))))


@pytest.mark.parametrize("ending", ["tif", "png", "jpg"])
def test_damaged_files_are_told(tmp_path: Path, ending: str, capfd: pytest.CaptureFixture[str]) -> None:
    bands = np.random.default_rng(0).integers(0, 255, (3, 60, 70)).astype(np.uint8)
    whole = save(tmp_path / f"a.{ending}", bands, **({"compress": "deflate"} if ending == "tif" else {})).read_bytes()
    bad = tmp_path / f"bad.{ending}"
    for content in (b"", whole[:3], whole[:90], whole[: len(whole) // 2], whole[:-40], b"<VRTDataset/>"):
        bad.write_bytes(content)
        with pytest.raises(BadData, match=rf"bad.{ending}") as caught:
            Raster().read([bad])
        assert "\n" not in str(caught.value)
    with pytest.raises(BadData, match="no such file"):
        Raster().read_label(tmp_path / "absent.tif")
    assert capfd.readouterr().err == ""


def test_stacks_of_pages_are_told(tmp_path: Path) -> None:
    for append in ("NO", "YES"):
        save(tmp_path / "a.tif", bands_of(1), append_subdataset=append)
    with pytest.raises(BadData, match="2 pages"):
        Raster().read([tmp_path / "a.tif"])


def test_the_readers_import_no_library() -> None:
    code = "import sys, autoseg.readers.raster, autoseg.readers.nifti as n; n.Nifti(); print(sorted(sys.modules))"
    names = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "'rasterio'" not in names and "'nibabel'" not in names


@pytest.mark.real
def test_real_rasters(real: Path) -> None:
    floods = real / "Sen1Floods11_sample"
    image = Raster().read([floods / "S1/Nigeria_812045_S1Hand.tif"])
    assert image.valid is not None and 0.99 < image.valid.mean() < 1
    assert not same_place(image, Raster().read_label(floods / "labels/Nigeria_812045_LabelHand.tif"))
    nothing = Raster().read([floods / "S1/Paraguay_34417_S1Hand.tif"])
    assert nothing.valid is not None and not nothing.valid.any()
    assert Raster().read([floods / "S2/Spain_7370579_S2Hand.tif"]).channels == 13
    assert Raster().read([real / "GeoTIFF_samples/naip_rgbn/m_4709963_se_14_1_20090818.tif"]).channels == 4
    pair = real / "Amazon_Forest_GeoTIFF/mismatched_pair"
    scene = Raster().read([pair / "Amazon_181_34.tif"])
    assert same_place(scene, Raster().read_label(pair / "Amazon_181_34_mask_original.png")).fatal
