"""Whether two images lie at the same place in the world."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from typing import Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from autoseg.image import Image

FATAL, REMARK = 0.5, 0.01  # voxels
Matrix = NDArray[np.float64]


class Misfit(NamedTuple):
    """How two images differ in place; falsy when they do not. `fatal`: they must not be used together."""

    sentence: str = ""
    fatal: bool = False

    def __bool__(self) -> bool:
        return bool(self.sentence)


class Offset(NamedTuple):
    """The largest distance between the same corners of two grids: in voxels, and in mm (rasters: metres)."""

    voxels: float
    length: float


def same_place(image: Image, label: Image) -> Misfit:
    """Nothing when both lie on the same grid, else one sentence on how they differ, and whether it matters.

    Different shapes and coordinate systems are fatal, and so are corners more than half a voxel apart;
    corners more than a hundredth of a voxel apart are a remark. What one side does not know (a PNG label
    has no coordinates) is not compared.
    """
    if image.shape != label.shape:
        return Misfit(f"the image is {_times(image.shape)} voxels, the label {_times(label.shape)}", True)
    if not _same_crs(image.placement, label.placement):
        names = f"{_crs_name(image.placement)}, the label in {_crs_name(label.placement)}"
        return Misfit(f"the image's coordinates are in {names}", True)
    away = offset(image, label)
    if away is None or away.voxels <= REMARK:
        return Misfit()
    unit = "mm" if "ras" in image.placement else "m"
    sentence = f"the label lies {away.length:.3g} {unit} away from the image ({away.voxels:.2g} voxels)"
    return Misfit(sentence, away.voxels > FATAL)


def orientation(image: Image) -> str:
    """Which way the axes of the file run, in the file's order: "LAS" from right to left, ...; "" for rasters."""
    placement = image.placement
    if "ras" not in placement:
        return ""
    order, flips = cast(tuple[int, ...], placement["order"]), cast(tuple[int, ...], placement["flips"])
    letters = {file: ("LPI" if axis in flips else "RAS")[axis] for axis, file in enumerate(order)}
    return "".join(letters[file] for file in range(3))


def nodata(image: Image) -> float | None:
    """The value that the file marks as no measurement; None without one, and for NaN, which is none anyway."""
    value = image.placement.get("nodata")
    return value if isinstance(value, float) and math.isfinite(value) else None


def offset(one: Image, other: Image) -> Offset | None:
    """How far the corners of two grids of one shape are apart; None when a side does not say where it is."""
    first, second = _grid(one), _grid(other)
    if first is None or second is None or first.shape != second.shape:
        return None
    size = one.shape[::-1]
    corners = np.array([(*corner, 1.0) for corner in itertools.product(*[(-0.5, n - 0.5) for n in size])]).T
    steps = np.linalg.solve(first[:-1, :-1], ((second - first) @ corners)[:-1])
    lengths = np.linalg.norm(steps * np.array(one.spacing[::-1])[:, None], axis=0)
    return Offset(float(np.abs(steps).max()), float(lengths.max()))


def _grid(image: Image) -> Matrix | None:
    """The matrix from indices (x, y[, z]) of the array to the world."""
    placement = image.placement
    if "ras" in placement:
        return np.asarray(placement["ras"], dtype=np.float64)
    if placement.get("crs") and placement.get("transform") is not None:
        a, b, c, d, e, f = np.asarray(placement["transform"], dtype=np.float64)
        return np.array([[a, b, c], [d, e, f], [0, 0, 1]])
    return None


def _same_crs(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    first, second = str(one.get("crs") or ""), str(other.get("crs") or "")
    if not first or not second or first == second:
        return True
    return bool(_crs(first) == _crs(second))


def _crs_name(placement: Mapping[str, object]) -> str:
    crs = _crs(str(placement["crs"]))
    return f"EPSG:{code}" if (code := crs.to_epsg()) else str(placement["crs"])[:60]


def _crs(wkt: str) -> Any:
    from rasterio.crs import CRS

    return CRS.from_wkt(wkt)


def _times(shape: tuple[int, ...]) -> str:
    return "×".join(str(size) for size in shape)
