"""NIfTI: what is read is what was meant, what is written lies on the input's grid, and bad files are told."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from autoseg.errors import BadData
from autoseg.readers import same_place
from autoseg.readers.nifti import Nifti

SIGNS = list(itertools.product((1, -1), repeat=3))
ORIENTATIONS = [(order, signs) for order in itertools.permutations(range(3)) for signs in SIGNS]
RAS = np.arange(2 * 3 * 4, dtype=np.int16).reshape(2, 3, 4)  # x, y, z
SPACING = (1.5, 2.0, 3.0)


def oriented(order: tuple[int, ...], signs: tuple[int, ...]) -> nib.Nifti1Image:
    """RAS stored in another orientation: the same numbers at the same places of the world."""
    ornt = np.array([[order.index(axis), signs[axis]] for axis in range(3)], dtype=float)
    plain = nib.Nifti1Image(RAS, np.diag([*SPACING, 1.0]) + np.eye(4, k=3) * 7)
    return plain.as_reoriented(ornt)


def save(path: Path, array: np.ndarray, affine: np.ndarray | None = None) -> Path:
    nib.save(nib.Nifti1Image(array, np.diag([1.0, 2.0, 3.0, 1.0]) if affine is None else affine), path)
    return path


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_reads_the_same_and_writes_back(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    stored = oriented(order, signs)
    file, out = tmp_path / "a.nii.gz", tmp_path / "label.nii.gz"
    nib.save(stored, file)
    image = Nifti().read([file])
    assert np.array_equal(image.array[0], RAS.transpose(2, 1, 0))
    assert image.spacing == pytest.approx(SPACING[::-1])
    Nifti().write_label(out, image.array[0], image)
    written = nib.load(out)
    assert written.shape == stored.shape
    assert np.array_equal(written.affine, nib.load(file).affine)
    assert np.array_equal(np.asarray(written.dataobj), np.asarray(stored.dataobj))
    label = Nifti().read_label(out)
    assert np.array_equal(label.array, image.array) and not same_place(image, label)


@pytest.mark.parametrize("dtype", ["u1", "i1", "<i2", ">i2", "u2", "i4", "<f4", ">f4", "f8", "i8"])
@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
def test_dtypes_are_kept(tmp_path: Path, dtype: str, ending: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    header = nib.Nifti1Header(endianness=">" if dtype.startswith(">") else "<")
    header.set_data_dtype(array.dtype)
    file = tmp_path / f"a{ending}"
    nib.save(nib.Nifti1Image(array, np.eye(4), header), file)
    image = Nifti().read([file])
    expected = np.dtype("f4") if array.dtype.kind == "f" else array.dtype.newbyteorder("=")
    assert image.array.dtype == expected and image.array.dtype.isnative
    assert np.array_equal(image.array[0], array.transpose(2, 1, 0)) and image.valid is None


def test_scaling_is_honoured(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((2, 2, 2)), np.eye(4))
    image.header.set_data_dtype(np.int16)
    image.header.set_slope_inter(0.5, -3)
    scaled = nib.Nifti1Image(np.array([[[4, 6], [8, 10]]] * 2) * 0.5 - 3, np.eye(4), image.header)
    nib.save(scaled, tmp_path / "a.nii")
    read = Nifti().read([tmp_path / "a.nii"])
    assert read.array.dtype == np.float32
    assert np.allclose(read.array[0, :, 0, 0], [-1, 0], atol=1e-3)


def test_channels_of_one_file_and_of_several(tmp_path: Path) -> None:
    array = np.arange(48, dtype=np.float32).reshape(2, 3, 4, 2)
    whole = save(tmp_path / "four.nii", array)
    one = save(tmp_path / "one.nii", array[..., 0].astype(np.uint8))
    two = save(tmp_path / "two.nii", array[..., 1])
    assert Nifti().read([whole]).channels == 2
    together = Nifti().read([one, two])
    assert together.array.dtype == np.float32
    assert np.array_equal(together.array, Nifti().read([whole]).array)


def test_channels_stored_in_different_orientations_are_one_grid(tmp_path: Path) -> None:
    files = []
    for number, (order, signs) in enumerate(ORIENTATIONS[::13]):
        files.append(tmp_path / f"{number}.nii")
        nib.save(oriented(order, signs), files[-1])
    array = Nifti().read(files).array
    assert all(np.array_equal(channel, array[0]) for channel in array)


def test_channels_on_different_grids_name_both_files(tmp_path: Path) -> None:
    one = save(tmp_path / "one.nii", RAS)
    small = save(tmp_path / "small.nii", RAS[:1])
    moved = save(tmp_path / "moved.nii", RAS, np.diag([1.0, 2.0, 3.0, 1.0]) + np.eye(4, k=3) * 5)
    with pytest.raises(BadData, match=r"small.nii: shape .*one.nii"):
        Nifti().read([one, small])
    with pytest.raises(BadData, match=r"moved.nii: lies 5 mm .*one.nii"):
        Nifti().read([one, moved])


def test_flat_files_are_one_slice(tmp_path: Path) -> None:
    file = save(tmp_path / "flat.nii", np.arange(6, dtype=np.uint8).reshape(2, 3))
    image = Nifti().read([file])
    assert image.array.shape == (1, 1, 3, 2)
    Nifti().write_label(tmp_path / "out.nii", image.array[0], image)
    assert nib.load(tmp_path / "out.nii").shape == (2, 3)
    assert np.array_equal(Nifti().read_label(tmp_path / "out.nii").array, image.array)


def test_not_finite_voxels_are_not_valid(tmp_path: Path) -> None:
    array = np.ones((2, 3, 4, 2), dtype=np.float32)
    array[0, 0, 0, 1], array[1, 2, 3, 0] = np.nan, np.inf
    valid = Nifti().read([save(tmp_path / "a.nii", array)]).valid
    assert valid is not None and valid.shape == (4, 3, 2)
    assert (~valid).sum() == 2 and not valid[0, 0, 0] and not valid[3, 2, 1]


def test_form_codes_and_units_are_handed_on(tmp_path: Path) -> None:
    image = oriented((2, 0, 1), (1, -1, 1))
    image.set_qform(image.affine, 1)
    image.set_sform(image.affine, 4)
    image.header.set_xyzt_units("micron")
    nib.save(image, tmp_path / "a.nii")
    read = Nifti().read([tmp_path / "a.nii"])
    assert read.spacing == pytest.approx([s / 1000 for s in SPACING[::-1]])
    Nifti().write_label(tmp_path / "b.nii", read.array[0], read)
    header = nib.load(tmp_path / "b.nii").header
    assert (int(header["qform_code"]), int(header["sform_code"])) == (1, 4)
    assert header.get_xyzt_units()[0] == "micron"
    assert np.array_equal(header.get_qform(), nib.load(tmp_path / "a.nii").header.get_qform())


@pytest.mark.parametrize(("values", "dtype"), [([0, 255], "u1"), ([0, 256], "u2"), ([-1, 2], "i2")])
def test_labels_take_the_smallest_dtype(tmp_path: Path, values: list[int], dtype: str) -> None:
    like = Nifti().read([save(tmp_path / "a.nii", np.zeros((1, 1, 2), np.int16))])
    Nifti().write_label(tmp_path / "b.nii.gz", np.array(values).reshape(2, 1, 1), like)
    assert nib.load(tmp_path / "b.nii.gz").get_data_dtype() == np.dtype(dtype)
    assert Nifti().read_label(tmp_path / "b.nii.gz").array.ravel().tolist() == values


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    like = Nifti().read([save(tmp_path / "a.nii", RAS)])
    for label in (np.zeros((2, 3, 4), int), np.zeros(like.shape), np.full(like.shape, 2**40)):
        with pytest.raises(BadData, match=r"b.nii"):
            Nifti().write_label(tmp_path / "b.nii", label, like)


def test_float_labels_of_whole_numbers_are_read(tmp_path: Path) -> None:
    file = save(tmp_path / "a.nii.gz", RAS.astype(np.float64))
    assert np.array_equal(Nifti().read_label(file).array[0], RAS.transpose(2, 1, 0))


def headed(path: Path, **fields: object) -> Path:
    """A file whose header is changed behind nibabel's back."""
    nib.save(nib.Nifti1Image(RAS, np.diag([1.0, 2.0, 3.0, 1.0])), path)
    content = bytearray(path.read_bytes())
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    path.write_bytes(header.binaryblock + bytes(content[348:]))
    return path


NAN_ROW = [np.nan, 0, 0, 0]
BAD_HEADERS = {
    "nan affine": ({"srow_x": NAN_ROW}, "NaN or inf"),
    "flat affine": ({"srow_x": [0, 0, 0, 0]}, "degenerate"),
    "zero spacing": ({"sform_code": 0, "qform_code": 1, "pixdim": [1, 0, 1, 1, 0, 0, 0, 0]}, "spacing 0, 1, 1"),
    "more voxels than bytes": ({"dim": [3, 200, 300, 400, 1, 1, 1, 1]}, "cut short"),
    "negative size": ({"dim": [3, -2, 3, 4, 1, 1, 1, 1]}, "no voxels"),
    "unknown dtype": ({"datatype": 77}, "unknown data type 77"),
    "another magic": ({"magic": b"ni1"}, "single-file"),
}


@pytest.mark.parametrize("name", BAD_HEADERS)
def test_bad_headers_are_told(tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]) -> None:
    fields, message = BAD_HEADERS[name]
    with pytest.raises(BadData, match=message) as caught:
        Nifti().read([headed(tmp_path / "bad.nii", **fields)])
    assert "bad.nii" in str(caught.value) and "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""


def test_damaged_files_are_told(tmp_path: Path) -> None:
    whole = gzip.compress(save(tmp_path / "a.nii", np.random.default_rng(0).random((9, 9, 9))).read_bytes())
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 16
    damaged = [b"", whole[:100], whole[: len(whole) // 2], whole[:-8], bytes(flipped), b"PK" + b"\0" * 500]
    for content in damaged:
        file = tmp_path / "bad.nii.gz"
        file.write_bytes(content)
        with pytest.raises(BadData, match=r"bad.nii.gz"):
            Nifti().read([file])
    (tmp_path / "text.nii").write_text("not an image" * 99)
    with pytest.raises(BadData, match="no NIfTI"):
        Nifti().read_label(tmp_path / "text.nii")
    with pytest.raises(BadData, match="no such file"):
        Nifti().read([tmp_path / "absent.nii"])


def test_what_is_no_plain_volume_is_told(tmp_path: Path) -> None:
    colours = np.zeros((2, 3, 4), dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    for array in (np.zeros((2, 3, 4, 2, 3), np.uint8), np.zeros((2, 3, 4), np.complex64), colours):
        with pytest.raises(BadData, match=r"bad.nii"):
            Nifti().read([save(tmp_path / "bad.nii", array)])
    with pytest.raises(BadData, match="2 channels"):
        Nifti().read_label(save(tmp_path / "two.nii", np.zeros((2, 3, 4, 2), np.uint8)))


def test_nifti2_stays_nifti2(tmp_path: Path) -> None:
    nib.save(nib.Nifti2Image(RAS, np.eye(4)), tmp_path / "a.nii")
    image = Nifti().read([tmp_path / "a.nii"])
    Nifti().write_label(tmp_path / "b.nii", image.array[0], image)
    assert isinstance(nib.load(tmp_path / "b.nii"), nib.Nifti2Image)


def test_how_far_a_label_is_away(tmp_path: Path) -> None:
    image = Nifti().read([save(tmp_path / "a.nii", RAS)])
    for shift, fatal, said in ((0.0, False, False), (0.3, False, True), (12.0, True, True)):
        affine = np.diag([1.0, 2.0, 3.0, 1.0])
        affine[0, 3] = shift
        misfit = same_place(image, Nifti().read_label(save(tmp_path / "b.nii", RAS, affine)))
        assert (bool(misfit), misfit.fatal) == (said, fatal)
        assert not said or f"{shift:g} mm away" in misfit.sentence
    assert same_place(image, Nifti().read([save(tmp_path / "c.nii", RAS[:1])])).fatal


@pytest.mark.real
def test_real_labels_lie_on_their_images_and_are_written_back(real: Path, tmp_path: Path) -> None:
    pairs = [("t2.nii.gz", "t2_seg-manual.nii.gz"), ("t2s_uncropped.nii.gz", "t2s_uncropped_gmseg_manual.nii.gz")]
    for image_name, label_name in pairs:
        image = Nifti().read([real / "SCT_spinalcord_mri" / image_name])
        label = Nifti().read_label(real / "SCT_spinalcord_mri" / label_name)
        assert not same_place(image, label).fatal
        Nifti().write_label(tmp_path / "out.nii.gz", label.array[0].astype(np.uint8), image)
        source, written = nib.load(real / "SCT_spinalcord_mri" / image_name), nib.load(tmp_path / "out.nii.gz")
        assert written.shape == source.shape and np.array_equal(written.affine, source.affine)
    heart = Nifti().read_label(real / "CT_TotalSegmentator_tests/pulmonary_report/heart.nii.gz")
    scan = Nifti().read([real / "CT_TotalSegmentator_tests/pulmonary_report/ct_cropped.nii.gz"])
    assert same_place(scan, heart).fatal


def test_a_label_of_large_values_is_written(tmp_path: Path) -> None:
    nib.save(nib.Nifti1Image(np.zeros((2, 3, 4), np.uint8), np.eye(4)), tmp_path / "a.nii.gz")
    image = Nifti().read([tmp_path / "a.nii.gz"])
    label = np.full(image.shape, 70_000, np.int32)
    Nifti().write_label(tmp_path / "b.nii.gz", label, image)
    assert np.array_equal(Nifti().read_label(tmp_path / "b.nii.gz").array[0], label)
