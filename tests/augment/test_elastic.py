"""Bending: bounded, smooth, never folded, and the same whenever it is drawn again."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.interpolate import BSpline

from autoseg.augment.elastic import FOLD, Elastic, basis, displacement
from autoseg.augment.spatial import Affine, source_shape, warp
from autoseg.errors import BadPlan
from autoseg.image import IGNORE
from autoseg.parts import AUGMENTATIONS
from autoseg.records import Part

few = settings(max_examples=10, deadline=None)
seeds = st.integers(0, 10**6)
patches = st.one_of(st.tuples(*[st.integers(2, 16)] * 2), st.tuples(*[st.integers(2, 8)] * 3))


def certain(dims: int, **options: Any) -> Elastic:
    made = AUGMENTATIONS.build(Part(name="elastic", options={"probability": 1.0, **options}), dims=dims)
    assert isinstance(made, Elastic)
    return made


def drawn(part: Elastic, seed: int, patch: tuple[int, ...]) -> dict[str, Any]:
    field = part.field(np.random.default_rng(seed), patch)
    assert field is not None
    return field


def bent(field: dict[str, Any], patch: tuple[int, ...]) -> torch.Tensor:
    return displacement(field, patch, torch.device("cpu"))


# -- what is drawn -------------------------------------------------------------------------------------


@few
@given(seeds, patches)
def test_the_drawn_is_plain_and_gives_the_same_field_again(seed: int, patch: tuple[int, ...]) -> None:
    field = drawn(certain(len(patch)), seed, patch)
    again = json.loads(json.dumps(field))
    assert again == field == drawn(certain(len(patch)), seed, patch)
    assert torch.equal(bent(again, patch), bent(field, patch))
    assert bent(field, patch).shape == (*patch, len(patch))


def test_a_field_is_drawn_as_often_as_the_probability_says() -> None:
    rng = np.random.default_rng(0)
    share = sum(Elastic(2).field(rng, (8, 8)) is not None for _ in range(2000)) / 2000
    assert share == pytest.approx(0.2, abs=0.03)
    state = rng.bit_generator.state
    assert np.array_equal(Elastic(3).matrix(rng, (8, 8, 8)), np.eye(3)) and rng.bit_generator.state == state


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"probability": 1.5}, "probability is 1.5, not within 0..1"),
        ({"strength": [0.1, 0.05]}, "strength is"),
        ({"strength": [-0.1, 0.05]}, "strength is"),
        ({"strength": [0.1]}, "strength is"),
        ({"cells": [0, 3]}, "cells is"),
        ({"strength": [0.0, 0.1], "cells": [2, 5]}, "may fold the image over itself"),
    ],
)
def test_impossible_values_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadPlan, match=told):
        AUGMENTATIONS.build(Part(name="elastic", options=options), dims=2)


# -- the field -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("size", "cells"), [(1, 1), (2, 3), (16, 2), (9, 5)])
def test_the_weights_are_those_of_scipys_cubic_b_spline(size: int, cells: int) -> None:
    places = (np.arange(size) + 0.5) / size * cells
    expected = BSpline.design_matrix(places, np.arange(-3.0, cells + 4), 3).toarray()
    assert np.allclose(basis(size, cells), expected, atol=1e-12)
    assert np.allclose(basis(size, cells).sum(1), 1) and (basis(size, cells) >= 0).all()


@few
@given(seeds, patches)
def test_no_voxel_moves_farther_than_its_reach(seed: int, patch: tuple[int, ...]) -> None:
    field = drawn(certain(len(patch)), seed, patch)
    assert all(0 <= reach <= 0.08 * size for reach, size in zip(field["reach"], patch, strict=True))
    assert (bent(field, patch).abs() <= torch.tensor(field["reach"]) + 1e-6).all()


@pytest.mark.parametrize("patch", [(24, 30), (14, 12, 16)])
@pytest.mark.parametrize("cells", [1, 3, 5])
def test_the_strongest_field_does_not_fold(patch: tuple[int, ...], cells: int) -> None:
    part = certain(len(patch), strength=[FOLD / cells, FOLD / cells], cells=[cells, cells])
    inside = tuple(slice(size - 1) for size in patch)
    for seed in range(10):
        d = bent(drawn(part, seed, patch), patch).numpy()
        slopes = np.stack([np.diff(d, axis=axis)[inside] for axis in range(len(patch))], -1)
        assert (np.linalg.det(slopes + np.eye(len(patch))) > 0).all()


def test_planar_moves_every_slice_alike_within_its_plane() -> None:
    d = bent(drawn(certain(3, planar=True), 0, (4, 9, 8)), (4, 9, 8))
    assert not d[..., 0].any() and d[..., 1:].any()
    assert all(torch.equal(d[0], other) for other in d)
    assert bent(drawn(certain(2, planar=True), 0, (9, 8)), (9, 8))[..., 0].any()


# -- applying it ---------------------------------------------------------------------------------------


def moved(
    image: np.ndarray, label: np.ndarray, matrix: np.ndarray, patch: tuple[int, ...], field: dict[str, Any] | None
) -> tuple[np.ndarray, np.ndarray]:
    fields = None if field is None else bent(field, patch)[None]
    images, labels = torch.from_numpy(image)[None].float(), torch.from_numpy(label.astype(np.int16))[None]
    out, out_label = warp(images, labels, [label.shape], [matrix], patch, IGNORE, fields)
    return out[0].numpy(), out_label[0].numpy()


@few
@given(seeds, patches)
def test_a_strength_of_0_is_no_field(seed: int, patch: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    image, label = rng.normal(size=(2, *patch)).astype(np.float32), rng.integers(0, 5, patch)
    field = drawn(certain(len(patch), strength=[0.0, 0.0]), seed, patch)
    out, out_label = moved(image, label, np.eye(len(patch)), patch, field)
    assert np.allclose(out, image, atol=1e-5) and np.array_equal(out_label, label)
    plain, plain_label = moved(image, label, np.eye(len(patch)), patch, None)
    assert np.array_equal(out, plain) and np.array_equal(out_label, plain_label)


@few
@given(seeds, patches)
def test_image_and_label_are_bent_together_and_the_box_holds_all_that_is_reached(
    seed: int, patch: tuple[int, ...]
) -> None:
    """Along a ramp the warped value is the place that was looked at: matrix · (offset + displacement)."""
    dims = len(patch)
    field = drawn(certain(dims, strength=[0.4, 0.4], cells=[1, 1]), seed, patch)
    matrix = Affine(dims, rotate=1.0).matrix(np.random.default_rng(seed), patch)
    shape = source_shape(matrix, patch, field["reach"])
    out, out_label = moved(np.indices(shape).astype(np.float32), np.indices(shape).sum(0), matrix, patch, field)
    offsets = np.moveaxis(np.indices(patch), 0, -1) - (np.array(patch) - 1) / 2 + bent(field, patch).numpy()
    places = np.moveaxis(offsets @ matrix.T + (np.array(shape) - 1) / 2, -1, 0)
    assert (places >= 0).all() and (places <= np.array(shape).reshape(-1, *[1] * dims) - 1).all()
    assert np.allclose(out, places, atol=1e-3)
    clear = (np.abs(places - np.floor(places) - 0.5) > 1e-3).all(0)
    assert np.array_equal(out_label[clear], np.rint(places).sum(0)[clear])
