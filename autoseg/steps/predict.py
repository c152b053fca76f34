"""Sliding-window prediction: Gaussian weights, mirroring, several networks averaged."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from types import MappingProxyType

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from autoseg.arrays.boxes import pad_to
from autoseg.arrays.resample import resample_logits, resample_regions
from autoseg.augment.spatial import Mirror
from autoseg.errors import BadPlan
from autoseg.image import Array, Image
from autoseg.parts import AUGMENTATIONS
from autoseg.records import Configuration, Question
from autoseg.steps import cases, earlier, preprocess
from autoseg.steps.device import Precision, autocast

Start = tuple[int, int, int]
Orders = Mapping[int, Sequence[int]]  # mirrored axis -> which output takes the place of each
NO_ORDERS: Orders = MappingProxyType({})


def predict(
    image: Image,
    networks: Sequence[nn.Module],
    configuration: Configuration,
    question: Question,
    device: torch.device,
    precision: Precision,
    *,
    step: float = 0.5,
    mirror: bool = True,
    before: Array | None = None,
) -> Array:
    """The label of an image, on its grid, in the task's values; so is `before`, the label of an earlier stage."""
    array, geometry = preprocess.prepare_image(image, configuration, question)
    axes = mirror_axes(configuration) if mirror else ()
    orders, inputs = output_orders(configuration, question) if mirror else NO_ORDERS, NO_ORDERS
    if before is not None:
        inputs = {axis: earlier.input_order(order, len(array), question) for axis, order in orders.items()}
        array = earlier.add_channels(array, before, image, geometry, question)
    logits = predict_logits(
        array, networks, configuration, len(question.outputs), device, precision, step, axes, orders, inputs
    )
    if question.regions:
        written = [cases.index_of(question)[value] for value in question.written]
        indices = resample_regions(logits, written, geometry.cropped, coarse=geometry.coarse)
    else:
        indices = resample_logits(logits, geometry.cropped, coarse=geometry.coarse)
    return cases.to_values(preprocess.restore(indices, geometry), question)


def mirror_axes(configuration: Configuration) -> tuple[int, ...]:
    """The axes the networks were trained to see mirrored: those of the plan's mirror augmentation."""
    mirror = _mirror(configuration)
    return () if mirror is None else mirror.axes


def output_orders(configuration: Configuration, question: Question) -> Orders:
    """How the outputs change places when an axis is mirrored: those of the classes, or regions, that are exchanged.

    Raises: BadPlan when the mirror augmentation exchanges classes that the task does not have, or half of a region.
    """
    mirror = _mirror(configuration)
    if mirror is None or mirror.swap_axis is None:
        return NO_ORDERS
    index = cases.index_of(question)
    groups = [frozenset([number]) for number in range(len(question.classes))]
    known = frozenset().union(*groups)
    if question.regions:
        groups = [frozenset(index[value] for value in values) for values in question.regions.values()]
    other = {one: two for pair in mirror.swap for one, two in (pair, pair[::-1])}
    turned = [frozenset(other.get(number, number) for number in group) for group in groups]
    if not (known.issuperset(other) and set(turned) == set(groups)):
        raise BadPlan(
            f"mirror exchanges {[list(pair) for pair in mirror.swap]}", where="train.augment",
            expected=f"indices below {len(question.classes)} that turn each of {', '.join(question.outputs)} into one",
        )  # fmt: skip
    return {mirror.swap_axis: [n if to == groups[n] else groups.index(to) for n, to in enumerate(turned)]}


def _mirror(configuration: Configuration) -> Mirror | None:
    part = next((part for part in configuration.train.augment if part.name == "mirror"), None)
    return None if part is None else AUGMENTATIONS.build(part, dims=configuration.dims)


def predict_logits(
    array: NDArray[np.float32],
    networks: Sequence[nn.Module],
    configuration: Configuration,
    classes: int,
    device: torch.device,
    precision: Precision,
    step: float,
    axes: Sequence[int],
    orders: Orders = NO_ORDERS,
    inputs: Orders = NO_ORDERS,
) -> Tensor:
    """Mean logits (K, z, y, x) of the networks over all tiles and mirrorings, float32 on the CPU.

    Args:
        array: (C, z, y, x), preprocessed.
        step: distance of neighbouring tiles as a share of the patch, in (0, 1].
        axes: patch axes along which every combination of flips is averaged.
        orders: see `output_orders`; inputs: the same of the channels of `array`.
    """
    patch = (1,) * (3 - configuration.dims) + configuration.patch
    padded, inside = pad_to(array, patch, 0)
    volume = torch.from_numpy(np.ascontiguousarray(padded))
    total = torch.zeros((classes, *padded.shape[1:]))
    weight = torch.zeros(padded.shape[1:])
    bell = gaussian(patch)
    starts = tiles(padded.shape[1:], patch, step)
    for network in networks:
        network.eval()
    for group in _chunks(starts, configuration.batch):
        boxes = [tuple(slice(s, s + p) for s, p in zip(start, patch, strict=True)) for start in group]
        batch = torch.stack([volume[:, z, y, x] for z, y, x in boxes]).to(device)
        batch = batch.reshape(len(group), -1, *configuration.patch)
        with torch.inference_mode(), autocast(device, precision):
            answer = mean_logits(networks, batch, axes, orders, inputs).float().cpu()
        answer = answer.reshape(len(group), classes, *patch) * bell
        for tile, (z, y, x) in zip(answer, boxes, strict=True):
            total[:, z, y, x] += tile
            weight[z, y, x] += bell
    z, y, x = inside
    return (total / weight)[:, z, y, x]


def mean_logits(
    networks: Sequence[nn.Module],
    batch: Tensor,
    axes: Sequence[int],
    orders: Orders = NO_ORDERS,
    inputs: Orders = NO_ORDERS,
) -> Tensor:
    """(B, K, *patch), averaged over the networks and over every combination of flips along `axes`."""
    flips = [chosen for n in range(len(axes) + 1) for chosen in itertools.combinations(axes, n)]
    total: Tensor | None = None
    for flip in flips:
        edges = [axis + 2 for axis in flip]
        turned = batch.flip(edges)
        for axis in inputs.keys() & set(flip):
            turned = turned[:, inputs[axis]]
        for network in networks:
            logits = network(turned)[0].float().flip(edges)
            for axis in orders.keys() & set(flip):
                logits = logits[:, orders[axis]]
            total = logits if total is None else total + logits
    assert total is not None
    return total / (len(flips) * len(networks))


def gaussian(patch: Sequence[int]) -> Tensor:
    """Weights (*patch) of a tile: a Gaussian of sigma patch / 8 per axis, 1 at the centre, never below 1e-4."""
    bell = torch.ones(())
    for size in patch:
        offsets = (torch.arange(size) - (size - 1) / 2) / (size / 8)
        bell = bell[..., None] * torch.exp(-0.5 * offsets**2)
    return (bell / bell.max()).clamp(min=1e-4)


def tiles(shape: Sequence[int], patch: Sequence[int], step: float) -> list[Start]:
    """Corners of tiles that cover `shape` (at least `patch`), evenly spread, at most `step` · patch apart."""
    along = []
    for size, edge in zip(shape, patch, strict=True):
        count = ceil((size - edge) / max(1.0, edge * step)) + 1
        along.append([round(i * (size - edge) / max(1, count - 1)) for i in range(count)])
    return [(z, y, x) for z, y, x in itertools.product(*along)]


def _chunks(starts: Sequence[Start], size: int) -> Iterator[Sequence[Start]]:
    for first in range(0, len(starts), size):
        yield starts[first : first + size]
