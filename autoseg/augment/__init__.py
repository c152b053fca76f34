"""Augmentation: what is done is drawn per sample as plain values, then applied to the whole batch at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from torch import Tensor

Drawn = dict[str, Any]  # plain numbers and lists, so that it can be printed, stored and replayed


class Spatial(Protocol):
    """Moves voxels. The matrices of all spatial parts of a plan are multiplied and applied once."""

    def matrix(self, rng: np.random.Generator, patch: Sequence[int]) -> np.ndarray[Any, Any]:
        """(dims, dims), maps offsets from the patch's centre, in voxels, to offsets in the source."""
        ...


class Intensity(Protocol):
    """Changes values. Samples for which nothing was drawn are left bit for bit."""

    def draw(self, rng: np.random.Generator, channels: int) -> Drawn | None:
        """What is done to one sample; None for nothing."""
        ...

    def act(self, images: Tensor, drawn: Sequence[Drawn]) -> Tensor:
        """(n, C, *S) -> same, for the n samples for which something was drawn."""
        ...
