"""Arrays with their spacing and their place in the world."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Mask = NDArray[np.bool_]
IGNORE = 255  # the class index of voxels that contribute to nothing


@dataclass(frozen=True, eq=False)
class Image:
    """The channels of one case on one grid.

    Attributes:
        array: (C, z, y, x) for volumes, brought to the RAS axes nearest to the file's; (C, y, x) for
            rasters and pictures. The file's own dtype.
        spacing: millimetres (volumes) or metres (rasters) per voxel along each spatial axis of `array`;
            1 where a picture has none.
        valid: bool (*S), False where the file says that there is no measurement (nodata, alpha, NaN or
            inf in any channel); None when every voxel is valid.
        placement: what the reader needs to write a label onto the file's own grid. Opaque to all others,
            except `kind`, which says which reader made it.
    """

    array: Array
    spacing: tuple[float, ...]
    valid: Mask | None = None
    placement: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.array.ndim != len(self.spacing) + 1:
            raise ValueError(f"array {self.array.shape} and spacing {self.spacing} do not fit: want (C, *S)")

    @property
    def shape(self) -> tuple[int, ...]:
        """Size along each spatial axis."""
        return tuple(self.array.shape[1:])

    @property
    def channels(self) -> int:
        """Number of channels C."""
        return int(self.array.shape[0])


@dataclass(frozen=True, eq=False)
class Case:
    """One case in memory: its image and, where it is labelled, its label on the same grid.

    Attributes:
        label: integer (*S), the values of the files (not class indices); None when there is no label.
        rater: whose label it is, a number; others: the labels of further raters, by theirs.
    """

    id: str
    image: Image
    label: Array | None = None
    rater: int = 0
    others: Mapping[int, Array] = field(default_factory=dict)


def as_volume(array: Array) -> Array:
    """(C, y, x) as (C, 1, y, x); (C, z, y, x) as it is."""
    return array[:, None] if array.ndim == 3 else array


def volume_spacing(spacing: tuple[float, ...]) -> tuple[float, float, float]:
    """Spacing of `as_volume`: a flat image gets a slice axis of spacing 1."""
    z, y, x = spacing if len(spacing) == 3 else (1.0, *spacing)
    return z, y, x
