"""A case as layers of pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image as Picture

from autoseg.image import IGNORE, Image
from autoseg.records import Channel, Question
from autoseg.steps import frames
from autoseg.steps.frames import ERRORS, planes

LABELS = {"background": 0, "a": 1, "b": 2}
QUESTION = Question(reader="nifti", channels=(Channel(name="x", kind="mr"),), labels=LABELS)
COLOURS = {name: tuple(int(text[at : at + 2], 16) for at in (1, 3, 5)) for name, text in ERRORS}


def opened(uri: str) -> np.ndarray:
    kind, _, content = uri.partition(";base64,")
    assert kind in ("data:image/png", "data:image/jpeg")
    picture = Picture.open(io.BytesIO(base64.b64decode(content)))
    return np.asarray(picture.convert("RGBA" if kind.endswith("png") else "RGB"))


def volume(shape: tuple[int, ...] = (10, 30, 20)) -> Image:
    return Image(np.random.default_rng(0).normal(size=(1, *shape)).astype(np.float32), (3.0, 1.0, 1.0))


def test_a_volume_has_slices_across_every_axis() -> None:
    label = np.zeros((10, 30, 20), np.uint8)
    label[6, 10:20, 5:15] = 1
    found = planes(volume(), label, label, QUESTION)
    assert [plane.name for plane in found] == ["z", "y", "x"]
    assert [len(plane.frames) for plane in found] == [10, frames.SLICES, 20]
    assert found[0].frames[found[0].first].name == "z 6 of 10"
    assert found[0].tall == pytest.approx(30 / 20) and found[1].tall == pytest.approx(30 / 20)
    reference = opened(found[0].frames[6].layers[0])
    assert reference.shape == (30, 20, 4)
    assert reference[30 - 1 - 10, 5, 3] == 255 and reference[15, 10, 3] == 0  # the outline, upwards on the page


def test_the_slice_with_most_errors_is_there_and_shown_first() -> None:
    reference = np.zeros((500, 12, 12), np.uint8)
    reference[333, 3:6, 3:6] = 1
    plane = planes(volume((500, 12, 12)), np.zeros_like(reference), reference, QUESTION)[0]
    assert plane.frames[plane.first].name == "z 333 of 500" and len(plane.frames) <= frames.SLICES + 1


def test_what_differs_is_painted_by_how_it_differs() -> None:
    reference, prediction = np.zeros((4, 12, 12), np.uint8), np.zeros((4, 12, 12), np.uint8)
    reference[:, 1:3], prediction[:, 4:6] = 1, 1
    reference[:, 7:9], prediction[:, 7:9] = 1, 2
    reference[:, 10:12] = IGNORE
    prediction[:, 10:12] = 1
    layer = opened(planes(volume((4, 12, 12)), prediction, reference, QUESTION)[0].frames[0].layers[2])[::-1]
    for row, name in ((1, "missed"), (4, "invented"), (7, "another class")):
        assert tuple(layer[row, 5]) == (*COLOURS[name], 200)
    assert layer[0, 5, 3] == 0 and layer[10, 5, 3] == 0


def test_of_regions_what_lies_in_the_same_ones_is_no_error() -> None:
    question = QUESTION.model_copy(update={"regions": {"whole": (1, 2)}, "written": (1,)})
    reference, prediction = np.full((2, 6, 6), 2, np.uint8), np.full((2, 6, 6), 1, np.uint8)
    assert not opened(planes(volume((2, 6, 6)), prediction, reference, question)[0].frames[0].layers[2])[..., 3].any()


def test_without_a_background_every_class_has_a_colour_and_none_is_missed() -> None:
    question = QUESTION.model_copy(update={"labels": {"land": 1, "road": 2}})
    reference, prediction = np.zeros((2, 6, 6), np.uint8), np.ones((2, 6, 6), np.uint8)
    frame = planes(volume((2, 6, 6)), prediction, reference, question)[0].frames[0]
    assert tuple(opened(frame.layers[2])[3, 3]) == (*COLOURS["another class"], 200)
    assert [name for name, _ in frames.names(question)] == ["land", "road"]


def test_a_place_can_be_shown_first() -> None:
    label = np.zeros((10, 30, 20), np.uint8)
    found = planes(volume(), label, label, QUESTION, focus=(2, 29, 7))
    assert [plane.frames[plane.first].name for plane in found] == ["z 2 of 10", "y 29 of 30", "x 7 of 20"]


@pytest.mark.parametrize("shape", [(1, 30, 20), (1, 1, 9), (1, 1, 1), (400, 1, 1)])
def test_thin_volumes_are_not_seen_from_their_edges(shape: tuple[int, int, int]) -> None:
    label = np.zeros(shape, np.uint8)
    found = planes(volume(shape), label, label, QUESTION)
    assert "z" in [plane.name for plane in found]
    assert all(1 not in opened(plane.frames[0].image).shape[:2] for plane in found[1:])


def test_a_raster_is_one_picture_in_its_colours_and_a_large_one_has_a_window_of_its_errors() -> None:
    array = np.zeros((3, 900, 700), np.uint8)
    array[0] = 255
    label, reference = np.zeros((900, 700), np.uint8), np.zeros((900, 700), np.uint8)
    reference[880:885, 690:695] = 1
    whole, window = planes(Image(array, (0.5, 0.5)), label, reference, QUESTION)
    picture = opened(whole.frames[0].image)
    assert picture.shape == (450, 350, 3) and picture[5, 5, 0] > 240 and picture[5, 5, 2] < 15
    assert whole.tall == pytest.approx(9 / 7) and "every 2th" in whole.frames[0].name
    assert window.frames[0].name == "rows 300 to 899, columns 100 to 699"
    assert opened(window.frames[0].layers[2])[..., 3].any()


def test_a_place_in_a_raster_is_shown_at_its_own_size() -> None:
    label = np.zeros((3000, 2000), np.uint8)
    _, window = planes(Image(np.zeros((1, 3000, 2000), np.uint8), (1.0, 1.0)), label, label, QUESTION, focus=(1500, 5))
    assert window.frames[0].name == "rows 1200 to 1799, columns 0 to 599"
    assert opened(window.frames[0].image).shape == (600, 600, 3)


def test_classes_have_colours_of_their_own_however_many_there_are() -> None:
    many = QUESTION.model_copy(update={"labels": {"background": 0, **{f"c{n}": n for n in range(1, 60)}}})
    assert len({colour for _, colour in frames.names(many)}) == 59
    assert frames.names(QUESTION) == [("a", "#e69f00"), ("b", "#56b4e9")]
