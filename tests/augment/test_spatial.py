"""Moving voxels: what matrices are drawn, and that applying them moves image and label alike."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.augment.spatial import Affine, Matrix, Mirror, Turns, exchange, is_exact, rearrange, source_shape, warp
from autoseg.errors import BadPlan
from autoseg.image import IGNORE
from autoseg.parts import AUGMENTATIONS
from autoseg.records import Part

few = settings(max_examples=20, deadline=None)
seeds = st.integers(0, 10**6)
patches = st.one_of(st.tuples(*[st.integers(2, 12)] * 2), st.tuples(*[st.integers(2, 7)] * 3))


def always(dims: int, **options: object) -> Affine:
    return Affine(dims, rotate=1.0, **{"resize": 1.0, **options})  # type: ignore[arg-type]


def signed_permutations(dims: int) -> list[Matrix]:
    signs = itertools.product((1.0, -1.0), repeat=dims)
    return [np.eye(dims)[list(order)] * s for s in signs for order in itertools.permutations(range(dims))]


def drawn(part: Affine | Turns | Mirror, seed: int, patch: tuple[int, ...]) -> Matrix:
    return part.matrix(np.random.default_rng(seed), patch)


def moved(image: np.ndarray, label: np.ndarray, matrix: Matrix, patch: tuple[int, ...], pad: int = 0) -> tuple:
    """One source (C, *S), behind which the common shape has `pad` more voxels."""
    wide = [(0, pad)] * label.ndim
    images = torch.from_numpy(np.pad(image, [(0, 0), *wide]))[None].float()
    labels = torch.from_numpy(np.pad(label.astype(np.int16), wide, constant_values=IGNORE))[None]
    out, out_label = warp(images, labels, [label.shape], [matrix], patch, IGNORE)
    return out[0].numpy(), out_label[0].numpy()


def picture(shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, *shape)).astype(np.float32), rng.integers(0, 5, shape)


# -- matrices ------------------------------------------------------------------------------------------


@few
@given(seeds, st.sampled_from([2, 3]))
def test_rotations_are_orthonormal_and_do_not_mirror(seed: int, dims: int) -> None:
    matrix = drawn(always(dims, resize=0.0), seed, (8,) * dims)
    assert np.allclose(matrix @ matrix.T, np.eye(dims), atol=1e-12)
    assert np.linalg.det(matrix) == pytest.approx(1)
    assert not np.allclose(matrix, np.eye(dims))


@few
@given(seeds, st.sampled_from([2, 3]))
def test_scales_stay_within_their_range(seed: int, dims: int) -> None:
    matrix = drawn(always(dims, scale=(0.5, 3.0)), seed, (8,) * dims)
    sizes = np.linalg.svd(matrix)[1]
    assert np.allclose(sizes, sizes[0]) and 0.5 <= sizes[0] <= 3


@few
@given(seeds)
def test_planar_leaves_the_first_axis_of_a_volume_alone(seed: int) -> None:
    matrix = drawn(always(3, planar=True), seed, (2, 8, 8))
    assert np.array_equal(matrix[0], [1, 0, 0]) and np.array_equal(matrix[:, 0], [1, 0, 0])
    assert not is_exact(matrix)


def test_degrees_bound_the_angle() -> None:
    angles = [
        np.degrees(np.arctan2(m[1, 0], m[0, 0])) for m in (drawn(always(2, resize=0.0), s, (8, 8)) for s in range(99))
    ]
    assert max(np.abs(angles)) <= 30 and max(angles) > 20 and min(angles) < -20


def test_nothing_happens_as_often_as_the_probabilities_say() -> None:
    rng = np.random.default_rng(0)
    idle = sum(np.array_equal(Affine(3).matrix(rng, (8, 8, 8)), np.eye(3)) for _ in range(2000))
    assert idle / 2000 == pytest.approx(0.64, abs=0.04)
    assert np.array_equal(drawn(Affine(3, rotate=0.0, resize=0.0), 0, (8, 8, 8)), np.eye(3))


@few
@given(seeds, patches)
def test_turns_and_mirrors_are_exact_and_keep_the_patch(seed: int, patch: tuple[int, ...]) -> None:
    for part in (Turns(len(patch)), Mirror(len(patch))):
        matrix = drawn(part, seed, patch)
        assert is_exact(matrix)
        assert source_shape(matrix, patch) == patch


def test_all_turns_and_all_mirrors_occur() -> None:
    square = {drawn(Turns(3), seed, (2, 5, 5)).tobytes() for seed in range(60)}
    oblong = {(drawn(Turns(3), seed, (2, 5, 6)) + 0.0).tobytes() for seed in range(60)}
    assert (len(square), len(oblong)) == (4, 2)
    assert len({drawn(Mirror(3), seed, (2, 5, 5)).tobytes() for seed in range(99)}) == 8
    assert len({drawn(Mirror(3, axes=[2]), seed, (2, 5, 5)).tobytes() for seed in range(99)}) == 2
    assert all(np.array_equal(drawn(Mirror(3, axes=[]), seed, (2, 5, 5)), np.eye(3)) for seed in range(9))


@pytest.mark.parametrize("axes", [[2], [-1], [0, 5]])
def test_mirror_refuses_axes_that_are_not_there(axes: list[int]) -> None:
    with pytest.raises(ValueError, match="are not among the 2 axes"):
        Mirror(2, axes)


def test_mirror_exchanges_classes_when_it_flips_their_axis_and_draws_what_it_drew() -> None:
    part = Mirror(3, swap=[[1, 2], [5, 3]], swap_axis=2)
    for seed in range(20):
        matrix = drawn(part, seed, (4, 5, 6))
        assert np.array_equal(matrix, drawn(Mirror(3), seed, (4, 5, 6)))
        assert part.exchanged(matrix) == (((1, 2), (5, 3)) if matrix[2, 2] < 0 else ())
        assert Mirror(3).exchanged(matrix) == ()


@few
@given(seeds)
def test_exchanging_twice_is_nothing_and_no_other_class_changes(seed: int) -> None:
    label = torch.from_numpy(np.random.default_rng(seed).choice([0, 1, 2, 3, IGNORE], (6, 7)).astype(np.uint8))
    out = exchange(label, (1, 3))
    assert out.dtype == label.dtype and torch.equal(exchange(out, (3, 1)), label)
    assert torch.equal(out == 1, label == 3) and torch.equal(out == 3, label == 1)
    other = (label != 1) & (label != 3)
    assert torch.equal(out[other], label[other])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"swap": [[1, 2]]}, "go together"),
        ({"swap_axis": 1}, "go together"),
        ({"swap": [[1, 2]], "swap_axis": 2}, "swap_axis 2 is not among the mirrored axes"),
        ({"axes": [0], "swap": [[1, 2]], "swap_axis": 1}, "swap_axis 1 is not among the mirrored axes"),
        ({"swap": [[1, 2, 3]], "swap_axis": 1}, "not pairs"),
        ({"swap": [[1, 1]], "swap_axis": 1}, "none occurs twice"),
        ({"swap": [[1, 2], [2, 3]], "swap_axis": 1}, "none occurs twice"),
        ({"swap": [[1, IGNORE]], "swap_axis": 1}, "no class can have"),
        ({"swap": [[-1, 2]], "swap_axis": 1}, "no class can have"),
    ],
)
def test_mirror_refuses_an_exchange_that_cannot_be(options: dict[str, Any], told: str) -> None:
    with pytest.raises(BadPlan, match=told):
        AUGMENTATIONS.build(Part(name="mirror", options=options), dims=2)


def test_only_signed_permutations_are_exact() -> None:
    assert all(is_exact(matrix) for dims in (2, 3) for matrix in signed_permutations(dims))
    shear, flat, half = [[1.0, 1.0], [0.0, 1.0]], [[1.0, 0.0], [0.0, 0.0]], [[1.0, 0.0], [0.0, 0.5]]
    assert not any(is_exact(np.array(matrix)) for matrix in (shear, flat, half, [[1.0, 1e-9], [0.0, 1.0]]))


# -- applying them -------------------------------------------------------------------------------------


@pytest.mark.parametrize("patch", [(4, 5), (6, 6), (3, 4, 5), (2, 3, 3)])
def test_rearranging_equals_warping(patch: tuple[int, ...]) -> None:
    for matrix in signed_permutations(len(patch)):
        image, label = picture(source_shape(matrix, patch))
        out, out_label = moved(image, label, matrix, patch, pad=2)
        assert np.allclose(rearrange(image, matrix), out, atol=1e-5)
        assert np.array_equal(rearrange(label, matrix), out_label)


def test_four_quarter_turns_and_two_mirrors_are_nothing() -> None:
    image, _ = picture((3, 4, 4))
    quarter = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    once = rearrange(image, quarter)
    assert np.array_equal(once, np.rot90(image, 1, (2, 3))) or np.array_equal(once, np.rot90(image, -1, (2, 3)))
    turned = image
    for _ in range(4):
        turned = rearrange(turned, quarter)
    assert np.array_equal(turned, image)
    for signs in itertools.product((1.0, -1.0), repeat=3):
        flip = np.diag(signs)
        flipped = np.flip(image, [axis + 1 for axis in range(3) if signs[axis] < 0])
        assert np.array_equal(rearrange(image, flip), flipped)
        assert np.array_equal(rearrange(rearrange(image, flip), flip), image)


@few
@given(patches, st.integers(0, 3))
def test_the_identity_gives_the_input(patch: tuple[int, ...], pad: int) -> None:
    image, label = picture(patch)
    out, out_label = moved(image, label, np.eye(len(patch)), patch, pad)
    assert np.allclose(out, image, atol=1e-4)
    assert np.array_equal(out_label, label)


@few
@given(seeds, patches, st.integers(0, 3))
def test_the_source_box_holds_all_that_the_matrix_reaches(seed: int, patch: tuple[int, ...], pad: int) -> None:
    matrix = drawn(always(len(patch), degrees=180.0), seed, patch)
    shape = source_shape(matrix, patch)
    assert all((s - p) % 2 == 0 for s, p in zip(shape, patch, strict=True))
    out, out_label = moved(np.full((1, *shape), 3.0), np.full(shape, 2), matrix, patch, pad)
    assert np.allclose(out, 3, atol=1e-4)
    assert (out_label == 2).all()


@few
@given(seeds, patches)
def test_image_and_label_stay_together(seed: int, patch: tuple[int, ...]) -> None:
    """Along a ramp the warped value is the place that was looked at: the label there is the nearest one's."""
    matrix = drawn(always(len(patch)), seed, patch)
    shape = source_shape(matrix, patch)
    label = np.indices(shape).sum(0)
    ramps = np.indices(shape).astype(np.float32)
    out, out_label = moved(ramps, label, matrix, patch, pad=1)
    offsets = np.indices(patch) - ((np.array(patch) - 1) / 2).reshape(-1, *[1] * len(patch))
    places = np.einsum("ij,j...->i...", matrix, offsets) + ((np.array(shape) - 1) / 2).reshape(-1, *[1] * len(patch))
    assert np.allclose(out, places, atol=1e-3)
    clear = (np.abs(places - np.floor(places) - 0.5) > 1e-3).all(0)
    assert np.array_equal(out_label[clear], np.rint(places).sum(0)[clear])


def test_outside_a_source_there_is_nothing() -> None:
    image, label = np.ones((1, 4, 4), np.float32), np.zeros((4, 4), int)
    out, out_label = moved(image, label, np.eye(2), (8, 4), pad=0)
    assert np.array_equal(out_label, [[IGNORE] * 4] * 2 + [[0] * 4] * 4 + [[IGNORE] * 4] * 2)
    assert not out[0, :2].any() and not out[0, 6:].any() and np.allclose(out[0, 2:6], 1)


def test_each_sample_of_a_batch_has_its_own_matrix_and_size() -> None:
    matrices = [np.eye(2), drawn(always(2), 3, (6, 6)), np.diag([-1.0, 1.0])]
    shapes = [source_shape(matrix, (6, 6)) for matrix in matrices]
    pictures = [picture(shape, seed) for seed, shape in enumerate(shapes)]
    alone = [moved(*one, matrix, (6, 6)) for one, matrix in zip(pictures, matrices, strict=True)]
    common = [max(axis) for axis in zip(*shapes, strict=True)]
    images, labels = np.zeros((3, 2, *common), np.float32), np.full((3, *common), IGNORE, np.int16)
    for n, (image, label) in enumerate(pictures):
        corner = tuple(slice(size) for size in label.shape)
        images[(n, slice(None), *corner)], labels[(n, *corner)] = image, label
    out, out_label = warp(torch.from_numpy(images), torch.from_numpy(labels), shapes, matrices, (6, 6), IGNORE)
    for n, (image, label) in enumerate(alone):
        assert np.allclose(out[n], image, atol=1e-4) and np.array_equal(out_label[n], label)
