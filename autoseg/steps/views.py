"""What is predicted of an image, and how: the image as networks see it, at every scale."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from autoseg.arrays.boxes import Box
from autoseg.image import Array, Image, Mask
from autoseg.records import Configuration, Part, Question
from autoseg.steps import earlier, preprocess
from autoseg.steps.device import Precision
from autoseg.steps.pieces import Source
from autoseg.steps.preprocess import Geometry
from autoseg.steps.sweep import ArraySource
from autoseg.steps.tiling import Flips, mirror_axes, output_orders

ROOM = 8 * 1024**3  # bytes for a front where no ceiling is given


@dataclass(frozen=True)
class How:
    """What a prediction trades accuracy, time and memory by.

    Attributes:
        step: distance of neighbouring tiles as a share of the patch, in (0, 1].
        mirror: average over the flips that the networks were trained with.
        scales: the image is also looked at so many times larger; the probabilities are averaged.
        room: bytes that the open front and what is restored of it may take.
        at_once: tiles and flips that go through a network together.
        probabilities, disagreement: whether the pieces have them.
        views: how many views of an image are open together.
        log_odds: over the background, from which each class above it is written; () for 0.
    """

    step: float = 0.5
    mirror: bool = True
    scales: tuple[float, ...] = (1.0,)
    room: int = ROOM
    at_once: int = 1
    probabilities: bool = False
    disagreement: bool = False
    views: int = 1
    log_odds: tuple[float, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """An image as a member sees it, and the way back to the image's grid.

    `valid` is where a box of the image's grid has measurements, None: everywhere.
    """

    source: Source
    geometry: Geometry
    valid: Callable[[Box], Mask | None] = lambda box: None


@dataclass(frozen=True)
class View:
    """A prepared image and the networks of one configuration that answer it, averaged."""

    prepared: Prepared
    networks: Sequence[nn.Module]
    configuration: Configuration
    device: torch.device
    precision: Precision
    channels: int = 0  # of the image; further ones are those of an earlier stage
    flips: Flips = field(default_factory=Flips)


def views(
    image: Image,
    members: Sequence[tuple[Sequence[nn.Module], Configuration, Precision]],
    question: Question,
    device: torch.device,
    how: How,
    before: Mapping[int, Array | None],
) -> list[View]:
    """The image prepared for every member (by number: with the label of an earlier stage) at every scale."""
    found = []
    for number, (networks, configuration, precision) in enumerate(members):
        for scale in how.scales:
            scaled = at_scale(configuration, scale, image)
            prepared = prepare(image, scaled, question, before.get(number))
            found.append(view(prepared, networks, scaled, question, device, precision, how))
    return found


def prepare(image: Image, configuration: Configuration, question: Question, before: Array | None = None) -> Prepared:
    """A whole image in memory, with the channels of an earlier stage's label where there is one."""
    array, geometry = preprocess.prepare_image(image, configuration, question)
    if before is not None:
        array = earlier.add_channels(array, before, image, geometry, question)
    valid = image.valid
    return Prepared(ArraySource(array), geometry, lambda box: None if valid is None else valid[box])


def view(
    prepared: Prepared, networks: Sequence[nn.Module], configuration: Configuration, question: Question,
    device: torch.device, precision: Precision, how: How,
) -> View:  # fmt: skip
    """The prepared image with the networks that answer it, and how they see it mirrored."""
    flips = Flips()
    if how.mirror:
        orders, channels = output_orders(configuration, question), prepared.source.channels
        own = preprocess.channels(configuration.normalise)
        inputs = {axis: earlier.input_order(order, own, question) for axis, order in orders.items() if channels > own}
        flips = Flips(mirror_axes(configuration), orders, inputs)
    for network in networks:
        network.eval()
    return View(prepared, networks, configuration, device, precision, flips=flips)


def at_scale(configuration: Configuration, scale: float, image: Image) -> Configuration:
    """The configuration to see the image so many times larger."""
    if scale == 1:
        return configuration
    kept = configuration.resample.name == "keep"
    spacing, flat = configuration.spacing, len(image.spacing) == 2
    if kept:
        own = (1.0, *image.spacing) if flat else image.spacing
        spacing = tuple(own[axis] for axis in configuration.axes[-configuration.dims :])
    resample = Part(name="spline") if kept else configuration.resample
    return configuration.model_copy(update={"spacing": tuple(s / scale for s in spacing), "resample": resample})
