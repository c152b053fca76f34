"""NRRD and MetaImage: left is left as in NIfTI, labels lie on the input's grid, and no header leads elsewhere."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import pytest
import SimpleITK
from click.testing import CliRunner

from autoseg.cli import main
from autoseg.errors import BadData
from autoseg.parts import READERS
from autoseg.readers import orientation, reader_for, same_place, stem_of
from autoseg.readers.itk import Itk
from autoseg.readers.nifti import Nifti

SIGNS = list(itertools.product((1, -1), repeat=3))
ORIENTATIONS = [(order, signs) for order in itertools.permutations(range(3)) for signs in SIGNS]
VALUES = np.random.default_rng(0).integers(-99, 99, (5, 4, 3)).astype(np.int16)  # z, y, x
SPACING, ORIGIN = (1.5, 2.0, 3.25), (7.0, -11.5, 40.25)
SINGLE = [".nrrd", ".mha"]


def turned() -> np.ndarray:
    """A rotation of 20°, 10° and 5° about the three axes."""
    out = np.eye(3)
    for axis, degrees in enumerate((20, 10, 5)):
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        turn = np.eye(3)
        a, b = [other for other in range(3) if other != axis]
        turn[a, a], turn[a, b], turn[b, a], turn[b, b] = c, -s, s, c
        out = out @ turn
    return out


def itk_image(array: np.ndarray, direction: np.ndarray | None = None, spacing: Any = None, vector: bool = False) -> Any:
    image = SimpleITK.GetImageFromArray(array, isVector=vector)
    image.SetSpacing(spacing or SPACING[: image.GetDimension()])
    image.SetOrigin(ORIGIN[: image.GetDimension()])
    if direction is not None:
        image.SetDirection(direction.ravel().tolist())
    return image


def stored(order: tuple[int, ...], signs: tuple[int, ...]) -> Any:
    """The oblique volume with its axes stored in another order and direction: the same numbers at the same places."""
    columns = turned() * SPACING
    array = VALUES.transpose(2, 1, 0).transpose(order)
    origin = np.array(ORIGIN)
    for axis, (source, sign) in enumerate(zip(order, signs, strict=True)):
        if sign < 0:
            origin = origin + columns[:, source] * (array.shape[axis] - 1)
            array = np.flip(array, axis)
    image = SimpleITK.GetImageFromArray(np.ascontiguousarray(array.T))
    image.SetSpacing([SPACING[source] for source in order])
    image.SetOrigin(origin.tolist())
    image.SetDirection((turned()[:, order] * signs).ravel().tolist())
    return image


def save(file: Path, image: Any, compressed: bool = False) -> Path:
    SimpleITK.WriteImage(image, str(file), compressed)
    return file


def require_grid(one: Any, other: Any) -> None:
    assert one.GetSize() == other.GetSize()
    for name in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert np.allclose(getattr(one, name)(), getattr(other, name)(), rtol=0, atol=1e-9), name


@pytest.mark.parametrize(("order", "signs"), ORIENTATIONS)
def test_every_orientation_is_read_as_nifti_is_and_written_back(
    tmp_path: Path, order: tuple[int, ...], signs: tuple[int, ...]
) -> None:
    source = stored(order, signs)
    nifti = Nifti().read([save(tmp_path / "a.nii.gz", source)])
    plain = Nifti().read([save(tmp_path / "plain.nii.gz", stored((0, 1, 2), (1, 1, 1)))])
    assert np.array_equal(nifti.array, plain.array)
    for ending in SINGLE:
        image = Itk().read([save(tmp_path / f"a{ending}", source)])
        assert np.array_equal(image.array, nifti.array) and image.array.dtype == np.int16
        assert image.spacing == pytest.approx(nifti.spacing, rel=1e-6) and image.valid is None
        Itk().write_label(tmp_path / f"label{ending}", image.array[0], image)
        written = SimpleITK.ReadImage(str(tmp_path / f"label{ending}"))
        require_grid(written, source)
        assert np.array_equal(SimpleITK.GetArrayFromImage(written), SimpleITK.GetArrayFromImage(source))
        label = Itk().read_label(tmp_path / f"label{ending}")
        assert np.array_equal(label.array, image.array)


@pytest.mark.parametrize("ending", SINGLE)
@pytest.mark.parametrize("dtype", ["u1", "i1", "i2", "u2", "i4", "f4", "f8", "i8"])
def test_dtypes_are_kept(tmp_path: Path, ending: str, dtype: str) -> None:
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    image = Itk().read([save(tmp_path / f"a{ending}", itk_image(array, np.diag([-1.0, -1.0, 1.0])))])
    assert image.array.dtype == np.dtype("f4" if dtype == "f8" else dtype)
    assert np.array_equal(image.array[0], array)


@pytest.mark.parametrize("ending", [".nrrd", ".mha"])
def test_numbers_of_a_vector_and_a_fourth_axis_are_channels(tmp_path: Path, ending: str) -> None:
    array = np.random.default_rng(0).random((2, 5, 4, 3)).astype(np.float32)
    single = [
        save(tmp_path / f"{n}{ending}", itk_image(channel, np.diag([-1.0, -1.0, 1.0])))
        for n, channel in enumerate(array)
    ]
    vector = itk_image(np.ascontiguousarray(np.moveaxis(array, 0, -1)), np.diag([-1.0, -1.0, 1.0]), vector=True)
    fourth = SimpleITK.JoinSeries([SimpleITK.ReadImage(str(file)) for file in single])
    expected = Itk().read(single)
    assert np.array_equal(expected.array, array)
    for image in (vector, fourth):
        found = Itk().read([save(tmp_path / f"all{ending}", image)])
        assert np.array_equal(found.array, array) and found.spacing == expected.spacing
        Itk().write_label(tmp_path / f"out{ending}", np.ones(found.shape, np.uint8), found)
        require_grid(
            SimpleITK.ReadImage(str(tmp_path / f"out{ending}")), SimpleITK.ReadImage(str(single[0]))
        )  # fmt: skip


@pytest.mark.parametrize("ending", SINGLE)
def test_flat_files_are_one_slice(tmp_path: Path, ending: str) -> None:
    source = itk_image(VALUES[0])
    image = Itk().read([save(tmp_path / f"a{ending}", source)])
    assert image.array.shape == (1, 1, 4, 3) and image.spacing == (1.0, 2.0, 1.5)
    Itk().write_label(tmp_path / f"b{ending}", image.array[0], image)
    written = SimpleITK.ReadImage(str(tmp_path / f"b{ending}"))
    require_grid(written, source)
    assert np.array_equal(SimpleITK.GetArrayFromImage(written), VALUES[0])


def test_a_sheared_grid_stays_sheared(tmp_path: Path) -> None:
    direction = np.array([[1.0, 0.3, 0.0], [0.0, 1.0, 0.2], [0.0, 0.0, 1.0]])
    direction /= np.linalg.norm(direction, axis=0)
    file = save(tmp_path / "a.nrrd", itk_image(VALUES, direction))
    image = Itk().read([file])
    Itk().write_label(tmp_path / "b.nrrd", image.array[0], image)
    require_grid(SimpleITK.ReadImage(str(tmp_path / "b.nrrd")), SimpleITK.ReadImage(str(file)))
    assert np.array_equal(Itk().read_label(tmp_path / "b.nrrd").array, image.array)


def test_channels_on_different_grids_name_both_files(tmp_path: Path) -> None:
    one, small = save(tmp_path / "one.nrrd", itk_image(VALUES)), save(tmp_path / "small.mha", itk_image(VALUES[1:]))
    moved = itk_image(VALUES)
    moved.SetOrigin((12.0, -11.5, 40.25))
    with pytest.raises(BadData, match=r"small.mha: shape .*one.nrrd"):
        Itk().read([one, small])
    with pytest.raises(BadData, match=r"moved.nrrd: lies 5 mm .*one.nrrd"):
        Itk().read([one, save(tmp_path / "moved.nrrd", moved)])


def test_not_finite_voxels_are_not_valid(tmp_path: Path) -> None:
    array = np.ones((5, 4, 3), np.float32)
    array[0, 0, 0], array[4, 3, 2] = np.nan, np.inf
    valid = Itk().read([save(tmp_path / "a.nrrd", itk_image(array, np.diag([-1.0, -1.0, 1.0])))]).valid
    assert valid is not None and (~valid).sum() == 2 and not valid[0, 0, 0] and not valid[4, 3, 2]


@pytest.mark.parametrize(("values", "dtype"), [([0, 255], "u1"), ([0, 256], "u2"), ([-1, 2], "i2"), ([0, 70000], "i4")])
def test_labels_take_the_smallest_dtype_and_are_compressed(tmp_path: Path, values: list[int], dtype: str) -> None:
    like = Itk().read([save(tmp_path / "a.nrrd", itk_image(np.zeros((64, 64, 64), np.uint8)))])
    label = np.zeros(like.shape, np.int64)
    label[0, 0, :2] = values
    for ending in SINGLE:
        Itk().write_label(tmp_path / f"b{ending}", label, like)
        found = Itk().read_label(tmp_path / f"b{ending}").array[0]
        assert found.dtype == np.dtype(dtype) and np.array_equal(found, label)
        assert (tmp_path / f"b{ending}").stat().st_size < 64**3 / 20


def test_labels_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    like = Itk().read([save(tmp_path / "a.nrrd", itk_image(VALUES))])
    for label in (np.zeros((3, 4, 5), int), np.zeros(like.shape), np.full(like.shape, 2**40)):
        with pytest.raises(BadData, match=r"b.nrrd"):
            Itk().write_label(tmp_path / "b.nrrd", label, like)
    two = itk_image(np.zeros((5, 4, 3, 2), np.uint8), vector=True)
    with pytest.raises(BadData, match="2 channels"):
        Itk().read_label(save(tmp_path / "two.nrrd", two))


@pytest.mark.parametrize("ending", SINGLE)
def test_how_far_a_label_is_away(tmp_path: Path, ending: str) -> None:
    image = Itk().read([save(tmp_path / f"a{ending}", itk_image(VALUES, turned()))])
    nifti = Nifti().read([save(tmp_path / "a.nii.gz", itk_image(VALUES, turned()))])
    assert orientation(image) == orientation(nifti) == "LPS" and not same_place(image, nifti)
    for shift, fatal, said in ((0.0, False, False), (0.3, False, True), (12.0, True, True)):
        label = itk_image(VALUES, turned())
        label.SetOrigin((ORIGIN[0] + shift, *ORIGIN[1:]))
        misfit = same_place(image, Itk().read_label(save(tmp_path / f"b{ending}", label)))
        assert (bool(misfit), misfit.fatal) == (said, fatal)
        assert not said or f"{shift:g} mm away" in misfit.sentence


# -- headers of their own ------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", [".nhdr", ".mhd"])
def test_voxels_beside_the_header_are_read(tmp_path: Path, ending: str, compressed: bool) -> None:
    source = stored((2, 0, 1), (-1, 1, -1))
    file = save(tmp_path / f"a{ending}", source, compressed)
    assert len(list(tmp_path.iterdir())) == 2
    image = Itk().read([file])
    assert np.array_equal(image.array, Itk().read([save(tmp_path / "whole.nrrd", source)]).array)
    out = tmp_path / f"b{Itk().label_ending(ending)}"
    Itk().write_label(out, image.array[0], image)
    require_grid(SimpleITK.ReadImage(str(out)), source)


def detached(folder: Path, ending: str, name: str) -> Path:
    """A header of 2 × 2 × 2 bytes that names a file for its voxels."""
    file = folder / f"a{ending}"
    if ending in (".nrrd", ".nhdr"):
        fields = "type: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\n"
        file.write_text(f"NRRD0004\n{fields}# a remark\nDataFile: {name}\n")
    else:
        fields = "ObjectType = Image\nNDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\n"
        file.write_text(f"{fields}ElementSpacing = 1 1 1\nElementDataFile = {name}\n")
    return file


def test_a_header_that_names_a_file_beside_it_is_followed(tmp_path: Path) -> None:
    (tmp_path / "voxels.raw").write_bytes(bytes(range(8)))
    for ending in Itk.endings:
        for name in ("voxels.raw", "./voxels.raw"):
            image = Itk().read([detached(tmp_path, ending, name)])
            assert sorted(image.array.ravel().tolist()) == list(range(8))


@pytest.mark.parametrize("ending", Itk.endings)
@pytest.mark.parametrize(
    "name", ["{}/secret", "../secret", "sub/secret", "..", "LIST", "LIST 3", "s%03d 1 1 1", "link", "C:\\secret", "no"]
)
def test_no_header_leads_elsewhere(tmp_path: Path, ending: str, name: str) -> None:
    inner = tmp_path / "inner"
    (inner / "sub").mkdir(parents=True)
    for secret in (tmp_path / "secret", inner / "sub" / "secret", inner / "s001"):
        secret.write_bytes(bytes(8))
    (inner / "link").symlink_to(tmp_path / "secret")
    file = detached(inner, ending, name.format(tmp_path))
    if name == "LIST":
        file.write_text(file.read_text() + f"{tmp_path}/secret\n")
    with pytest.raises(BadData, match=rf"a{ending}: its voxels are (elsewhere|missing)"):
        Itk().read([file])


@pytest.mark.parametrize(
    ("sly", "name"),
    [
        ("Comment = ElementDataFile = LOCAL\n", "/etc/hostname"),
        ("A = 1 ElementDataFile = /etc/hostname\n", "LOCAL"),
        ("ElementDataFile\n= /etc/hostname\n", "LOCAL"),
    ],
)
def test_a_second_name_for_the_voxels_is_refused(tmp_path: Path, sly: str, name: str) -> None:
    file = detached(tmp_path, ".mha", name)
    file.write_bytes(sly.encode() + file.read_bytes() + bytes(8))
    with pytest.raises(BadData, match="names its data 2 times"):
        Itk().read([file])


def test_a_header_behind_a_link_is_followed_where_the_link_stands(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    save(tmp_path / "store" / "a.nrrd", itk_image(VALUES))
    (tmp_path / "a.nrrd").symlink_to(tmp_path / "store" / "a.nrrd")
    assert Itk().read([tmp_path / "a.nrrd"]).shape == (5, 4, 3)


# -- damage --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize("ending", SINGLE)
def test_damaged_files_are_told(
    tmp_path: Path, ending: str, compressed: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (9, 9, 9)).astype(np.uint8)
    whole = save(tmp_path / f"a{ending}", itk_image(noise), compressed).read_bytes()
    damaged = [whole[:length] for length in (0, 3, 30, 100, len(whole) // 2, len(whole) - 9, len(whole) - 1)]
    if compressed:
        damaged += [whole[:at] + bytes([whole[at] ^ 16]) + whole[at + 1 :] for at in (-400, -200, -4)]
    for content in damaged:
        file = tmp_path / f"bad{ending}"
        file.write_bytes(content)
        with pytest.raises(BadData, match=rf"bad{ending}") as caught:
            Itk().read([file])
        assert "\n" not in str(caught.value)
    assert capfd.readouterr().err == ""
    with pytest.raises(BadData, match="no such file"):
        Itk().read([tmp_path / f"absent{ending}"])


@pytest.mark.parametrize("ending", SINGLE)
def test_other_content_is_told(tmp_path: Path, ending: str) -> None:
    (tmp_path / f"text{ending}").write_text("not an image" * 99)
    with pytest.raises(BadData, match="text"):
        Itk().read_label(tmp_path / f"text{ending}")
    nifti = save(tmp_path / "a.nii", itk_image(VALUES))
    nifti.rename(tmp_path / f"b{ending}")
    with pytest.raises(BadData, match=r"b\."):
        Itk().read([tmp_path / f"b{ending}"])


NRRD = "NRRD0004\ntype: {type}\ndimension: 3\nspace: left-posterior-superior\nsizes: {sizes}\n"
NRRD += "space directions: {axes}\nspace origin: {origin}\nencoding: raw\nendian: little\n\n"
META = "ObjectType = Image\nNDims = 3\nBinaryData = True\nTransformMatrix = {axes}\nOffset = {origin}\n"
META += "ElementSpacing = {spacing}\nDimSize = {sizes}\nElementType = {type}\nElementDataFile = LOCAL\n"
BAD_NRRD = {
    "nan axis": ({"axes": "(nan,0,0) (0,1,0) (0,0,1)"}, r"bad.nrrd"),
    "nan origin": ({"origin": "(0,nan,0)"}, r"bad.nrrd"),
    "flat": ({"axes": "(1,0,0) (1,0,0) (0,0,1)"}, r"bad.nrrd"),
    "zero axis": ({"axes": "(0,0,0) (0,1,0) (0,0,1)"}, r"bad.nrrd"),
    "more voxels than bytes": ({"sizes": "2000 3000 4000"}, "cut short"),
    "no voxels": ({"sizes": "0 2 2"}, r"bad.nrrd"),
    "text": ({"type": "block"}, r"bad.nrrd"),
}
BAD_META = {
    "nan axis": ({"axes": "nan 0 0 0 1 0 0 0 1"}, r"bad.mha"),
    "nan origin": ({"origin": "0 nan 0"}, r"bad.mha"),
    "flat": ({"axes": "1 0 0 1 0 0 0 0 1"}, r"bad.mha"),
    "zero spacing": ({"spacing": "0 1 1"}, r"bad.mha"),
    "nan spacing": ({"spacing": "nan 1 1"}, r"bad.mha"),
    "more voxels than bytes": ({"sizes": "2000 3000 4000"}, "cut short"),
    "no voxels": ({"sizes": "0 2 2"}, r"bad.mha"),
    "unknown type": ({"type": "MET_NONSENSE"}, r"bad.mha"),
}


def headed(file: Path, text: str, fields: dict[str, str], **usual: str) -> Path:
    file.write_bytes(text.format(**usual | fields).encode() + bytes(8))
    return file


@pytest.mark.parametrize("name", BAD_NRRD)
def test_bad_nrrd_headers_are_told(tmp_path: Path, name: str) -> None:
    usual = {"type": "uchar", "sizes": "2 2 2", "axes": "(1,0,0) (0,1,0) (0,0,1)", "origin": "(0,0,0)"}
    assert Itk().read([headed(tmp_path / "good.nrrd", NRRD, {}, **usual)]).shape == (2, 2, 2)
    fields, message = BAD_NRRD[name]
    with pytest.raises(BadData, match=message):
        Itk().read([headed(tmp_path / "bad.nrrd", NRRD, fields, **usual)])


@pytest.mark.parametrize("name", BAD_META)
def test_bad_metaimage_headers_are_told(tmp_path: Path, name: str) -> None:
    usual = {"type": "MET_UCHAR", "sizes": "2 2 2", "axes": "1 0 0 0 1 0 0 0 1", "origin": "0 0 0", "spacing": "1 1 1"}
    assert Itk().read([headed(tmp_path / "good.mha", META, {}, **usual)]).shape == (2, 2, 2)
    fields, message = BAD_META[name]
    with pytest.raises(BadData, match=message):
        Itk().read([headed(tmp_path / "bad.mha", META, fields, **usual)])


def test_complex_numbers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadData, match="complex"):
        Itk().read([save(tmp_path / "a.nrrd", itk_image(np.zeros((2, 2, 2), np.complex64)))])


def test_voxels_written_as_text_are_read(tmp_path: Path) -> None:
    fields = "type: double\ndimension: 3\nsizes: 2 2 2\nencoding: ascii\n\n"
    (tmp_path / "a.nrrd").write_text(f"NRRD0004\n{fields}0 1 2 3 4 5 6 7\n")
    assert sorted(Itk().read([tmp_path / "a.nrrd"]).array.ravel().tolist()) == list(range(8))


@pytest.mark.parametrize("ending", [".nrrd", ".mha", ".mhd"])
def test_a_task_of_such_files_is_added_and_checked(home: Path, ending: str) -> None:
    for folder, limit in (("images", 99), ("labels", 2)):
        (home / folder).mkdir()
        for number in range(3):
            array = np.random.default_rng(number).integers(0, limit, (5, 6, 7)).astype(np.int16)
            save(home / folder / f"case{number}{ending}", itk_image(array, turned()))
    words = ("--images", f"{home}/images/*{ending}", "--labels", f"{home}/labels/*{ending}")
    added = CliRunner().invoke(main, ["--home", str(home), "add", "Task01_Volumes", *words])
    assert added.exit_code == 0 and "3 cases" in added.stderr, added.output
    checked = CliRunner().invoke(main, ["--home", str(home), "check", "Task01"])
    assert checked.exit_code == 0 and "0 cannot be used" in checked.stdout, checked.output


# -- real files ----------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("folder", ["SCT_spinalcord_mri", "NRRD_pyradiomics", "CT_TotalSegmentator_tests"])
def test_labels_of_real_volumes_lie_on_their_grids(real: Path, tmp_path: Path, folder: str) -> None:
    files = [file for file in sorted((real / folder).rglob("*")) if file.name.endswith((".nii.gz", ".nrrd"))]
    assert len(files) > 5
    for file in files:
        name = reader_for(file.name)
        assert name == ("itk" if file.name.endswith(".nrrd") else "nifti")
        reader = READERS.build(name)
        image = reader.read([file])
        label = (image.array[0] > image.array[0].mean()).astype(np.uint8)
        out = tmp_path / (stem_of(file.name) + reader.label_ending(file.name[len(stem_of(file.name)) :]))
        reader.write_label(out, label, image)
        assert np.array_equal(reader.read_label(out).array[0], label)
        if name == "itk":
            require_grid(SimpleITK.ReadImage(str(out)), SimpleITK.ReadImage(str(file)))
        else:
            before, after = nib.load(file), nib.load(out)
            assert before.shape[:3] == after.shape and np.array_equal(before.affine, after.affine)


@pytest.mark.real
def test_real_labels_lie_on_their_images(real: Path) -> None:
    folder = real / "NRRD_pyradiomics"
    for image, label in (("brain1_image", "brain1_label"), ("breast1_image", "breast1_label")):
        one, other = Itk().read([folder / f"{image}.nrrd"]), Itk().read_label(folder / f"{label}.nrrd")
        assert one.shape == other.shape
        assert np.allclose(one.placement["ras"], other.placement["ras"], atol=1e-6)
    label = Itk().read_label(folder / "prostate_phantom_subvolume-label.nrrd")
    assert set(np.unique(label.array)) == {0, 1, 7, 8, 9}
