"""Augmentation: what is done is drawn per sample as plain values, then applied to the whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Drawn = dict[str, Any]  # plain numbers and lists, so that it can be printed, stored and replayed
Pair = tuple[int, int]


class Spatial(Protocol):
    """Moves voxels. The matrices of all spatial parts of a plan are multiplied and applied once.

    A part may have two methods more: `field` (see `Bending`) and `exchanged` (see `Exchanging`).
    """

    def matrix(self, rng: np.random.Generator, patch: Sequence[int]) -> np.ndarray[Any, Any]:
        """(dims, dims), maps offsets from the patch's centre, in voxels, to offsets in the source."""
        ...


@runtime_checkable
class Bending(Spatial, Protocol):
    """A spatial part that also moves voxels by a smooth field of its own, within the patch, before the matrices."""

    def field(self, rng: np.random.Generator, patch: Sequence[int]) -> Drawn | None:
        """What `elastic.displacement` needs; None for nothing. Drawn right after the part's matrix."""
        ...


@runtime_checkable
class Exchanging(Spatial, Protocol):
    """A spatial part whose matrix may turn classes into each other, as a mirrored left hand is a right one."""

    def exchanged(self, matrix: np.ndarray[Any, Any]) -> Sequence[Pair]:
        """The pairs of class indices that the part's own matrix exchanges."""
        ...


class Intensity(Protocol):
    """Changes values. Samples for which nothing was drawn are left bit for bit."""

    def draw(self, rng: np.random.Generator, channels: int) -> Drawn | None:
        """What is done to one sample; None for nothing."""
        ...

    def act(self, images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """(n, C, *S) -> same, for the n samples for which something was drawn."""
        ...


class Distorting(Protocol):
    """Puts mistakes into the label that an earlier stage gave; patches without one are left alone."""

    def draw(self, rng: np.random.Generator, classes: Sequence[int]) -> Drawn | None:
        """What is done to one sample, of which these are the indices of the foreground classes; None for nothing."""
        ...

    def distort(self, label: NDArray[np.uint8], drawn: Drawn) -> NDArray[np.uint8]:
        """(*S) class indices, 255 where there is none -> same, without a class that there was not."""
        ...


def probable(probability: float) -> float:
    """Raises: ValueError unless it is within 0..1."""
    if not 0 <= probability <= 1:
        raise ValueError(f"probability is {probability}, not within 0..1")
    return probability


def between(name: str, ends: Sequence[float], low: float, high: float) -> tuple[float, float]:
    """The two ends of a range. Raises: ValueError unless they ascend within low..high."""
    if len(ends) != 2 or not low <= ends[0] <= ends[1] <= high:
        raise ValueError(f"{name} is {list(ends)}, not two ascending numbers within {low}..{high}")
    return ends[0], ends[1]
