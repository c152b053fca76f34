"""DICOM series: found in a tree, read where their positions say, refused where they are not one stack."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoseg.errors import BadData
from autoseg.readers import same_place
from autoseg.readers.dicom import Dicom, as_frames
from autoseg.readers.dicom_series import find_series, is_dicom
from autoseg.readers.nifti import Nifti
from tests.readers.slices import PATIENT, write_series, write_slice

VOLUME = np.random.default_rng(0).integers(-500, 500, (5, 4, 3)).astype(np.int16)
LPS = np.diag([-1.0, -1.0, 1.0])
MIXED = {0: "b.dcm", 1: "e", 2: "a.dcm", 3: "z.ima", 4: "0.dcm"}


def turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    return np.array([[1, 0, 0], [0, c, -s], [0, s, c]]) @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])


STRAIGHT = np.diag([0.7, 0.8, 2.5])
GRIDS = {
    "straight": STRAIGHT,
    "oblique": turned(20) * (0.7, 0.8, 2.5),
    "coronal": np.array([[0.7, 0, 0], [0, 0, 2.5], [0, -0.8, 0]]),
    "sagittal": np.array([[0, 0, 2.5], [0.7, 0, 0], [0, -0.8, 0]]),
    "from top to bottom": STRAIGHT * (1, 1, -1),
    "tilted gantry": np.array([[0.7, 0, 0], [0, 0.8, 1.0], [0, 0, 2.5]]),
}


@pytest.mark.parametrize("name", GRIDS)
def test_a_series_is_read_as_the_nifti_file_of_its_positions(tmp_path: Path, name: str) -> None:
    axes = GRIDS[name]
    files = write_series(tmp_path / "series", VOLUME, axes, (10, -20, 30), names=MIXED)
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = LPS @ axes, LPS @ (10, -20, 30)
    nib.save(nib.Nifti1Image(VOLUME.transpose(2, 1, 0), affine), tmp_path / "a.nii")
    expected = Nifti().read([tmp_path / "a.nii"])
    for order in (files, files[::-1], sorted(files)):
        image = Dicom().read(order)
        assert np.array_equal(image.array, expected.array) and image.array.dtype == np.int16
        assert image.spacing == pytest.approx(expected.spacing) and image.valid is None
        assert not same_place(image, expected)
    Dicom().write_label(tmp_path / "label.nii.gz", (image.array[0] > 0).astype(np.uint8), image)
    written = nib.load(tmp_path / "label.nii.gz")
    label = Dicom().read_label(tmp_path / "label.nii.gz")
    assert not same_place(label, expected) and np.array_equal(label.array, expected.array > 0)
    assert written.get_data_dtype() == np.uint8 and written.header.get_xyzt_units()[0] == "mm"
    assert not any(word.encode() in written.header.binaryblock for word in PATIENT)


@pytest.mark.parametrize("name", GRIDS)
def test_frames_are_the_slices_by_position(tmp_path: Path, name: str) -> None:
    files = write_series(tmp_path, VOLUME, GRIDS[name], names=MIXED)
    image = Dicom().read(files)
    ordered, frames = as_frames(image.array[0], files)
    by_file = dict(zip(files, VOLUME, strict=True))
    assert sorted(ordered) == sorted(files)
    assert all(np.array_equal(frame, by_file[file]) for file, frame in zip(ordered, frames, strict=True))
    with pytest.raises(BadData, match="shape"):
        as_frames(image.array[0][1:], files)


def test_values_are_rescaled_each_slice_by_its_own_header(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOLUME, STRAIGHT, RescaleSlope=2, RescaleIntercept=-1024)
    plain = write_series(tmp_path / "plain", VOLUME, STRAIGHT)
    assert np.array_equal(Dicom().read(files).array, Dicom().read(plain).array * 2 - 1024)
    at = STRAIGHT[:, 2] * 4
    write_slice(
        files[4], VOLUME[4], PixelSpacing=(0.8, 0.7), ImageOrientationPatient=(1, 0, 0, 0, 1, 0), SliceThickness=1,
        ImagePositionPatient=at, RescaleSlope=0.25, RescaleIntercept=0.5,
    )  # fmt: skip
    array = Dicom().read(files).array
    assert array.dtype == np.float32
    assert np.array_equal(array[0, 4, ::-1, ::-1], VOLUME[4] * np.float32(0.25) + np.float32(0.5))
    assert np.array_equal(array[0, 0, ::-1, ::-1], VOLUME[0] * 2.0 - 1024)


def test_two_series_are_two_channels_in_the_order_given(tmp_path: Path) -> None:
    one = write_series(tmp_path / "one", VOLUME, STRAIGHT)
    two = write_series(tmp_path / "two", VOLUME + 1000, STRAIGHT, SeriesInstanceUID="2.25.3")
    away = write_series(tmp_path / "away", VOLUME, STRAIGHT, (9, 0, 0), SeriesInstanceUID="2.25.4")
    for first, second in ((one, two), (two, one)):
        both = Dicom().read([*first, *second]).array
        assert np.array_equal(both, np.concatenate([Dicom().read(first).array, Dicom().read(second).array]))
        ordered, frames = as_frames(both[1], [*first, *second])
        assert ordered == first and np.array_equal(frames, VOLUME + (1000 if first == one else 0))
    with pytest.raises(BadData, match="9 mm"):
        Dicom().read([*one, *away])


def test_a_single_slice_is_one(tmp_path: Path) -> None:
    file = write_slice(tmp_path / "a.dcm", VOLUME[0], PixelSpacing=(0.8, 0.7), SliceThickness=3)
    image = Dicom().read([file])
    assert image.array.shape == (1, 1, 4, 3) and image.spacing == pytest.approx((3, 0.8, 0.7))
    assert np.array_equal(image.array[0, 0, ::-1, ::-1], VOLUME[0])


# -- what is said of slices, and refused ---------------------------------------------------------------


def series_of(folder: Path, **more) -> tuple:
    (series,) = find_series(folder).values()
    return series


def test_uneven_steps_are_said_and_the_mean_counts(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOLUME, np.diag([1.0, 1.0, 1.0]), heights=[0, 5, 13, 19.5, 26])
    series = series_of(tmp_path)
    assert series.notes == ("slices are 5 to 8 mm apart, taken as 6.5 mm",) and not series.fault
    assert Dicom().read(files).spacing == pytest.approx((6.5, 1, 1))


def test_missing_slices_are_said(tmp_path: Path) -> None:
    write_series(tmp_path, VOLUME, STRAIGHT, heights=[0, 1, 2, 5, 6])
    notes = series_of(tmp_path).notes
    assert notes[0].startswith("slices are 2.5 to 7.5 mm apart") and notes[1] == "2 slices seem to be missing"


def test_even_steps_are_not_mentioned(tmp_path: Path) -> None:
    write_series(tmp_path, VOLUME, GRIDS["oblique"], heights=[0, 1.0001, 2, 2.9999, 4])
    assert series_of(tmp_path).notes == ()


def test_slices_that_wander_are_said(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOLUME, STRAIGHT)
    write_slice(
        files[2], VOLUME[2], PixelSpacing=(0.8, 0.7), ImageOrientationPatient=(1, 0, 0, 0, 1, 0),
        ImagePositionPatient=(3, 0, 5),
    )  # fmt: skip
    assert series_of(tmp_path).notes == ("slices lie up to 3 mm beside a straight line, on which they are taken to be",)


def test_two_slices_at_one_place_are_refused(tmp_path: Path) -> None:
    files = write_series(tmp_path, VOLUME, STRAIGHT, heights=[0, 1, 1, 2, 3])
    assert "001.dcm and 002.dcm lie at one place" in series_of(tmp_path).fault
    with pytest.raises(BadData, match="split the series"):
        Dicom().read(files)


BAD = {
    "no position": ({"ImagePositionPatient": None}, "lacks the position"),
    "no orientation": ({"ImageOrientationPatient": None}, "lacks the orientation"),
    "no pixel spacing": ({"PixelSpacing": None}, "lacks the pixel"),
    "nan position": ({"ImagePositionPatient": ("nan", 0, 0)}, "0020,0032"),
    "text": ({"ImagePositionPatient": ("a", "b", "c")}, "0020,0032"),
    "pixels without size": ({"PixelSpacing": (0, 1)}, "pixels of 0 by 1 mm"),
    "no right angle": ({"ImageOrientationPatient": (1, 0, 0, 1, 0, 0)}, "no right angle"),
    "no direction": ({"ImageOrientationPatient": (0, 0, 0, 0, 1, 0)}, "no right angle"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_geometry_is_told(tmp_path: Path, name: str) -> None:
    tags, message = BAD[name]
    files = write_series(tmp_path / "series", VOLUME, STRAIGHT, **tags)
    with pytest.raises(BadData, match=message) as caught:
        Dicom().read(files)
    assert "series" in str(caught.value) and not any(word in str(caught.value) for word in PATIENT)
    assert message in series_of(tmp_path).fault


def test_files_of_several_frames_are_refused(tmp_path: Path) -> None:
    file = write_slice(tmp_path / "a.dcm", np.zeros((8, 3)), Rows=4, NumberOfFrames=2)
    with pytest.raises(BadData, match=r"holds 2 frames.*dcm2niix"):
        Dicom().read([file])
    assert "2 frames" in series_of(tmp_path).fault


def test_more_pixels_than_any_file_holds_are_not_tried(tmp_path: Path) -> None:
    file = write_slice(tmp_path / "a.dcm", VOLUME[0], Rows=60000, Columns=60000)
    with pytest.raises(BadData, match=r"a\.dcm: 3600000000 pixels promised"):
        Dicom().read([file])


def test_damaged_files_are_told_and_their_series_is_not_read_without_them(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    files = write_series(tmp_path, np.tile(VOLUME, (1, 20, 20)), STRAIGHT)
    whole = files[2].read_bytes()
    for length in (0, 100, 200, 500, len(whole) // 2, len(whole) - 1):
        files[2].write_bytes(whole[:length])
        with pytest.raises(BadData, match=r"002\.dcm") as caught:
            Dicom().read(files)
        assert "\n" not in str(caught.value) and not any(word in str(caught.value) for word in PATIENT)
        assert "002.dcm" in series_of(tmp_path).fault, length
    assert capfd.readouterr().err == ""
    with pytest.raises(BadData, match="no such file"):
        Dicom().read([tmp_path / "absent.dcm"])


# -- trees ---------------------------------------------------------------------------------------------


def test_series_are_found_in_a_tree_whatever_their_files_are_called(tmp_path: Path) -> None:
    one = write_series(tmp_path / "p" / "ct", VOLUME, STRAIGHT, (1, 2, 3), names=MIXED)
    two = write_series(tmp_path / "p" / "both", VOLUME, STRAIGHT, SeriesInstanceUID="2.25.3", SeriesNumber=7)
    write_series(
        tmp_path / "p" / "both", VOLUME[:2], STRAIGHT, names={0: "x", 1: "y"}, SeriesInstanceUID="2.25.4",
        SeriesDescription="other",
    )  # fmt: skip
    (tmp_path / "p" / "notes.txt").write_text("no image")
    (tmp_path / "p" / ".hidden").mkdir()
    write_series(tmp_path / "p" / ".hidden", VOLUME, STRAIGHT, SeriesInstanceUID="2.25.5")
    found = find_series(tmp_path)
    assert set(found) == {"2.25.2", "2.25.3", "2.25.4"}
    assert list(found["2.25.2"].files) == one and found["2.25.2"].folder == tmp_path / "p" / "ct"
    assert found["2.25.3"].files == tuple(two) and found["2.25.3"].number == "7"
    assert found["2.25.4"].description == "other" and len(found["2.25.4"].files) == 2
    assert all(not (one.notes or one.fault or one.left_out) for one in found.values())
    assert is_dicom(one[1]) and not is_dicom(tmp_path / "p" / "notes.txt")


def test_a_series_of_two_orientations_is_two_stacks(tmp_path: Path) -> None:
    write_series(tmp_path, VOLUME, STRAIGHT)
    write_series(tmp_path, VOLUME[:3], GRIDS["sagittal"], names={n: f"s{n}" for n in range(3)})
    found = find_series(tmp_path)
    assert [len(one.files) for one in found.values()] == [5, 3] and set(found) == {"2.25.2", "2.25.2#2"}
    assert all("mixes sizes or orientations" in one.notes[0] for one in found.values())
    assert Dicom().read(found["2.25.2#2"].files).shape == Dicom().read(write_series(
        tmp_path / "alone", VOLUME[:3], GRIDS["sagittal"])
    ).shape  # fmt: skip


def test_what_is_no_image_to_work_on_is_left_out(tmp_path: Path) -> None:
    write_series(tmp_path / "ct", VOLUME, STRAIGHT)
    write_series(
        tmp_path / "scout", VOLUME[:2], STRAIGHT, SeriesInstanceUID="2.25.3",
        ImageType=("ORIGINAL", "PRIMARY", "LOCALIZER"),
    )  # fmt: skip
    write_series(tmp_path / "one", VOLUME[:1], STRAIGHT, SeriesInstanceUID="2.25.4")
    storage = "1.2.840.10008.5.1.4.1.1."
    for name, of in (("seg", "66.4"), ("report", "88.33"), ("state", "11.1"), ("rt", "481.3")):
        write_slice(tmp_path / "more" / name, VOLUME[0], SOPClassUID=storage + of, SeriesInstanceUID="2.25.8")
    write_slice(tmp_path / "DICOMDIR", VOLUME[0], SOPClassUID="1.2.840.10008.1.3.10")
    left = {key: one.left_out for key, one in find_series(tmp_path).items()}
    assert left.pop("2.25.2") == "" and left.pop("2.25.3") == "a localiser" and left.pop("2.25.4") == "a single slice"
    assert len(left) == 4 and all(what.endswith("and no image") for what in left.values())


def test_where_there_are_single_slices_alone_they_are_the_images(tmp_path: Path) -> None:
    for number in range(3):
        write_slice(tmp_path / f"{number}.dcm", VOLUME[0], SeriesInstanceUID=f"2.25.{number + 2}")
    found = find_series(tmp_path)
    assert len(found) == 3 and not any(one.left_out or one.fault for one in found.values())


@pytest.mark.real
def test_real_series_are_oblique_and_come_back(real: Path, tmp_path: Path) -> None:
    found = find_series(real / "dicom_hippocampus")
    by_folder = {one.folder.name: one for one in found.values()}
    assert {name: len(one.files) for name, one in by_folder.items()} == {"11-T1post-18670": 22, "11_HCropVolume": 40}
    assert not any(one.notes or one.fault or one.left_out for one in found.values())
    import SimpleITK

    for name, spacing in (("11-T1post-18670", (6.5, 0.6875, 0.6875)), ("11_HCropVolume", (1, 1, 1))):
        series = by_folder[name]
        image = Dicom().read(series.files)
        assert image.spacing == pytest.approx(spacing, rel=1e-5)
        other = SimpleITK.ReadImage([str(file) for file in series.files])
        SimpleITK.WriteImage(other, str(tmp_path / f"{name}.nii.gz"))
        nifti = Nifti().read([tmp_path / f"{name}.nii.gz"])
        assert np.array_equal(image.array, nifti.array) and not same_place(image, nifti).fatal
        Dicom().write_label(tmp_path / "label.nii.gz", (image.array[0] > 50).astype(np.uint8), image)
        written = SimpleITK.ReadImage(str(tmp_path / "label.nii.gz"))
        assert written.GetSize() == other.GetSize()
        assert np.allclose(written.GetDirection(), other.GetDirection(), atol=1e-4)
        assert np.array_equal(SimpleITK.GetArrayFromImage(written), SimpleITK.GetArrayFromImage(other) > 50)
