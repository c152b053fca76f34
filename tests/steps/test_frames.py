"""A case as layers of pictures."""

from __future__ import annotations

import base64
import io

import numpy as np
import pytest
from PIL import Image as Picture

from autoseg.image import IGNORE, Image
from autoseg.steps import frames
from autoseg.steps.frames import CONFUSED, INVENTED, MISSED, planes


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
    found = planes(volume(), label, label)
    assert [plane.name for plane in found] == ["z", "y", "x"]
    assert [len(plane.frames) for plane in found] == [10, frames.SLICES, 20]
    assert found[0].first == 6 and found[0].frames[6].name == "z 6 of 10"
    assert found[0].tall == pytest.approx(30 / 20) and found[1].tall == pytest.approx(30 / 20)
    reference = opened(found[0].frames[6].layers[0])
    assert reference.shape == (30, 20, 4)
    assert reference[30 - 1 - 10, 5, 3] == 255 and reference[15, 10, 3] == 0  # the outline, upwards on the page


def test_what_differs_is_painted_by_how_it_differs() -> None:
    reference, prediction = np.zeros((4, 12, 12), np.uint8), np.zeros((4, 12, 12), np.uint8)
    reference[:, 1:3], prediction[:, 4:6] = 1, 1
    reference[:, 7:9], prediction[:, 7:9] = 1, 2
    reference[:, 10:12] = IGNORE
    prediction[:, 10:12] = 1
    layer = opened(planes(volume((4, 12, 12)), prediction, reference)[0].frames[0].layers[2])[::-1]
    for row, colour in ((1, MISSED), (4, INVENTED), (7, CONFUSED)):
        np.testing.assert_allclose(layer[row, 5, :3], colour, atol=8)
        assert layer[row, 5, 3] > 150
    assert layer[0, 5, 3] == 0 and layer[10, 5, 3] == 0


def test_a_place_can_be_shown_first() -> None:
    label = np.zeros((10, 30, 20), np.uint8)
    found = planes(volume(), label, label, focus=(2, 29, 7))
    assert [plane.frames[plane.first].name for plane in found] == ["z 2 of 10", "y 29 of 30", "x 7 of 20"]


def test_a_raster_is_one_picture_in_its_colours() -> None:
    array = np.zeros((3, 900, 700), np.uint8)
    array[0] = 255
    label = np.zeros((900, 700), np.uint8)
    (plane,) = planes(Image(array, (0.5, 0.5)), label, label)
    picture = opened(plane.frames[0].image)
    assert picture.shape == (450, 350, 3) and picture[5, 5, 0] > 240 and picture[5, 5, 2] < 15
    assert plane.tall == pytest.approx(9 / 7)


def test_classes_have_the_colours_of_other_pictures() -> None:
    assert frames.names(["background", "a", "b"]) == [("a", "#e69f00"), ("b", "#56b4e9")]
