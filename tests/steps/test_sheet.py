"""The picture of a batch: what stands in it lies where it lies in the arrays."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from skimage.io import imread
from skimage.measure import label as labelled
from skimage.measure import regionprops

from autoseg.image import IGNORE
from autoseg.steps import sheet
from autoseg.steps.sheet import Row, draw, focus, grey, outlines, tint, views

masks = arrays(bool, st.tuples(st.integers(1, 7), st.integers(1, 7)))


def row(shape: tuple[int, ...], channels: int = 1, classes: int = 3) -> Row:
    rng = np.random.default_rng(0)
    label = rng.integers(0, classes, shape).astype(np.uint8)
    label[0] = IGNORE
    return Row("case $a$", "unchanged", rng.random((channels, *shape), dtype=np.float32), label)


def painted(rows: list[Row], axes: str, spacing: tuple[float, ...], classes=("background", "a", "b")) -> np.ndarray:
    file = io.BytesIO()
    draw(file, "title $x_1$", rows, classes, axes, spacing)
    assert file.getvalue().startswith(b"\x89PNG")
    file.seek(0)
    return imread(file)


@given(masks)
def test_outlines_are_the_edges_between_inside_and_outside(mask: np.ndarray) -> None:
    ring = np.pad(mask, 1).astype(int)
    edges = outlines(mask)
    assert len(edges) == np.abs(np.diff(ring, axis=0)).sum() + np.abs(np.diff(ring, axis=1)).sum()
    assert np.allclose(np.abs(edges[:, 0] - edges[:, 1]).sum(1), 1)
    padded = np.pad(mask, 1)
    for (x0, y0), (x1, y1) in edges.tolist():  # half a pixel either way across the edge
        across = (0.5, 0) if x0 == x1 else (0, 0.5)
        x, y = (x0 + x1) / 2 + 1, (y0 + y1) / 2 + 1
        sides = [padded[round(y + sign * across[1]), round(x + sign * across[0])] for sign in (-1, 1)]
        assert sides[0] != sides[1]


def test_slices_go_through_the_rarest_class_or_the_middle() -> None:
    label = np.zeros((6, 8, 10), np.uint8)
    assert focus(label) == (3, 4, 5)
    label[:4, 0], label[5, 7, 9], label[2] = 1, 2, IGNORE
    assert focus(label) == (5, 7, 9)
    image = np.random.default_rng(0).random((2, 6, 8, 10), dtype=np.float32)
    shown = list(views(image, label, "zyx", (3, 1, 1)))
    assert [view.name[:3] for view in shown] == ["z 5", "y 7", "x 9"]
    assert [view.picture.shape for view in shown] == [(8, 10), (6, 10), (6, 8)]
    assert np.array_equal(shown[1].picture, grey(image[0])[:, 7]) and np.array_equal(shown[1].label, label[:, 7])
    assert [view.tall for view in shown] == pytest.approx([0.8, 1.8, 2.25])


@pytest.mark.parametrize(("channels", "shape"), [(1, (5, 6)), (2, (5, 6)), (3, (5, 6, 3)), (12, (5, 6, 3))])
def test_pictures_of_three_channels_are_in_colour(channels: int, shape: tuple[int, ...]) -> None:
    one = row((5, 6), channels)
    (view,) = views(one.image, one.label, "yx", (1, 1))
    assert view.picture.shape == shape and view.picture.min() == 0 and view.picture.max() == 1


def test_a_constant_channel_is_black() -> None:
    assert not grey(np.full((4, 4), 7, np.float32)).any()


def test_only_what_has_a_label_is_tinted_and_what_is_ignored_is_striped() -> None:
    label = np.zeros((12, 12), np.uint8)
    label[3:6, 3:6], label[8:] = 2, IGNORE
    made = tint(label)
    assert np.array_equal(made[..., 3] > 0, label > 0)
    assert len(np.unique(made[label == IGNORE], axis=0)) == 2 and len(np.unique(made[label == 2], axis=0)) == 1


@pytest.mark.parametrize(("axes", "across"), [("yx", 2), ("zyx", 6)])
def test_every_sample_is_a_row_of_as_many_pictures(axes: str, across: int) -> None:
    one = row((16,) * len(axes))
    white = Row(one.title, "", np.ones_like(one.image), np.zeros_like(one.label))  # black pictures: nothing differs
    page = painted([white] * 3, axes, (1.0,) * len(axes))
    black = labelled((page[..., :3] < 10).all(-1))
    squares = [found for found in regionprops(black) if found.area > 10_000]
    assert len(squares) == 3 * across and len({found.bbox[0] for found in squares}) == 3


def test_long_words_and_many_classes_stay_on_the_page() -> None:
    label = np.arange(40 * 40).reshape(40, 40) % 104
    many = Row("case", "noise · " * 60, np.zeros((1, 40, 40), np.float32), label.astype(np.uint8))
    page = painted([many], "yx", (1, 1), tuple(f"organ number {n}" for n in range(104)))
    assert (page[:, -8:, :3] == 255).all() and (page[-8:, :, :3] == 255).all()


def test_a_page_of_many_samples_is_no_higher_than_a_png_may_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sheet, "PIXELS", 900)
    assert painted([row((8, 8))] * 6, "yx", (1, 1)).shape[0] <= 901
