"""Faults of cases, each found and told with the case that has it."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import rasterio
from scipy import ndimage
from skimage.io import imsave

from autoseg.image import Case, Image
from autoseg.layouts.labels_map import fields_of
from autoseg.records import CaseFacts, CaseFiles, Channel, Question, parse
from autoseg.steps.cases import to_indices
from autoseg.steps.fingerprint import examine, measure
from autoseg.steps.look import whole

pytestmark = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")
QUESTION = Question(
    reader="nifti",
    channels=(Channel(name="MRI", kind="mr"),),
    labels={"background": 0, "ball": 1},
    ignore=9,
)


def facts(image: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None) -> CaseFacts:
    case = Case("x", Image(image[None], (1.0,) * image.ndim, valid), label)
    return measure(whole(case), QUESTION, "hash", [])


def told(found: CaseFacts) -> list[tuple[str, bool]]:
    return [(fault.fault, fault.fatal) for fault in found.faults]


@pytest.fixture
def cube() -> tuple[np.ndarray, np.ndarray]:
    image = np.zeros((8, 9, 10), np.float32)
    image[2:6, 2:7, 2:8] = np.random.default_rng(0).normal(5, 1, (4, 5, 6))
    label = np.zeros(image.shape, np.uint8)
    label[3:5, 3:5, 3:5] = 1
    return image, label


def test_a_sound_case_is_measured(cube) -> None:
    found = facts(*cube)
    assert told(found) == [] and found.usable
    assert found.shape == (8, 9, 10) and found.cropped == (4, 5, 6)
    assert found.voxels == {"background": 120 - 8, "ball": 8} and found.components == {"ball": 1}
    inside = cube[0][3:5, 3:5, 3:5]
    assert found.foreground[0].mean == pytest.approx(float(inside.mean()), rel=1e-5)
    assert found.foreground[0].quantiles[0] == pytest.approx(float(inside.min()), rel=1e-6)


def test_values_objects_and_hashes_of_a_case(cube) -> None:
    image, label = cube
    label[0, 0, 0] = 1
    found = facts(np.rint(image), label)
    inside = np.unique(np.rint(image[2:6, 2:7, 2:8])).astype(int)
    assert found.values[0].whole and found.values[0].distinct == tuple(inside.tolist())
    ball = facts(image, label).objects["ball"]
    assert ball.count == 1 and ball.sizes == (8.0,) * 5 and ball.edge == 0.0  # what is cropped off is not there
    assert ball.border == pytest.approx(24 / 1.5)
    assert ball.distance == 3.0  # from the image's edge, not from the crop's
    assert found.pixels != facts(image, label).pixels and found.pixels == facts(np.rint(image), label * 0).pixels
    assert found.pixels != facts(np.rint(image).astype(np.int16), label).pixels
    assert found.orientation == "" and found.nodata is None and found.sampled == 1


def test_objects_at_the_edge_of_a_picture_are_said() -> None:
    label = np.zeros((9, 9), np.uint8)
    label[0, :3] = label[4:6, 4:6] = 1
    image = np.random.default_rng(0).normal(0, 1, (9, 9)).astype(np.float32)
    ball = facts(image, label).objects["ball"]
    assert (ball.count, ball.edge) == (2, 0.5) and (ball.sizes[0], ball.sizes[-1]) == (3.0, 4.0)


def test_without_a_background_every_class_has_objects(cube) -> None:
    image, label = cube
    plain = Question(reader="nifti", channels=QUESTION.channels, labels={"a": 1, "b": 2})
    found = measure(whole(Case("x", Image(image[None], (1.0,) * 3), label + 1)), plain, "hash", [])
    assert found.cropped == image.shape and found.voxels == {"a": image.size - 8, "b": 8}  # as preprocessing leaves it
    assert found.components == {"a": 1, "b": 1}


def test_a_shifted_label_has_a_shift() -> None:
    rng = np.random.default_rng(0)
    label = (ndimage.gaussian_filter(rng.normal(0, 1, (80, 80)), 3) > 0.02).astype(np.uint8)
    image = (label * 9 + rng.normal(0, 1, label.shape)).astype(np.float32)
    found = facts(image, np.roll(label, (3, -2), (0, 1)))
    assert found.shift == (0, -3, 2) and found.gain > 2 and facts(image, label).shift == (0, 0, 0)
    assert facts(image, label).gain == 0 and facts(image, label * 0).shift == ()


def test_where_a_file_lies_is_told(tmp_path: Path) -> None:
    affine = np.array([[0, 0, -2.0, 5], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    for name in ("a", "l"):
        values = np.random.default_rng(0).integers(0, 2, (6, 7, 8)).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(values, affine), tmp_path / f"{name}.nii.gz")
    found = examine(tmp_path, CaseFiles(id="a", images=("a.nii.gz",), labels={"r": "l.nii.gz"}), QUESTION)
    assert found.orientation == "".join(nibabel.aff2axcodes(affine)) == "AIL" and found.shape == (7, 6, 8)


@pytest.mark.parametrize("nodata", [None, -9999.0, np.nan])
def test_the_nodata_of_a_raster_is_told(tmp_path: Path, nodata: float | None) -> None:
    question = QUESTION.model_copy(update={"reader": "raster"})
    for name, values in (("a", np.arange(20.0, dtype="f4").reshape(1, 4, 5)), ("l", np.ones((1, 4, 5), "u1"))):
        size = {"count": 1, "height": 4, "width": 5, "dtype": values.dtype.name}
        marked = {"nodata": nodata} if name == "a" else {}
        with rasterio.open(tmp_path / f"{name}.tif", "w", driver="GTiff", **size, **marked) as target:
            target.write(values)
    found = examine(tmp_path, CaseFiles(id="a", images=("a.tif",), labels={"r": "l.tif"}), question)
    assert found.usable and found.nodata == (nodata if nodata == -9999 else None) and found.orientation == ""


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_solid_fractions_are_not_smoothed_borders(dtype) -> None:
    label = np.zeros((60, 60), dtype)
    label[5:20, 5:20], label[25:40, 5:20], label[25:40, 25:40] = 0.1, 0.2, 0.3
    (fault,) = on_noise(label, QUESTION).faults
    assert fault.fault != "anti-aliased label"


def on_noise(label: np.ndarray, question: Question) -> CaseFacts:
    """The facts of a picture of noise with that label."""
    image = np.random.default_rng(0).normal(0, 1, label.shape).astype(np.float32)[None]
    return measure(whole(Case("x", Image(image, (1.0, 1.0)), label)), question, "hash", [])


def road(dtype: type, top: int) -> tuple[Question, np.ndarray]:
    """A task with a road of the value `top`, and a label whose borders are smoothed."""
    sharp = np.zeros((60, 60))
    sharp[20:40] = top
    roads = QUESTION.model_copy(update={"labels": {"background": 0, "road": top}, "ignore": None})
    return roads, ndimage.gaussian_filter(sharp, 1.5).astype(dtype)


def test_smoothed_borders_of_16_bits_are_not_told_to_take_a_range_that_is_refused() -> None:
    roads, soft = road(np.uint16, 65535)
    (fault,) = on_noise(soft, roads).faults
    assert "threshold the masks at 32767.5" in fault.detail and "--labels-map" not in fault.detail


def test_smoothed_borders_come_with_the_map_that_reads_them() -> None:
    roads, soft = road(np.uint8, 255)
    (fault,) = on_noise(soft, roads).faults
    assert fault.fault == "anti-aliased label" and fault.fatal
    text = fault.detail.rpartition("--labels-map ")[2]
    named = roads.model_copy(update=fields_of(text))
    (at,) = np.nonzero(to_indices(soft, named)[:, 30])
    assert (at[0], at[-1]) == (20, 39)
    more = roads.model_copy(update={"labels": {"background": 0, "road": 255, "roof": 100}})
    assert "without smoothing" in on_noise(soft, more).faults[0].detail
    third = np.zeros((60, 60), np.uint8)
    third[20:40], third[5:9, 5:9] = 255, 7
    assert told(on_noise(third, roads)) == [("undeclared label", True)]


def painted(folder: Path, colours: dict[str, int]) -> tuple[CaseFiles, Question]:
    """A case whose label is painted in two colours, and a question that may know them."""
    image = np.random.default_rng(0).integers(0, 255, (3, 20, 20)).astype(np.uint8)
    mask = np.zeros((3, 20, 20), np.uint8)
    mask[:, 5:9, 5:9] = np.array([60, 16, 152], np.uint8)[:, None, None]
    for name, bands in (("a", image), ("l", mask)):
        imsave(folder / f"{name}.png", np.moveaxis(bands, 0, -1), check_contrast=False)
    channels = tuple(Channel(name=name, kind="rgb") for name in "RGB")
    labels = {"background": 0, "roof": 1}
    question = Question(reader="raster", channels=channels, labels=labels, colours=colours)
    return CaseFiles(id="a", images=("a.png",), labels={"r": "l.png"}), question


def test_colours_are_told_until_they_are_named(tmp_path: Path) -> None:
    found = examine(tmp_path, *painted(tmp_path, {}))
    assert told(found) == [("coloured label", True)] and found.colours == {"#000000": 384, "#3c1098": 16}
    assert "--labels-map '#000000=background,#3c1098=class_2'" in found.faults[0].detail
    found = examine(tmp_path, *painted(tmp_path, {"#000000": 0}))
    assert told(found) == [("undeclared label", True)] and "#3c1098 (16 voxels)" in found.faults[0].detail
    found = examine(tmp_path, *painted(tmp_path, {"#000000": 0, "#3c1098": 1}))
    assert found.usable and found.voxels == {"background": 384, "roof": 16}


NONSENSE = {
    "one value": np.full((20, 20), 3, np.float32),
    "nothing": np.zeros((20, 20), np.float32),
    "largest": np.array([[1, -1]], np.float32) * np.finfo(np.float32).max,
    "not finite": np.array([[np.nan, np.inf, -np.inf, 1.0]], np.float32),
    "no number": np.full((4, 4), np.nan, np.float32),
    "one pixel": np.ones((1, 1), np.float32),
    "one column": np.arange(40, dtype=np.float32)[:, None],
    "one slice": np.random.default_rng(0).normal(0, 1, (1, 30, 30)).astype(np.float32),
}


@pytest.mark.parametrize("label", ["empty", "full", "one", "float", "ignored", "nan", "negative", "fractions"])
@pytest.mark.parametrize("image", NONSENSE)
def test_nonsense_is_measured_and_written(image: str, label: str) -> None:
    values = NONSENSE[image]
    drawn = np.zeros(values.shape, np.float32 if label in ("float", "nan", "fractions") else np.int16)
    drawn.flat[drawn.size // 2] = {"one": 1, "float": 1, "nan": np.nan, "negative": -4}.get(label, 0)
    if label in ("full", "ignored"):
        drawn[:] = 1 if label == "full" else 9
    if label == "fractions":
        drawn.flat[:] = np.linspace(0, 1, drawn.size)
    valid = np.isfinite(values)
    found = facts(values, drawn, None if valid.all() else valid)
    assert parse(CaseFacts, found.model_dump_json(), "facts") == found
    assert [fault for fault in found.faults if not fault.detail] == []


def test_regions_are_measured_by_their_plain_values(cube) -> None:
    image, label = cube
    label[3, 3, 3] = 2
    labels = {"background": 0, "ball": 1, "core": 2}
    plain = QUESTION.model_copy(update={"labels": labels})
    regions = Question(**(dict(plain) | {"regions": {"all": (1, 2), "core": (2,)}, "written": (1, 2)}))
    case = Case("x", Image(image[None], (1.0,) * 3), label)
    found = measure(whole(case), regions, "hash", [])
    assert found == measure(whole(case), plain, "hash", []) and found.voxels == {
        "background": 112,
        "ball": 7,
        "core": 1,
    }
    label[0, 0, 0] = 5
    assert told(measure(whole(case), regions, "hash", [])) == [("undeclared label", True)]
    label[:] = 0
    assert told(measure(whole(case), regions, "hash", [])) == [("empty label", False)]


def test_undeclared_values_come_with_their_counts(cube) -> None:
    image, label = cube
    label[0, 0, :3] = 4
    found = facts(image, label)
    assert told(found) == [("undeclared label", True)] and "4 (3 voxels)" in found.faults[0].detail


def test_anti_aliased_borders_are_suspected(cube) -> None:
    image, label = cube
    label = label.astype(np.float32)
    label.reshape(-1)[:40] = np.linspace(0.01, 0.99, 40)
    assert "anti-aliased" in facts(image, label).faults[0].detail


def test_empty_label_is_a_remark_and_an_ignored_one_is_not_usable(cube) -> None:
    image, label = cube
    assert told(facts(image, label * 0)) == [("empty label", False)]
    assert told(facts(image, label * 0 + 9)) == [("ignored label", True)]


def test_some_nan_is_a_remark_and_all_nan_is_not_usable(cube) -> None:
    image, label = cube
    image[0, 0, 0] = np.inf
    assert told(facts(image, label, np.isfinite(image))) == [("NaN or inf", False)]
    image[:] = np.nan
    assert told(facts(image, label, np.isfinite(image))) == [("NaN or inf", True)]


def test_a_constant_image_is_not_usable(cube) -> None:
    image, label = cube
    assert told(facts(image * 0 + 3, label)) == [("constant image", True)]


def test_a_constant_channel_among_others_is_a_remark(cube) -> None:
    image, label = cube
    case = Case("x", Image(np.stack([image, image * 0]), (1.0, 1.0, 1.0)), label)
    question = QUESTION.model_copy(update={"channels": QUESTION.channels * 2})
    assert told(measure(whole(case), question, "hash", [])) == [("constant image", False)]


def test_one_voxel_objects_and_single_pixels_are_measured(cube) -> None:
    image, label = cube
    label[:] = 0
    label[4, 4, 4] = 1
    found = facts(image, label)
    assert found.usable and found.components == {"ball": 1} and found.foreground[0].sd == 0
    assert told(facts(np.ones((1, 1), np.float32), np.ones((1, 1), np.uint8))) == [("constant image", True)]


@pytest.mark.parametrize("content", [b"", b"not an image", None])
def test_files_that_cannot_be_read_are_faults_and_no_errors(tmp_path: Path, content: bytes | None) -> None:
    if content is not None:
        (tmp_path / "a.nii.gz").write_bytes(content)
        (tmp_path / "l.nii.gz").write_bytes(content)
    found = examine(tmp_path, CaseFiles(id="a", images=("a.nii.gz",), labels={"r": "l.nii.gz"}), QUESTION)
    assert told(found) == [("missing" if content is None else "unreadable", True)]
    assert "a.nii.gz" in found.faults[0].detail
