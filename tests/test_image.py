"""Arrays with spacing."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from autoseg.image import Case, Image, as_volume, volume_spacing


def test_shape_and_channels_leave_each_other_out() -> None:
    volume = Image(np.zeros((2, 3, 4, 5)), (3.0, 1.0, 1.0))
    picture = Image(np.zeros((3, 4, 5)), (1.0, 1.0))
    assert (volume.channels, volume.shape) == (2, (3, 4, 5))
    assert (picture.channels, picture.shape) == (3, (4, 5))
    assert volume.valid is None and volume.placement == {}


@pytest.mark.parametrize(
    ("shape", "spacing"), [((1, 2, 3), (1.0,) * 3), ((1, 2, 3, 4), (1.0,) * 2), ((2, 3), (1.0,) * 2)]
)
def test_an_array_that_does_not_fit_its_spacing_is_refused(shape: tuple[int, ...], spacing: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        Image(np.zeros(shape), spacing)


def test_images_and_cases_do_not_change() -> None:
    image = Image(np.zeros((1, 2, 2)), (1.0, 1.0))
    with pytest.raises(dataclasses.FrozenInstanceError):
        image.spacing = (2.0, 2.0)  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Case("a", image).id = "b"  # type: ignore[misc]


def test_a_flat_image_becomes_a_volume_of_one_slice() -> None:
    flat, deep = np.arange(24).reshape(2, 3, 4), np.arange(24).reshape(1, 2, 3, 4)
    assert as_volume(flat).shape == (2, 1, 3, 4)
    assert np.array_equal(as_volume(flat)[:, 0], flat)
    assert as_volume(deep) is deep
    assert volume_spacing((0.5, 0.7)) == (1.0, 0.5, 0.7)
    assert volume_spacing((3.0, 0.5, 0.7)) == (3.0, 0.5, 0.7)
