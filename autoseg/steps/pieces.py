"""What passes between the stages of a prediction: arrays that are read in parts, and parts that are predicted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.boxes import Box
from autoseg.image import Mask

if TYPE_CHECKING:
    from torch import Tensor


class Source(Protocol):
    """An image as the network sees it, read in parts.

    `shape` is (z, y, x) in the plan's axes and spacing, z = 1 for rasters; `channels` is what the network is given.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    @property
    def channels(self) -> int: ...

    def read(self, box: Box) -> NDArray[np.float32]:
        """(C, *box) of a box inside `shape`. Boxes are asked for in rows along one axis, each row once or twice."""
        ...

    def valid(self, box: Box) -> bool:
        """Whether any voxel of the box is a measurement."""
        ...


@dataclass(frozen=True, eq=False)
class Piece:
    """A box of an image that is predicted to the end; the pieces of an image cover it once.

    Attributes:
        box: in the image's own grid: (z, y, x) of a volume, (y, x) of a raster.
        indices: uint8 (*box), class indices.
        valid: bool (*box), False where the image has no measurement; None where it has one everywhere.
        probabilities: float32 (K, *box), one per output of the question; None where nobody asked for them.
        disagreement: float32 (*box), the networks' mutual information in nats (0 where they agree); as `probabilities`.
    """

    box: Box
    indices: NDArray[np.uint8]
    valid: Mask | None = None
    probabilities: Tensor | None = None
    disagreement: Tensor | None = None
