"""What is made of pieces is what is made of the whole, however it was cut."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from skimage.io import imread

from autoseg.arrays.boxes import Box, whole
from autoseg.errors import BadFile
from autoseg.image import Image
from autoseg.records import Channel, Question
from autoseg.steps import outputs
from autoseg.steps.pieces import Piece


def question(**fields: object) -> Question:
    labels = {"background": 0, "liver": 3, "tumour": 7}
    return Question(reader="nifti", channels=(Channel(name="ct", kind="ct"),), labels=labels, **fields)


REGIONS = {"regions": {"organ": (3, 7), "tumour": (7,)}, "written": (3, 7)}


def cuts(box: Box, rng: np.random.Generator) -> Iterator[Box]:
    """The box in odd parts, each voxel once."""
    axis = max(range(len(box)), key=lambda a: box[a].stop - box[a].start)
    part = box[axis]
    if part.stop - part.start < 4:
        yield box
        return
    middle = int(rng.integers(part.start + 1, part.stop))
    for half in (slice(part.start, middle), slice(middle, part.stop)):
        inner = (*box[:axis], half, *box[axis + 1 :])
        yield from cuts(inner, rng) if rng.random() < 0.7 else [inner]


def predicted(shape: tuple[int, ...], outputs: int = 3, valid: bool = True) -> Piece:
    """A whole image as one piece, a ball of class 1 around one of class 2."""
    rng = np.random.default_rng(0)
    chances = torch.softmax(torch.from_numpy(rng.normal(0, 2, (outputs, *shape)).astype(np.float32)), 0)
    grid = np.indices(shape) - np.array([size * 0.4 for size in shape]).reshape(-1, *(1,) * len(shape))
    away = np.sqrt((grid**2).sum(0)) / min(shape)
    indices = ((away < 0.4).astype(np.uint8) + (away < 0.2)).astype(np.uint8)
    mask = None if valid else rng.random(shape) < 0.9
    return Piece(whole(shape), indices, mask, chances, torch.from_numpy(rng.random(shape).astype(np.float32)))


def parts(piece: Piece, seed: int = 1) -> list[Piece]:
    """The piece in odd parts, in any order."""
    rng = np.random.default_rng(seed)
    found = []
    for box in cuts(piece.box, rng):
        every = (slice(None), *box)
        valid = None if piece.valid is None else piece.valid[box]
        assert piece.probabilities is not None and piece.disagreement is not None
        chances, apart = piece.probabilities[every], piece.disagreement[box]
        found.append(Piece(box, piece.indices[box], valid, chances, apart))
    rng.shuffle(found)  # type: ignore[arg-type]
    return found


def drawn(preview: outputs.VolumePreview | outputs.RasterPreview, pieces: list[Piece]) -> np.ndarray:
    for piece in pieces:
        preview.take(piece)
    file = io.BytesIO()
    preview.draw(file, "case $a$")
    file.seek(0)
    return imread(file)


def coloured(page: np.ndarray) -> np.ndarray:
    """Where a page is not grey."""
    return np.ptp(page[..., :3].astype(int), axis=-1) > 40


def test_entropy_is_that_of_the_distribution_and_unknown_without_a_measurement() -> None:
    piece = predicted((4, 5, 6), valid=False)
    assert piece.probabilities is not None and piece.valid is not None
    expected = torch.distributions.Categorical(piece.probabilities.movedim(0, -1)).entropy().numpy()
    found = outputs.entropy_of(piece, question())
    assert np.allclose(found[piece.valid], expected[piece.valid], atol=1e-5) and np.isnan(found[~piece.valid]).all()
    assert piece.disagreement is not None
    apart = outputs.disagreement_of(piece)
    assert np.array_equal(apart[piece.valid], piece.disagreement.numpy()[piece.valid])
    assert np.array_equal(np.isnan(apart), ~piece.valid)


def test_entropy_of_regions_is_the_sum_of_that_of_yes_and_no() -> None:
    chances = torch.tensor([0.5, 0.9]).reshape(2, 1, 1).expand(2, 3, 4)
    piece = Piece(whole((3, 4)), np.zeros((3, 4), np.uint8), None, chances)
    each = torch.distributions.Bernoulli(torch.tensor([0.5, 0.9])).entropy().sum()
    assert np.allclose(outputs.entropy_of(piece, question(**REGIONS)), float(each), atol=1e-6)


@pytest.mark.parametrize("shape", [(9, 20, 7), (33, 18)])
@pytest.mark.parametrize("seed", [1, 2])
def test_voxels_are_counted_once_and_only_where_they_are_measured(shape: tuple[int, ...], seed: int) -> None:
    piece = predicted(shape, valid=False)
    tally = outputs.Tally(question())
    for part in parts(piece, seed):
        tally.take(part)
    assert piece.valid is not None
    kept = piece.indices[piece.valid]
    assert tally.counts() == {"liver": (kept == 1).sum(), "tumour": (kept == 2).sum()}


def test_a_voxel_counts_for_every_region_that_it_lies_in() -> None:
    piece = predicted((8, 8, 8))
    tally = outputs.Tally(question(**REGIONS))
    tally.take(piece)
    assert tally.counts() == {"organ": (piece.indices > 0).sum(), "tumour": (piece.indices == 2).sum()}


# -- the table -----------------------------------------------------------------------------------------


VOLUME = Image(np.zeros((1, 2, 3, 4), np.uint8), (2.0, 1.0, 0.5))
PICTURE = Image(np.zeros((1, 3, 4), np.uint8), (1.0, 1.0))
SCENE = Image(np.zeros((1, 3, 4), np.uint8), (10.0, 10.0), None, {"kind": "raster", "crs": "EPSG:32633"})


def test_the_rows_of_a_case_are_replaced_and_those_of_others_stay() -> None:
    one = outputs.table("", "a, b", {"liver": 5, "tumour": 0}, VOLUME, "t.csv")
    both = outputs.table(one, "c", {"liver": 1, "tumour": 2}, VOLUME, "t.csv")
    again = outputs.table(both, "a, b", {"liver": 7, "tumour": 3}, VOLUME, "t.csv")
    header, *rows = csv.reader(io.StringIO(again))
    assert header == ["case", "class", "voxels", "volume_mm3"]
    assert sorted(rows) == [
        ["a, b", "liver", "7", "7"], ["a, b", "tumour", "3", "3"], ["c", "liver", "1", "1"], ["c", "tumour", "2", "2"],
    ]  # fmt: skip


def test_pixels_have_an_area_where_the_raster_says_one() -> None:
    assert outputs.table("", "x", {"water": 3}, SCENE, "").splitlines() == [
        "case,class,pixels,area_m2",
        "x,water,3,300",
    ]
    assert outputs.table("", "x", {"water": 3}, PICTURE, "").splitlines()[1] == "x,water,3,"


def test_sheared_voxels_are_as_large_as_they_are() -> None:
    ras = np.array([[1, 0, 0.5, 0], [0, 1, 0, 0], [0, 0, 2, 0], [0, 0, 0, 1]])
    spacing = tuple(float(n) for n in np.linalg.norm(ras[:3, :3], axis=0)[::-1])
    sheared = Image(VOLUME.array, spacing, None, {"kind": "nifti", "ras": ras})
    assert outputs.size_of(sheared) == pytest.approx(2.0) and np.prod(spacing) > 2.05


@pytest.mark.parametrize(
    "text", ["a,b\n1,2\n", "case,class,voxels,volume_mm3\nx,liver\n", "case,class,pixels,area_m2\n"]
)
def test_another_table_is_not_written_over(text: str) -> None:
    with pytest.raises(BadFile, match=r"there.csv: is a table of .*expected case, class, voxels, volume_mm3"):
        outputs.table(text, "x", {}, VOLUME, "there.csv")


# -- pictures ------------------------------------------------------------------------------------------


def volume(shape: tuple[int, ...], **placement: object) -> Image:
    array = np.random.default_rng(0).normal(100, 10, (1, *shape)).astype(np.float32)
    return Image(array, (2.0, 1.0, 1.0), None, placement)


@pytest.mark.parametrize("shape", [(9, 20, 30), (1, 40, 40), (1, 1, 1), (60, 4, 4)])
def test_a_preview_of_a_volume_does_not_depend_on_the_cuts(shape: tuple[int, ...]) -> None:
    piece, image = predicted(shape), volume(shape, ras=np.eye(4))
    page = drawn(outputs.VolumePreview(image, question()), [piece])
    assert max(page.shape) <= outputs.EDGE
    assert np.array_equal(page, drawn(outputs.VolumePreview(image, question()), parts(piece)))


def test_slices_go_through_most_of_the_foreground_head_up() -> None:
    image, piece = volume((6, 8, 10), ras=np.eye(4)), predicted((6, 8, 10))
    piece.indices[:] = 0
    piece.indices[4, 2:5, 7] = 1
    piece.indices[1, 6, 7] = 2
    preview = outputs.VolumePreview(image, question())
    preview.take(piece)
    views = preview._views()
    assert [view.name.split(":")[0] for view in views] == ["axial, z 4", "coronal, y 2", "sagittal, x 7"]
    assert np.array_equal(views[0].label, piece.indices[4, ::-1]) and np.array_equal(
        views[2].label, piece.indices[::-1, :, 7]
    )


def test_a_case_without_foreground_or_contrast_has_a_preview() -> None:
    piece = predicted((5, 6, 7))
    piece.indices[:] = 0
    flat = Image(np.full((1, 5, 6, 7), np.nan, np.float32), (1.0, 1.0, 1.0))
    assert not coloured(drawn(outputs.VolumePreview(flat, question()), [piece])).any()


@pytest.mark.parametrize("bands", [1, 3, 12])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_a_preview_of_a_raster_does_not_depend_on_the_cuts(
    bands: int, dtype: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outputs, "EDGE", 50)
    array = np.random.default_rng(0).integers(0, 255, (bands, 117, 83)).astype(dtype)
    image, piece = Image(array, (1.0, 1.0)), predicted((117, 83), valid=False)
    preview = outputs.RasterPreview(image, question())
    page = drawn(preview, [piece])
    assert preview.label.shape == (39, 28) and np.array_equal(preview.label, piece.indices[::3, ::3])
    assert preview.bands is not None and np.array_equal(preview.bands[0], array[0, ::3, ::3])
    assert coloured(page).any()
    assert np.array_equal(page, drawn(outputs.RasterPreview(image, question()), parts(piece)))


def test_a_raster_without_values_is_read_by_windows() -> None:
    array = np.random.default_rng(0).integers(0, 255, (3, 40, 30), dtype=np.uint8)
    grid = Image(np.broadcast_to(np.uint8(0), (1, 40, 30)), (1.0, 1.0))
    piece = predicted((40, 30))
    read = drawn(
        outputs.RasterPreview(grid, question(), lambda box: Image(array[(slice(None), *box)], (1.0, 1.0))), parts(piece)
    )
    held = drawn(outputs.RasterPreview(Image(array, (1.0, 1.0)), question()), [piece])
    assert np.array_equal(read, held)
