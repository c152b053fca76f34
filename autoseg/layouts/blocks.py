"""Where the tiles of a task lie on the map: the blocks of a grid that they fall into, and which lie close together."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import floor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import BadData, BadTask, BadUsage
from autoseg.layouts.units import listed
from autoseg.readers.gdal import opened
from autoseg.records import CaseFiles

Numbers = NDArray[np.float64]
OPTION = "--folds-by"
LENGTH = r"(\d+(?:\.\d+)?)(k?m)?"
TEXT = re.compile(rf"blocks:{LENGTH}(?::{LENGTH})?")
TOUCH = 1e-3  # metres by which tiles may overlap that are cut side by side


class Blocks(NamedTuple):
    """Squares of `size` metres; tiles nearer than `buffer` metres to a validation tile are not trained on."""

    size: float
    buffer: float

    @classmethod
    def parse(cls, text: str) -> Blocks:
        """'blocks:2km:200m' or 'blocks:2000:200'; without a second length there is no buffer. Raises: BadUsage."""
        if not (match := TEXT.fullmatch(text)) or float(match[1]) == 0:
            expected = "blocks:SIZE:BUFFER, like blocks:2km:200m"
            raise BadUsage(f"{text!r} spells no blocks", where=OPTION, expected=expected)
        metres = {None: 1.0, "m": 1.0, "km": 1000.0}
        return cls(float(match[1]) * metres[match[2]], float(match[3] or 0) * metres[match[4]])

    @property
    def text(self) -> str:
        """As it is written on the command line, in metres."""
        size, buffer = (np.format_float_positional(metres, trim="-") for metres in self)
        return f"blocks:{size}:{buffer}"


def length(metres: float) -> str:
    """For people: '200 m', '2 km'."""
    return f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m"


@dataclass(frozen=True, eq=False)
class Grid:
    """How the units of a map become metres.

    Attributes:
        north: metres per unit northward.
        east: metres per unit eastward at a northing.
        turns: shifts of the easting that lead to the same place.
    """

    north: float
    east: Callable[[Any], Any]
    turns: tuple[float, ...] = (0.0,)


PLANE = Grid(1.0, np.ones_like)
# no degree of WGS 84 is shorter: distances are never too long, so that a buffer is kept
DEGREES = Grid(110_574.0, lambda y: 111_319.0 * np.cos(np.radians(np.clip(y, -89.9, 89.9))), (-360.0, 0.0, 360.0))


@dataclass(frozen=True, eq=False)
class Tiles:
    """The places of cases; `bounds` (N, 4) are west, south, east and north in units of the grid."""

    ids: tuple[str, ...]
    bounds: Numbers
    grid: Grid

    def blocks(self, size: float) -> dict[str, str]:
        """Case -> the block that its centre lies in: squares of `size` metres at places that no case decides."""
        found = {}
        for id, (west, south, east, north) in zip(self.ids, self.bounds.tolist(), strict=True):
            row = floor((south + north) / 2 * self.grid.north / size)
            middle = (row + 0.5) * size / self.grid.north
            column = floor((west + east) / 2 * float(self.grid.east(middle)) / size)
            found[id] = f"{row},{column}"
        return found

    def near(self, ids: Collection[str], buffer: float) -> list[str]:
        """The other cases that lie nearer than `buffer` metres to one of `ids`, edge to edge, or overlap it."""
        inside = np.array([id in ids for id in self.ids], bool)
        close = np.zeros(len(self.ids), bool)
        for bounds in self.bounds[inside]:
            north = np.maximum(self.bounds[:, 1] - bounds[3], bounds[1] - self.bounds[:, 3]) * self.grid.north
            rows = np.flatnonzero(north < buffer)  # few, so that the rest is fast
            close[rows] |= self._gaps(bounds, rows) < buffer
        return [id for id, hit in zip(self.ids, close & ~inside, strict=True) if hit]

    def _gaps(self, bounds: Numbers, rows: NDArray[np.intp]) -> Numbers:
        """(M,) metres between a box and some tiles; less than 0 where they overlap."""
        west, south, east, north = self.bounds[rows].T
        scale = np.minimum(self.grid.east((south + north) / 2), self.grid.east((bounds[1] + bounds[3]) / 2))
        turned = [np.maximum(west - bounds[2] + turn, bounds[0] - east - turn) for turn in self.grid.turns]
        x = np.min(turned, axis=0) * scale
        y = np.maximum(south - bounds[3], bounds[1] - north) * self.grid.north
        overlap = (x < -TOUCH) & (y < -TOUCH)
        return np.where(overlap, -1.0, np.hypot(x.clip(0), y.clip(0)))


def tiles_of(folder: Path, cases: Sequence[CaseFiles]) -> Tiles:
    """The places of the cases whose images can be opened, by the images' headers.

    In metres where no image, or all in one projected system, have coordinates of a system; otherwise in degrees.
    Raises: BadTask when images have no coordinates.
    """
    found = {case.id: place for case in cases if (place := _place(folder, case)) is not None}
    if bare := [id for id, place in found.items() if place.bounds is None]:
        what = f"{len(bare)} of {len(cases)} cases have no map coordinates ({listed(bare)})"
        remedy = "take --folds-by groups, and name the scenes with autoseg add --group REGEX"
        raise BadTask(what, where=OPTION, expected="georeferenced rasters", remedy=remedy)
    systems = {place.crs for place in found.values()}
    if len(systems) > 1 and None in systems:
        bare = [id for id, place in found.items() if place.crs is None]
        raise BadTask(f"{len(bare)} cases name no coordinate system ({listed(bare)}), others do", where=OPTION)
    system = next(iter(systems), None)
    flat = len(systems) == 1 and (system is None or not system.is_geographic)
    places = [place.in_metres() if flat else place.in_degrees() for place in found.values()]
    return Tiles(tuple(found), np.array(places, float).reshape(-1, 4), PLANE if flat else DEGREES)


class _Place(NamedTuple):
    """A box (west, south, east, north) of a coordinate system; None: the file does not say where it lies."""

    crs: Any
    bounds: tuple[float, float, float, float] | None

    def in_metres(self) -> Numbers:
        # a system of some building site says nothing of its units
        factor = float(self.crs.linear_units_factor[1]) if self.crs is not None and self.crs.is_projected else 1.0
        return np.array(self.bounds, float) * factor

    def in_degrees(self) -> Numbers:
        from rasterio._err import CPLE_BaseError  # some of GDAL's own errors come through as they are
        from rasterio.errors import RasterioError
        from rasterio.warp import transform_bounds

        assert self.bounds is not None
        try:
            west, south, east, north = transform_bounds(self.crs, "EPSG:4326", *self.bounds)
        except (RasterioError, CPLE_BaseError) as problem:
            raise BadTask(f"coordinates cannot be brought to degrees: {problem}", where=OPTION) from None
        if not np.isfinite([west, south, east, north]).all():
            raise BadTask(f"coordinates {self.bounds} lie outside {self.crs.to_string()}", where=OPTION)
        return np.array([west, south, east if east >= west else east + 360, north], float)


def _place(folder: Path, case: CaseFiles) -> _Place | None:
    """Where the first of a case's images that says so lies; None when one cannot be opened, which `check` tells."""
    place = _Place(None, None)
    for name in case.images:
        try:
            with opened(folder / name) as source:
                place = _bounds(source)
        except BadData:
            return None
        if place.bounds is not None:
            break
    return place


def _bounds(source: Any) -> _Place:
    if source.transform.is_identity:
        return _Place(None, None)
    a, b, c, d, e, f = tuple(source.transform)[:6]
    corners = [(x, y) for x in (0, source.width) for y in (0, source.height)]
    west, *_, east = sorted(a * x + b * y + c for x, y in corners)
    south, *_, north = sorted(d * x + e * y + f for x, y in corners)
    return _Place(source.crs or None, (west, south, east, north))
