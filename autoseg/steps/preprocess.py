"""Crop, turn, normalise, resample; and the way back for predictions."""

from __future__ import annotations

import hashlib
import json
import operator
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial, reduce
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.boxes import Box, crop, nonzero_box, uncrop
from autoseg.arrays.resample import coarse_axis, resample_label
from autoseg.errors import BadPlan
from autoseg.image import IGNORE, Case, Image, Mask, as_volume, volume_spacing
from autoseg.parts import NORMALISERS, RESAMPLERS
from autoseg.records import CaseFacts, Configuration, Part, Question
from autoseg.steps import cases

LARGEST = 1e10  # voxels of one resampled channel
PART = 32_000_000  # voxels that are normalised at once
POINTS = 10_000  # foreground voxels kept per class and case
SPARSE = 0.5  # share of labelled voxels, below which a case counts as sparsely annotated
ANISOTROPY = 3.0  # from this ratio of spacings on, the coarse axis is resampled by nearest neighbour


@dataclass(frozen=True)
class Geometry:
    """How a preprocessed array lies in its image: enough to bring a prediction back.

    Attributes:
        shape: (z, y, x) of the image; box: the crop in it; cropped: the crop's shape in the plan's axes;
        axes: the plan's order of axes; coarse: the axis, in that order, that is never interpolated.
    """

    shape: tuple[int, ...]
    box: Box
    axes: tuple[int, int, int]
    cropped: tuple[int, int, int]
    coarse: int | None
    dims: int


def key(configuration: Configuration, question: Question, facts: Iterable[CaseFacts] = ()) -> str:
    """Names a way of preprocessing: configurations with the same key share their arrays.

    Slices are never resampled across: `2d` has the arrays of `3d` where all cases have one distance between slices, and
    no other axis so coarse that `3d` does not interpolate along it.
    """
    said = configuration.model_dump(mode="json", include={"spacing", "axes", "normalise", "resample"})
    said["read"] = question.model_dump(mode="json", include={"reader", "colours", "ignore"})
    said["values"] = sorted(cases.index_of(question).items())
    if question.raters:
        said["raters"] = list(question.raters)
    dims, grids = configuration.dims, [[fact.spacing[axis] for axis in configuration.axes] for fact in facts]
    distances = {round(grid[0], 6) for grid in grids}
    if dims == 2 and len(distances) == 1:
        solid = [*distances, *configuration.spacing]
        if all(coarse_axis(grid, solid, ANISOTROPY) in (None, 0) for grid in grids):
            said["spacing"], dims = solid, 3
    return hashlib.sha256(json.dumps([said, dims, POINTS, SPARSE]).encode()).hexdigest()[:12]


def require_sizes(title: str, configuration: Configuration, facts: Iterable[CaseFacts]) -> None:
    """Raises: BadPlan where a spacing makes images of absurd sizes of the cases."""
    keep, axes = configuration.resample.name == "keep", configuration.axes[-configuration.dims :]
    for fact in facts if not keep else ():
        had = [fact.cropped[axis] for axis in axes]
        made = [n * fact.spacing[axis] / s for n, axis, s in zip(had, axes, configuration.spacing, strict=True)]
        if prod(made) > LARGEST or any(n < 1 <= old / 4 for n, old in zip(made, had, strict=True)):
            sizes = ["×".join(f"{n:.3g}" for n in size) for size in (had, made)]
            raise BadPlan(
                f"spacing {configuration.spacing} makes a case of {sizes[0]} voxels one of {sizes[1]}",
                where=f"configurations.{title}.spacing", expected=f"at least one voxel and at most {LARGEST:.0e}",
            )  # fmt: skip


def channels(normalise: Sequence[Part]) -> int:
    """Channels that the normalisers make of an image's."""
    return sum(getattr(NORMALISERS.build(part, intensity=None), "outputs", 1) for part in normalise)


def inputs(normalise: Sequence[Part], question: Question, previous: str | None = None) -> int:
    """Channels that the network is given: the normalised ones, and the outputs of an earlier stage."""
    return channels(normalise) + (len(question.foreground) if previous else 0)


def prepare_image(
    image: Image, configuration: Configuration, question: Question
) -> tuple[NDArray[np.float32], Geometry]:
    """The image as the network sees it: (C, *shape in the plan's axes and spacing), and the way back."""
    geometry = geometry_of(image, configuration, question)
    box, axes = geometry.box, configuration.axes
    order = (0, *(axis + 1 for axis in axes))
    channels = np.ascontiguousarray(crop(as_volume(image.array), box).transpose(order))
    valid = None if image.valid is None else as_volume(image.valid[None])[0]
    inside = np.ones(channels.shape[1:], bool) if valid is None else crop(valid, box).transpose(axes)
    spacing = [volume_spacing(image.spacing)[axis] for axis in axes]
    shape = target_shape(geometry.cropped, spacing, configuration)
    blocks = []
    for channel, part in zip(channels, configuration.normalise, strict=True):
        normaliser = NORMALISERS.build(part, intensity=None)
        made = normalised(normaliser, channel, inside)
        if made.shape[1:] != shape:
            resample = RESAMPLERS.build(getattr(normaliser, "resample", configuration.resample))
            made = resample(made, shape, coarse=geometry.coarse)
        blocks.append(made)
    return blocks[0] if len(blocks) == 1 else np.concatenate(blocks), geometry


def normalised(normaliser: Any, channel: NDArray[np.generic], inside: Mask) -> NDArray[np.float32]:
    """(K, z, y, x) of a channel (z, y, x); of a large one in parts along z, where the normaliser can do that, so that
    no more than the result is held beside the image."""
    each = max(1, PART // prod(channel.shape[1:]))
    if len(channel) <= each or not (hasattr(normaliser, "moments") or getattr(normaliser, "local", False)):
        made: NDArray[np.float32] = normaliser(np.where(inside, channel, 0).astype(np.float32), inside)
        return made if made.ndim == 4 else made[None]
    parts = [slice(first, first + each) for first in range(0, len(channel), each)]
    given = ((np.where(inside[part], channel[part], 0).astype(np.float32), inside[part]) for part in parts)
    act = normaliser
    if not getattr(normaliser, "local", False):
        act = partial(normaliser.by, reduce(operator.add, (normaliser.moments(*one) for one in given)))
        given = ((np.where(inside[part], channel[part], 0).astype(np.float32), inside[part]) for part in parts)
    result = np.empty((getattr(normaliser, "outputs", 1), *channel.shape), np.float32)
    for part, one in zip(parts, given, strict=True):
        result[:, part] = act(*one)
    return result


def geometry_of(image: Image, configuration: Configuration, question: Question) -> Geometry:
    """How the prepared image lies in the image."""
    array = as_volume(image.array)
    valid = None if image.valid is None else as_volume(image.valid[None])[0]
    box = box_of(array, valid, question, flat=len(image.spacing) == 2)
    z, y, x = (box[axis].stop - box[axis].start for axis in configuration.axes)
    spacing = [volume_spacing(image.spacing)[axis] for axis in configuration.axes]
    return Geometry(
        shape=tuple(array.shape[1:]), box=box, axes=configuration.axes, cropped=(z, y, x),
        coarse=_coarse(spacing, configuration), dims=len(image.spacing),
    )  # fmt: skip


def prepare_label(
    label: NDArray[np.generic], image: Image, geometry: Geometry, shape: tuple[int, ...], question: Question
) -> NDArray[np.uint8]:
    """Class indices of the label on the grid of the prepared image."""
    indices = as_volume(cases.to_indices(label, question, image.valid)[None])[0]
    turned = np.ascontiguousarray(crop(indices, geometry.box).transpose(geometry.axes))
    z, y, x = shape
    return resample_label(turned, (z, y, x), len(question.classes), coarse=geometry.coarse)


def prepare(
    case: Case, configuration: Configuration, question: Question
) -> tuple[NDArray[np.float32], dict[int, NDArray[np.uint8]], dict[int, NDArray[np.int32]]]:
    """Image, labels by rater and foreground points (of the first of them) of a labelled case, ready to be stored."""
    assert case.label is not None
    image, geometry = prepare_image(case.image, configuration, question)
    drawn = {case.rater: case.label, **case.others}
    labels = {
        rater: prepare_label(label, case.image, geometry, image.shape[1:], question) for rater, label in drawn.items()
    }
    label = labels[case.rater]
    sparse = (label != IGNORE).mean() < SPARSE  # there patches are drawn around what is labelled, background too
    points = foreground_points(label, range(0 if sparse else question.background, len(question.classes)))
    return image, labels, points


def foreground_points(label: NDArray[np.uint8], classes: Iterable[int]) -> dict[int, NDArray[np.int32]]:
    """Up to POINTS voxels (n, 3) of every one of the classes that occurs, drawn with a fixed seed."""
    rng = np.random.default_rng(0)
    points = {}
    for index in classes:
        at = np.flatnonzero(label == index)
        if len(at):
            chosen = at if len(at) <= POINTS else np.sort(rng.choice(at, POINTS, replace=False))
            points[index] = np.stack(np.unravel_index(chosen, label.shape), 1).astype(np.int32)
    return points


def restore(indices: NDArray[np.uint8], geometry: Geometry) -> NDArray[np.uint8]:
    """Class indices on the cropped grid (in the plan's axes) as a label on the image's grid, class 0 outside."""
    back = np.argsort(geometry.axes)
    full = uncrop(indices.transpose(back), geometry.box, geometry.shape, 0)
    return full if geometry.dims == 3 else full[0]


def box_of(array: NDArray[np.generic], valid: NDArray[np.bool_] | None, question: Question, *, flat: bool) -> Box:
    """Volumes (C, z, y, x) of tasks with a background lose their empty borders; pictures and rasters stay whole."""
    if question.background and not flat:
        return nonzero_box(array, valid)
    return tuple(slice(0, n) for n in array.shape[1:])


def _coarse(spacing: list[float], configuration: Configuration) -> int | None:
    return 0 if configuration.dims == 2 else coarse_axis(spacing, configuration.spacing, ANISOTROPY)


def target_shape(
    shape: tuple[int, int, int], spacing: list[float], configuration: Configuration
) -> tuple[int, int, int]:
    if configuration.resample.name == "keep":
        return shape
    wanted = (spacing[0], *configuration.spacing) if configuration.dims == 2 else configuration.spacing
    z, y, x = (max(1, round(n * have / want)) for n, have, want in zip(shape, spacing, wanted, strict=True))
    return z, y, x
