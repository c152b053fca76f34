"""What is written beside a label: whole or not at all, where the image lies, whatever the cuts."""

from __future__ import annotations

import csv
from pathlib import Path

import blosc2
import nibabel
import numpy as np
import pytest
import rasterio
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.arrays.boxes import whole
from autoseg.errors import RunFailed
from autoseg.image import Image
from autoseg.pipeline.extras import ExtraWish, extras_for
from autoseg.readers.nifti import Nifti
from autoseg.readers.raster import Raster
from autoseg.records import Channel, Question
from autoseg.steps import outputs
from autoseg.steps.pieces import Piece

ALL = ExtraWish(probabilities=True, uncertainty=True, volumes=True, previews=True)
ASKED = Question(
    reader="nifti", channels=(Channel(name="ct", kind="ct"),), labels={"background": 0, "liver": 3, "tumour": 7}
)


def piece_of(shape: tuple[int, ...], valid: bool = False) -> Piece:
    rng = np.random.default_rng(0)
    chances = torch.softmax(torch.from_numpy(rng.normal(0, 2, (3, *shape)).astype(np.float32)), 0)
    mask = rng.random(shape) < 0.8 if valid else None
    apart = torch.from_numpy(rng.random(shape).astype(np.float32))
    return Piece(whole(shape), chances.argmax(0).numpy().astype(np.uint8), mask, chances, apart)


def parts(piece: Piece, rows: int, axis: int) -> list[Piece]:
    """The piece in slabs of so many rows, the last ones first."""
    found = []
    for start in range(0, piece.indices.shape[axis], rows):
        slab = slice(start, min(start + rows, piece.indices.shape[axis]))
        box = tuple(slab if a == axis else part for a, part in enumerate(piece.box))
        valid = None if piece.valid is None else piece.valid[box]
        assert piece.probabilities is not None and piece.disagreement is not None
        chances, apart = piece.probabilities[(slice(None), *box)], piece.disagreement[box]
        found.append(Piece(box, piece.indices[box], valid, chances, apart))
    return found[::-1]


def write(image: Image, pieces: list[Piece], out: Path, wish: ExtraWish = ALL, stem: str = "case") -> list[Path]:
    files = []
    for extra in extras_for(wish, ASKED, image, out, stem):
        for piece in pieces:
            extra.take(piece)
        files += extra.close()
    return files


def volume(folder: Path, affine: np.ndarray, shape: tuple[int, int, int] = (6, 7, 8)) -> Image:
    """A NIfTI file of that affine, as it is read."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, affine), folder / "in.nii.gz")
    return Nifti().read([folder / "in.nii.gz"])


def scene(folder: Path, shape: tuple[int, int] = (37, 53), **options: object) -> Image:
    """A GeoTIFF, as it is read."""
    folder.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(0).integers(0, 255, (3, *shape), dtype=np.uint8)
    size = {"height": shape[0], "width": shape[1], "count": 3, "dtype": "uint8"}
    with rasterio.open(folder / "in.tif", "w", driver="GTiff", **size, **options) as target:
        target.write(values)
    return Raster().read([folder / "in.tif"])


TURNED = np.array([[0, -2.0, 0, 5], [1.5, 0, 0.2, -7], [0, 0, -3.0, 11], [0, 0, 0, 1]])
SCENE = {"crs": "EPSG:32633", "transform": rasterio.Affine(10, 0, 500_000, 0, -10, 5_000_000)}


def test_every_wish_has_its_files_and_no_others(tmp_path: Path) -> None:
    image = volume(tmp_path, TURNED)
    piece = piece_of(image.shape)
    files = write(image, [piece], tmp_path / "out")
    names = {"case.probabilities.b2nd", "case.entropy.nii.gz", "case.disagreement.nii.gz", "case.preview.png"}
    assert {file.name for file in files} == names
    there = {file.name for file in (tmp_path / "out").iterdir() if file.is_file()}
    assert there == names | {"volumes.csv"}
    assert extras_for(ExtraWish(), ASKED, image, tmp_path / "none", "case") == [] and not (tmp_path / "none").exists()


@pytest.mark.parametrize(("rows", "axis"), [(1, 0), (3, 1), (2, 2)])
def test_a_volume_cut_anyhow_gives_the_same_files(tmp_path: Path, rows: int, axis: int) -> None:
    image = volume(tmp_path, TURNED)
    piece = piece_of(image.shape, valid=True)
    write(image, [piece], tmp_path / "whole")
    write(image, parts(piece, rows, axis), tmp_path / "cut")
    for name in ("case.entropy.nii.gz", "case.disagreement.nii.gz"):
        one, two = (nibabel.load(tmp_path / sub / name) for sub in ("whole", "cut"))
        assert np.array_equal(one.get_fdata(), two.get_fdata(), equal_nan=True)
    for name in ("volumes.csv", "case.preview.png"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "cut" / name).read_bytes()
    one, two = (blosc2.open(str(tmp_path / sub / "case.probabilities.b2nd"), mode="r") for sub in ("whole", "cut"))
    assert np.array_equal(one[:], two[:])


def test_uncertainty_lies_where_the_input_lies(tmp_path: Path) -> None:
    image = volume(tmp_path, TURNED)
    piece = piece_of(image.shape)
    write(image, [piece], tmp_path)
    made = nibabel.load(tmp_path / "case.entropy.nii.gz")
    assert np.allclose(made.affine, TURNED, atol=1e-6) and made.shape == (6, 7, 8)
    assert made.get_data_dtype() == np.float32
    again = Nifti().read([tmp_path / "case.entropy.nii.gz"])
    assert np.allclose(again.array[0], outputs.entropy_of(piece, ASKED), atol=1e-3)


def test_an_image_of_another_kind_lies_where_its_axes_say(tmp_path: Path) -> None:
    plain = Image(np.zeros((1, 3, 4, 5), np.uint8), (3.0, 2.0, 1.0))
    write(plain, [piece_of((3, 4, 5))], tmp_path, ExtraWish(uncertainty=True))
    made = nibabel.load(tmp_path / "case.disagreement.nii.gz")
    assert made.shape == (5, 4, 3) and np.allclose(made.affine, np.diag([1, 2, 3, 1]))


def test_probabilities_are_read_in_three_lines(tmp_path: Path) -> None:
    image = volume(tmp_path, TURNED)
    piece = piece_of(image.shape)
    write(image, parts(piece, 3, 2), tmp_path, ExtraWish(probabilities=True))
    array = blosc2.open(str(tmp_path / "case.probabilities.b2nd"), mode="r")
    told = array.vlmeta["autoseg"]
    tumour = array[told["outputs"].index("tumour")]
    assert piece.probabilities is not None
    assert tumour.dtype == np.float16 and np.allclose(tumour, piece.probabilities[2].numpy(), atol=1e-3)
    assert told["axes"] == "zyx" and told["spacing"] == list(image.spacing) and told["overlap"] is False
    assert array.schunk.cparams.codec == blosc2.Codec.ZSTD and array.chunks[0] == 1


@settings(max_examples=5, deadline=None)
@given(rows=st.integers(1, 40), axis=st.integers(0, 2))
def test_a_file_that_is_written_in_rows_has_no_holes(
    rows: int, axis: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, image = tmp_path_factory.mktemp("b2"), Image(np.zeros((1, 40, 48, 33), np.uint8), (1.0, 1.0, 1.0))
    piece = piece_of(image.shape)
    for name, pieces in (("whole", [piece]), ("cut", parts(piece, rows, axis))):
        write(image, pieces, folder, ExtraWish(probabilities=True), name)
    one, two = ((folder / f"{name}.probabilities.b2nd").stat().st_size for name in ("whole", "cut"))
    assert two < 1.05 * one


@pytest.mark.parametrize("shape", [(37, 53), (300, 600)])
@pytest.mark.parametrize("options", [SCENE, {}])
def test_uncertainty_of_a_raster_lies_where_the_raster_lies(
    tmp_path: Path, shape: tuple[int, int], options: dict[str, object]
) -> None:
    image = scene(tmp_path, shape, **options)
    piece = piece_of(shape, valid=True)
    write(image, parts(piece, 19, 1), tmp_path, ExtraWish(uncertainty=True, volumes=True, probabilities=True))
    with rasterio.open(tmp_path / "case.entropy.tif") as made, rasterio.open(tmp_path / "in.tif") as given_:
        assert made.crs == given_.crs and made.transform == given_.transform
        assert made.dtypes == ("float32",) and np.isnan(made.nodata)
        assert np.array_equal(made.read(1), outputs.entropy_of(piece, ASKED), equal_nan=True)
    header, *rows = csv.reader((tmp_path / "volumes.csv").read_text().splitlines())
    assert header == ["case", "class", "pixels", "area_m2"]
    area = [f"{100 * int(row[2])}" if options else "" for row in rows]
    assert [row[3] for row in rows] == area and len(rows) == 2


def test_cases_share_a_table_and_take_their_own_places(tmp_path: Path) -> None:
    image = volume(tmp_path, TURNED)
    piece, wish = piece_of(image.shape), ExtraWish(volumes=True)
    for stem in ("a", "b", "a"):
        write(image, [piece], tmp_path, wish, stem)
    rows = list(csv.DictReader((tmp_path / "volumes.csv").read_text().splitlines()))
    assert sorted((row["case"], row["class"]) for row in rows) == [
        ("a", "liver"), ("a", "tumour"), ("b", "liver"), ("b", "tumour"),
    ]  # fmt: skip
    size = abs(np.linalg.det(TURNED[:3, :3]))
    assert all(float(row["volume_mm3"]) == pytest.approx(int(row["voxels"]) * size, rel=1e-6) for row in rows)


@pytest.mark.parametrize("kind", ["volume", "scene"])
def test_what_is_abandoned_leaves_nothing_and_what_was_there_stays(tmp_path: Path, kind: str) -> None:
    image = volume(tmp_path, TURNED) if kind == "volume" else scene(tmp_path, (300, 600), **SCENE)
    piece, out = piece_of(image.shape), tmp_path / "out"
    write(image, [piece], out)
    before = {file.name: file.read_bytes() for file in out.rglob("*") if file.is_file()}
    made = extras_for(ALL, ASKED, image, out, "case") + extras_for(ALL, ASKED, image, out, "other")
    for extra in made:
        extra.take(parts(piece, 5, 1)[0])
    assert len(list(out.iterdir())) > len(before)
    for extra in made:
        extra.abandon()
    assert {file.name: file.read_bytes() for file in out.rglob("*") if file.is_file()} == before


def test_what_cannot_be_begun_takes_the_others_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = volume(tmp_path, TURNED)

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("autoseg.pipeline.extras.np.memmap", full)
    with pytest.raises(RunFailed, match=r"case.entropy.nii.gz: could not be written: .*No space.*free disk space"):
        extras_for(ALL, ASKED, image, tmp_path / "out", "case")
    assert list((tmp_path / "out").iterdir()) == []
