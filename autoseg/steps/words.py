"""What a sample of a batch is, in words: where it was cut and what was done to it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoseg.augment import Drawn
from autoseg.augment.spatial import Matrix
from autoseg.parts import AUGMENTATIONS
from autoseg.records import Configuration
from autoseg.steps.batches import Sample

SHOWN = 4  # numbers of a list that are written out
PLANES = {2: [(0, 1)], 3: [(1, 2), (0, 2), (0, 1)]}  # in the order of `Affine`


@dataclass(frozen=True)
class Move:
    """What a spatial matrix does to an image, in this order: rotates, turns by a quarter, mirrors, scales it.

    `degrees` are clockwise on the screen, one per plane of `PLANES`, the last is rotated in first. `quarter`: the last
    two axes are turned by 90° clockwise. `scales` are those of objects along the patch's axes: below 1 they shrink.
    """

    degrees: tuple[float, ...]
    quarter: bool
    flips: tuple[bool, ...]
    scales: tuple[float, ...]

    @property
    def matrix(self) -> Matrix:
        """(dims, dims), as `Spatial.matrix` gives it."""
        dims = len(self.scales)
        out: Matrix = np.eye(dims)
        for plane, degrees in zip(PLANES[dims], self.degrees, strict=True):
            out = _turn(dims, plane, math.radians(degrees)) @ out
        signs = [-1.0 if flipped else 1.0 for flipped in self.flips]
        return out @ _right_angle(dims, self.quarter) @ np.diag(signs) @ np.diag(1 / np.array(self.scales))


def taken_apart(matrix: Matrix) -> Move | None:
    """The move of a matrix, with the smallest rotation there is; None where it shears or is singular."""
    dims = len(matrix)
    sizes = np.linalg.norm(matrix, axis=0)
    if dims not in PLANES or not sizes.all():
        return None
    pure = matrix / sizes
    quarter, flips = max(
        itertools.product((False, True), itertools.product((False, True), repeat=dims)),
        key=lambda found: round(float(np.sum(pure * _right_angle(dims, found[0]) * np.where(found[1], -1, 1))), 9),
    )
    turned = pure @ (_right_angle(dims, quarter) * np.where(flips, -1, 1)).T
    move = Move(_degrees(turned), quarter, flips, tuple(float(1 / size) for size in sizes))
    return move if np.allclose(move.matrix, matrix, atol=1e-6) else None


def _turn(dims: int, plane: tuple[int, int], angle: float) -> Matrix:
    out: Matrix = np.eye(dims)
    (a, b), (cosine, sine) = plane, (math.cos(angle), math.sin(angle))
    out[[a, b, a, b], [a, b, b, a]] = [cosine, cosine, -sine, sine]
    return out


def _right_angle(dims: int, quarter: bool) -> Matrix:
    return np.round(_turn(dims, (dims - 2, dims - 1), math.pi / 2)) if quarter else np.eye(dims)


def _degrees(rotation: Matrix) -> tuple[float, ...]:
    """The angles whose turns, plane after plane, make up the rotation."""
    if len(rotation) == 2:
        return (math.degrees(math.atan2(rotation[1, 0], rotation[0, 0])),)
    first = math.atan2(rotation[2, 1], rotation[2, 2])
    second = math.atan2(rotation[2, 0], math.hypot(rotation[0, 0], rotation[1, 0]))
    third = math.atan2(rotation[1, 0], rotation[0, 0])
    return tuple(math.degrees(angle) for angle in (first, second, third))


# -- sentences -----------------------------------------------------------------------------------------


def axes_of(configuration: Configuration) -> str:
    """The names of the patch's axes in the image: 'zyx', 'yx', or as the plan turns them."""
    return "".join("zyx"[axis] for axis in configuration.axes)[-configuration.dims :]


def where_cut(sample: Sample, shape: Sequence[int], configuration: Configuration) -> str:
    """'z 3 of 9, y 10 to 42 of 64, x −4 to 28 of 24': half-open, in voxels of the preprocessed case of that shape."""
    level = "zyx"[configuration.axes[0]]
    parts = [] if sample.level is None or shape[0] == 1 else [f"{level} {sample.level} of {shape[0]}"]
    limits = shape[-configuration.dims :]
    for name, start, size, limit in zip(axes_of(configuration), sample.start, configuration.patch, limits, strict=True):
        parts.append(f"{name} {start} to {start + size} of {limit}".replace("-", "−"))
    return ", ".join(parts)


def what_done(sample: Sample, configuration: Configuration) -> str:
    """The moves and changes that were drawn, with their numbers; 'unchanged' for none."""
    said = [] if sample.rater is None else [f"label of rater {sample.rater + 1}"]
    said += _moves(sample.matrix, axes_of(configuration))
    said += [f"bent {_named(field)}" for field in sample.fields]
    said += [f"an object of class {paste.index} pasted, if it fits" for paste in sample.pastes if paste is not None]
    said += [f"classes {one} and {other} exchanged" for one, other in sample.swaps]
    said += _changes(sample.intensities, configuration, "act")
    said += _changes(sample.mistakes, configuration, "distort")
    return " · ".join(said) or "unchanged"


def _moves(matrix: Matrix, names: str) -> Iterator[str]:
    move = taken_apart(matrix)
    if move is None:
        yield f"matrix {_number(np.asarray(matrix).ravel().tolist(), matrix.size)}"
        return
    turns = [
        f"{_number(angle)}° in {names[a]}{names[b]}"
        for angle, (a, b) in zip(move.degrees, PLANES[len(names)], strict=True)
        if abs(angle) > 1e-6
    ]
    if turns:
        yield "rotated " + ", ".join(reversed(turns))
    if move.quarter:
        yield f"turned 90° in {names[-2:]}"
    if flipped := [name for name, flip in zip(names, move.flips, strict=True) if flip]:
        yield "mirrored " + ", ".join(flipped)
    if not np.allclose(move.scales, 1):
        same = np.allclose(move.scales, move.scales[0])
        each = [f"{name} {_number(scale)}" for name, scale in zip(names, move.scales, strict=True)]
        yield "scaled " + (_number(move.scales[0]) if same else ", ".join(each))


def _changes(drawn: Sequence[Drawn | None], configuration: Configuration, method: str) -> Iterator[str]:
    """The parts with that method for which something was drawn; a part that stands twice is told with its options."""
    wanted = configuration.train.augment
    parts = [part for part in wanted if hasattr(AUGMENTATIONS.build(part, dims=configuration.dims), method)]
    names = [part.name for part in parts]
    for part, one in zip(parts, drawn, strict=False):  # nothing is drawn where nothing is augmented
        if one is not None:
            yield f"{part.name if names.count(part.name) == 1 else part.text} {_named(one)}"


def _named(drawn: Drawn) -> str:
    return ", ".join(f"{key} {_number(value)}" for key, value in drawn.items())


def _number(value: Any, most: int = SHOWN) -> str:
    """Three digits; of a list the first few."""
    if isinstance(value, list):
        return " ".join(_number(one) for one in value[:most]) + (" …" if len(value) > most else "")
    return f"{value:.3g}".replace("-", "−") if isinstance(value, float) else str(value)
