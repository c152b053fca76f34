"""What is said of a sample rebuilds what was done to it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autoseg.augment.spatial import rearrange
from autoseg.parts import AUGMENTATIONS
from autoseg.records import Configuration, Memory, Network, Part, Train
from autoseg.steps.batches import Sample
from autoseg.steps.words import Move, axes_of, taken_apart, what_done, where_cut


def configuration(patch=(8, 8, 8), augment: tuple[Part, ...] = (), axes=(0, 1, 2)) -> Configuration:
    dims = len(patch)
    train = Train(
        loss="ce", augment=augment, steps=9, optimiser=Part(name="sgd"), schedule=Part(name="poly"), foreground=0.3
    )
    return Configuration(
        spacing=(1.0,) * dims, axes=axes, patch=patch, batch=1, normalise=(Part(name="none"),),
        resample=Part(name="keep"), network=Network.plain((4,), ((1,) * dims,)), train=train,
        memory=Memory(bytes=1, method=""),
    )  # fmt: skip


def sample(matrix: np.ndarray, level: int | None = None, drawn=(), **fields) -> Sample:
    return Sample(0, level, (-3,) * len(matrix), matrix, tuple(drawn), **fields)


@given(st.integers(0, 2**32), st.sampled_from([2, 3]), st.booleans())
def test_what_is_taken_apart_makes_the_matrix_again(seed: int, dims: int, planar: bool) -> None:
    rng, patch, matrix = np.random.default_rng(seed), (8,) * dims, np.eye(dims)
    options = {"rotate": 0.7, "resize": 0.7, "planar": planar}
    for part in (Part(name="affine", options=options), Part(name="turns"), Part(name="mirror")):
        matrix = matrix @ AUGMENTATIONS.build(part, dims=dims).matrix(rng, patch)
    move = taken_apart(matrix)
    assert move is not None and np.allclose(move.matrix, matrix)


@given(st.floats(-44, 44), st.booleans(), st.booleans(), st.booleans(), st.floats(0.5, 2))
def test_a_move_in_the_plane_is_told_as_it_was_made(
    angle: float, quarter: bool, y: bool, x: bool, scale: float
) -> None:
    made = Move((angle,), quarter, (y, x), (scale, scale))
    found = taken_apart(made.matrix)
    assert found is not None and (found.quarter, found.flips) == (quarter, (y, x))
    assert found.degrees[0] == pytest.approx(angle, abs=1e-6) and found.scales == pytest.approx((scale, scale))


def test_degrees_are_clockwise_on_the_screen_and_come_before_mirroring() -> None:
    right = np.zeros((3, 3), int)
    right[1, 2] = 1  # a mark in the middle of the right edge
    clockwise = rearrange(right, Move((0.0,), True, (False, False), (1.0, 1.0)).matrix)
    assert np.argwhere(clockwise).tolist() == [[2, 1]]  # below
    then_mirrored = rearrange(right, Move((90.0,), False, (True, False), (1.0, 1.0)).matrix.round())
    assert np.argwhere(then_mirrored).tolist() == [[0, 1]]


def test_what_shears_is_told_as_numbers() -> None:
    assert taken_apart(np.array([[1.0, 0.5], [0.0, 1.0]])) is None
    told = what_done(sample(np.array([[1.0, -0.5], [0.0, 1.0]])), configuration((8, 8)))
    assert told == "matrix 1 −0.5 0 1"


def test_where_a_sample_was_cut_is_told_by_the_axes_of_the_image() -> None:
    assert (
        where_cut(sample(np.eye(3)), (5, 20, 30), configuration()) == "z −3 to 5 of 5, y −3 to 5 of 20, x −3 to 5 of 30"
    )
    turned = configuration((8, 8), axes=(2, 0, 1))
    assert axes_of(turned) == "zy"
    assert where_cut(sample(np.eye(2), 4), (5, 20, 30), turned) == "x 4 of 5, z −3 to 5 of 20, y −3 to 5 of 30"
    assert where_cut(sample(np.eye(2), 0), (1, 20, 30), turned) == "z −3 to 5 of 20, y −3 to 5 of 30"


def test_moves_and_changes_are_told_with_their_numbers() -> None:
    gammas = tuple(Part(name="gamma", options={"invert": invert}) for invert in (True, False))
    settings = configuration(augment=(Part(name="mirror"), Part(name="noise"), *gammas))
    matrix = Move((0.0, 0.0, -12.5), True, (True, False, True), (1.0, 0.8, 0.8)).matrix
    drawn = ({"sd": 0.04567, "seed": 7}, None, {"power": [1.25, 0.75, 1.0, 1.1, 1.2]})
    assert what_done(sample(matrix, drawn=drawn), settings) == (
        "rotated −12.5° in zy · turned 90° in yx · mirrored z, x · scaled z 1, y 0.8, x 0.8 · "
        "noise sd 0.0457, seed 7 · gamma(invert=false) power 1.25 0.75 1 1.1 …"
    )
    bent = sample(np.eye(3), drawn=(None,) * 3, fields=({"cells": [2, 2], "reach": [1.5, 2.0]},), swaps=((1, 2),))
    assert what_done(bent, settings) == "bent cells 2 2, reach 1.5 2 · classes 1 and 2 exchanged"
    assert what_done(sample(np.eye(3), drawn=(None,) * 3), settings) == "unchanged"
    assert math.isclose(np.linalg.det(matrix), 1 / 0.64)
