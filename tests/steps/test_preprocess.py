"""Crop, turn, normalise, resample, and the way back."""

from __future__ import annotations

import numpy as np
import pytest

from autoseg.errors import BadPlan
from autoseg.image import IGNORE, Case, Image
from autoseg.parts import NORMALISERS
from autoseg.records import CaseFacts, Channel, Configuration, Memory, Network, Part, Question, Train, amend
from autoseg.steps import preprocess
from autoseg.steps.preprocess import (
    foreground_points,
    inputs,
    key,
    prepare,
    prepare_image,
    prepare_label,
    require_sizes,
    restore,
)

QUESTION = Question(
    reader="nifti", channels=(Channel(name="MRI", kind="mr"),), labels={"background": 0, "a": 1, "b": 2}
)


def configuration(dims: int = 3, spacing=(1.0, 1.0, 1.0), axes=(0, 1, 2), resample: str = "spline") -> Configuration:
    ones = ((1,) * dims,)
    network = Network.plain((4,), ones)
    train = Train(
        loss="dice+ce", augment=(), steps=1, optimiser=Part(name="sgd"), schedule=Part(name="poly"), foreground=0.3
    )
    return Configuration(
        spacing=tuple(spacing)[-dims:], axes=axes, patch=(8,) * dims, batch=2, normalise=(Part(name="zscore"),),
        resample=Part(name=resample), network=network, train=train, memory=Memory(bytes=1, method="none"),
    )  # fmt: skip


def arrays(case: Case, settings: Configuration, asked: Question) -> tuple[np.ndarray, np.ndarray]:
    """The prepared image and the label of the only rater."""
    image, labels, _ = prepare(case, settings, asked)
    return image, labels[0]


def blobs(shape=(20, 24, 28)) -> tuple[np.ndarray, np.ndarray]:
    """An image with an empty border, and a label of two big blobs."""
    label = np.zeros(shape, np.uint8)
    label[6:14, 6:12, 6:20] = 1
    label[6:14, 12:18, 6:20] = 2
    image = np.zeros(shape, np.float32)
    image[3:-3, 3:-3, 3:-3] = 100 + np.random.default_rng(0).normal(0, 1, [n - 6 for n in shape])
    return image + 10.0 * label, label


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1), (1, 0, 2)])
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 2.0, 0.5)])
def test_a_label_goes_there_and_back(axes, dims, spacing) -> None:
    image, label = blobs()
    case = Image(image[None], spacing)
    settings = configuration(dims, axes=axes)
    array, geometry = prepare_image(case, settings, QUESTION)
    there = prepare_label(label, case, geometry, array.shape[1:], QUESTION)
    assert there.shape == array.shape[1:]
    from autoseg.arrays.resample import resample_label

    back = restore(resample_label(there, geometry.cropped, 3, coarse=geometry.coarse), geometry)
    assert back.shape == label.shape
    assert (back == label).mean() > (0.9999 if spacing == (1.0, 1.0, 1.0) else 0.97)


def test_regions_are_prepared_by_their_plain_values() -> None:
    image, label = blobs()
    regions = Question(**(dict(QUESTION) | {"regions": {"both": (1, 2), "b": (2,)}, "written": (1, 2)}))
    case = Case("x", Image(image[None], (2.0, 1.0, 1.0)), label)
    for plain, other in zip(*(arrays(case, configuration(), asked) for asked in (QUESTION, regions)), strict=True):
        assert np.array_equal(plain, other)
    points = prepare(case, configuration(), regions)[2]
    assert set(points) == {1, 2}


def test_a_sparsely_annotated_case_has_points_in_its_background() -> None:
    image, label = blobs()
    few = np.full(label.shape, 255, np.uint8)
    few[8:10] = label[8:10]
    asked = Question(**(dict(QUESTION) | {"ignore": 255}))
    case = Image(image[None], (1.0, 1.0, 1.0))
    _, labels, points = prepare(Case("x", case, few), configuration(), asked)
    stored = labels[0]
    assert set(points) == {0, 1, 2} and set(prepare(Case("x", case, label), configuration(), asked)[2]) == {1, 2}
    assert all((stored[tuple(at.T)] == index).all() for index, at in points.items())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_spacing_that_makes_absurd_images_is_refused(dims: int) -> None:
    facts = [CaseFacts(sha256="", cropped=(30, 40, 50), spacing=(1.0, 1.0, 1.0))]
    require_sizes("3d", configuration(dims, (2.0, 0.5, 0.5)), facts)
    for edge in (1e-6, 1000.0):
        with pytest.raises(BadPlan, match=r"configurations.3d.spacing: .* makes a case of (30×)?40×50 voxels one of"):
            require_sizes("3d", configuration(dims, (edge, edge, edge)), facts)


def test_in_2d_slices_are_never_resampled() -> None:
    image, _ = blobs()
    array, _ = prepare_image(Image(image[None], (5.0, 2.0, 2.0)), configuration(2), QUESTION)
    assert array.shape == (1, 14, 36, 44)  # cropped to 14×18×22, then doubled within the slice


def test_the_image_is_cropped_and_normalised() -> None:
    image, _ = blobs()
    array, geometry = prepare_image(Image(image[None], (1.0, 1.0, 1.0)), configuration(), QUESTION)
    assert array.shape == (1, 14, 18, 22) and array.dtype == np.float32
    assert abs(float(array.mean())) < 1e-4 and float(array.std()) == pytest.approx(1, abs=1e-3)
    assert geometry.box == (slice(3, 17), slice(3, 21), slice(3, 25))


def test_pictures_are_neither_cropped_nor_resampled() -> None:
    picture = np.zeros((1, 9, 7), np.uint8)
    picture[0, 4, 4] = 9
    array, geometry = prepare_image(Image(picture, (1.0, 1.0)), configuration(2, resample="keep"), QUESTION)
    assert array.shape == (1, 1, 9, 7)
    assert restore(np.ones((1, 9, 7), np.uint8), geometry).shape == (9, 7)


def test_what_is_not_valid_is_zero_and_ignored() -> None:
    image, label = blobs()
    image[8:10, 8:10, 8:10] = np.nan
    case = Case("x", Image(image[None], (1.0, 1.0, 1.0), np.isfinite(image)), label)
    array, indices = arrays(case, configuration(), QUESTION)
    assert np.isfinite(array).all()
    assert (indices == IGNORE).sum() == 8 and (array[0][indices == IGNORE] == 0).all()


@pytest.mark.parametrize("spacing", [(1.0, 1.0, 1.0), (1.0, 3.0, 0.7)])
def test_a_channel_may_become_several_that_stay_within_their_bounds(spacing) -> None:
    rng = np.random.default_rng(0)
    heights, classes, aspect = (
        rng.normal(9, 2, (6, 8, 9)),
        rng.choice([10, 20, 30], (6, 8, 9)),
        360 * rng.random((6, 8, 9)),
    )
    valid = np.ones((6, 8, 9), bool)
    valid[0, :4] = False
    settings = amend(
        configuration(),
        {
            "normalise": [
                {"name": "onehot", "options": {"values": [10, 20, 30]}},
                {"name": "zscore"},
                {"name": "angle", "options": {"period": 360.0}},
            ]
        },
    )
    image = Image(np.stack([classes, heights, aspect]).astype(np.float32), spacing, valid)
    asked = QUESTION.model_copy(update={"channels": QUESTION.channels * 3})
    array, _ = prepare_image(image, settings, asked)
    shares, height, direction = array[:3], array[3], array[4:]
    assert len(array) == inputs(settings.normalise, asked) == 6
    assert shares.min() >= 0 and shares.sum(0).max() <= 1 + 1e-6 and (direction**2).sum(0).max() <= 1 + 1e-5
    alone, _ = prepare_image(Image(heights[None].astype(np.float32), spacing, valid), configuration(), QUESTION)
    assert np.array_equal(height, alone[0])
    if spacing == (1.0, 1.0, 1.0):
        assert np.array_equal(shares.sum(0), valid) and not array[:, ~valid].any()
        assert np.array_equal(shares[1] == 1, valid & (classes == 20))


@pytest.mark.parametrize("scale", [1e-4, 1.0, 1e6])
def test_the_scale_of_intensities_does_not_matter(scale: float) -> None:
    image, _ = blobs()
    array, _ = prepare_image(Image((image * scale)[None], (1.0, 1.0, 1.0)), configuration(), QUESTION)
    plain, _ = prepare_image(Image(image[None], (1.0, 1.0, 1.0)), configuration(), QUESTION)
    assert np.allclose(array, plain, atol=1e-3)


def test_points_lie_in_their_class_and_are_capped() -> None:
    _, label = blobs((60, 60, 60))
    points = foreground_points(label, range(1, 3))
    assert set(points) == {1, 2}
    for index, at in points.items():
        assert (label[tuple(at.T)] == index).all() and len(at) == min(10_000, (label == index).sum())


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 0, 1)])
@pytest.mark.parametrize("distance", [1.0, 7.5])
def test_one_distance_between_slices_makes_2d_and_3d_the_same_arrays(axes, distance) -> None:
    image, label = blobs()
    spacing = tuple(distance if axis == axes[0] else 1.3 for axis in range(3))
    case = Case("x", Image(image[None], spacing), label)
    flat, solid = configuration(2, axes=axes), configuration(3, (distance, 1.0, 1.0), axes)
    for one, other in zip(arrays(case, flat, QUESTION), arrays(case, solid, QUESTION), strict=True):
        assert np.array_equal(one, other)
    facts = CaseFacts(sha256="", spacing=spacing)
    assert key(flat, QUESTION, [facts] * 3) == key(solid, QUESTION, [facts] * 3) == key(solid, QUESTION)
    wider = facts.model_copy(update={"spacing": tuple(2 * s for s in spacing)})
    assert key(flat, QUESTION, [facts, wider]) == key(flat, QUESTION) != key(solid, QUESTION)


def test_the_key_follows_what_changes_the_arrays_and_nothing_else() -> None:
    settings = configuration()
    first = key(settings, QUESTION)
    assert first == key(amend(settings, {"train.steps": 9, "batch": 7}), QUESTION)
    assert first != key(amend(settings, {"spacing": [2.0, 1.0, 1.0]}), QUESTION)
    assert first != key(amend(settings, {"normalise.0.options": {"masked": True}}), QUESTION)
    *kept, last = QUESTION.labels
    fewer = QUESTION.model_copy(update={"labels": {name: QUESTION.labels[name] for name in kept}})
    assert first != key(settings, fewer) != key(settings, fewer.model_copy(update={"ignore": QUESTION.labels[last]}))
    assert first == key(settings, QUESTION.model_copy(update={"channels": ()}))


def test_2d_has_arrays_of_its_own_where_3d_would_not_interpolate_within_its_slices() -> None:
    facts = [CaseFacts(sha256="", spacing=(1.0, 4.0, 1.0))]
    flat, solid = configuration(2), configuration(3, (1.0, 1.0, 1.0))
    assert key(flat, QUESTION, facts) != key(solid, QUESTION, facts)


@pytest.mark.parametrize(
    "part",
    [
        Part(name="zscore"), Part(name="zscore", options={"masked": True, "clip": 2.0}), Part(name="range"),
        Part(name="ct", options={"lower": -1.0, "upper": 1.0, "mean": 0.1, "sd": 2.0}), Part(name="angle"),
        Part(name="onehot", options={"values": [0, 1]}),
    ],
    ids=lambda part: f"{part.name}{len(part.options)}",
)  # fmt: skip
def test_a_large_channel_is_normalised_in_parts_as_it_is_whole(part, monkeypatch) -> None:
    rng = np.random.default_rng(0)
    channel = rng.integers(0, 3, (9, 6, 5)).astype(np.float32) * 0.7
    inside = rng.random(channel.shape) > 0.2
    normaliser = NORMALISERS.build(part, intensity=None)
    whole = preprocess.normalised(normaliser, channel, inside)
    monkeypatch.setattr(preprocess, "PART", 70)
    calls = []
    monkeypatch.setattr(type(normaliser), "__call__", lambda *words: calls.append(1)) if part.name == "zscore" else None
    parts = preprocess.normalised(normaliser, channel, inside)
    assert np.allclose(parts, whole, atol=1e-6) and not calls and parts.dtype == np.float32
