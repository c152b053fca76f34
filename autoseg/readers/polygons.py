"""The outlines of the classes of a label as GeoJSON (RFC 7946), out of rasters of any size."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import BadData
from autoseg.image import Array
from autoseg.readers.gdal import opened, told
from autoseg.readers.raster_writing import writing

PIXELS = 1 << 23  # that are looked at together
BATCH = 1000  # polygons that are brought to the ground together
DIGITS = 8  # of degrees: a millimetre
MAJOR, FLATTENING = 6378137.0, 1 / 298.257223563  # WGS 84
NOTE = "the label has no coordinate system: x is the column and y the row of a pixel's corner"

Points = NDArray[np.float64]  # (N, 2), x and y


def write_polygons(label_file: Path, target: Path, names: Mapping[int, str], nodata: float | None = None) -> int:
    """Writes a polygon for every object of the classes of a label; answers how many.

    An object is a set of pixels of one class that touch each other with their edges. Its properties are `class`,
    `value`, `pixels`, and where the label has a coordinate system `area_m2`, on the WGS 84 ellipsoid; its coordinates
    are degrees then, else pixels. In memory is a strip of the label, and what crosses the borders of strips.

    Args:
        target: written in place, and beside it for a while TARGET.crossing; the caller makes it atomic.
        names: of the values; what has none, the value 0 and nodata are left out.
        nodata: the file's own where None.
    Raises: BadData for a label that cannot be read, or lies outside of the Earth.
    """
    with opened(label_file) as source:
        left_out = {0, source.nodata if nodata is None else nodata}
        values = sorted(value for value in names if value not in left_out)
        ground = _ground_of(source)
        head = {"type": "FeatureCollection", **({} if ground else {"note": NOTE})}
        with ExitStack() as stack:
            file = stack.enter_context(target.open("w", encoding="utf-8"))
            file.write(json.dumps(head)[:-1] + ', "features": [')
            objects = _objects(source, label_file, target.with_name(target.name + ".crossing"), values)
            count = 0
            while batch := list(itertools.islice(objects, BATCH)):
                _write_batch(file, batch, source if ground else None, label_file, names, first=not count)
                count += len(batch)
            file.write("\n]}\n")
    return count


Object = tuple[list[Points], int]  # the rings of a polygon in pixels, the outer one first; its value


def _objects(source: Any, label_file: Path, beside: Path, values: Sequence[int]) -> Iterator[Object]:
    """Every object once: those inside a strip of rows strip by strip, and at last those that cross two."""
    height, width = source.height, source.width
    rows = max(1, PIXELS // width)
    if rows >= height:
        yield from _outlines(_indices(source, label_file, 0, height, values), None, values, 0)
        return
    options = {"driver": "GTiff", "compress": "deflate", "zlevel": 1, "bigtiff": "if_safer", "blockysize": 64}
    try:
        with _created(beside, height, width, options) as crossing:
            for top in range(0, height, rows):
                strip = _indices(source, label_file, top, min(top + rows, height), values)
                cut = _cut(strip, before=top > 0, after=top + rows < height)
                yield from _outlines(strip, ~cut, values, top)
                with writing(beside):
                    window = ((top, top + len(strip)), (0, width))
                    crossing.write(np.where(cut, strip, 0), 1, window=window)
        with opened(beside) as again:
            import rasterio

            band = rasterio.band(again, 1)
            yield from _outlines(band, band, values, 0)
    finally:
        beside.unlink(missing_ok=True)


def _indices(source: Any, label_file: Path, top: int, bottom: int, values: Sequence[int]) -> NDArray[np.uint8]:
    """Rows of the label: 1 for the first of the values, and so on; 0 for what is none of them."""
    with told(label_file):
        label: Array = source.read(1, window=((top, bottom), (0, source.width)))
    found = np.zeros(label.shape, np.uint8)
    for number, value in enumerate(values, 1):
        found[label == value] = number
    return found


def _cut(strip: NDArray[np.uint8], before: bool, after: bool) -> NDArray[np.bool_]:
    """The objects of a strip that reach its first row, or its last, beyond which there is more."""
    import cc3d

    parts = cc3d.connected_components(strip, connectivity=4)
    reached = np.zeros(int(parts.max()) + 1, bool)
    for line, more in ((parts[0], before), (parts[-1], after)):
        reached[line] |= more
    reached[0] = False
    cut: NDArray[np.bool_] = reached[parts]
    return cut


def _outlines(strip: Any, mask: Any, values: Sequence[int], top: int) -> Iterator[Object]:
    """The polygons of what is not 0 in a strip that begins at the row `top`, or in a band."""
    from rasterio.features import shapes

    inside = strip if isinstance(mask, tuple) else (strip > 0 if mask is None else mask & (strip > 0))
    for shape, index in shapes(strip, mask=inside, connectivity=4):
        rings = [np.add(ring, (0.0, top)) for ring in shape["coordinates"]]
        yield rings, values[int(index) - 1]


def _created(file: Path, height: int, width: int, options: dict[str, Any]) -> Any:
    import rasterio

    with writing(file):
        return rasterio.open(file.absolute(), "w", height=height, width=width, count=1, dtype="uint8", **options)


def _ground_of(source: Any) -> bool:
    """Whether the pixels have a place on the Earth."""
    crs = source.crs
    return bool(crs) and not source.transform.is_identity and bool(crs.is_projected or crs.is_geographic)


def _write_batch(
    file: IO[str], batch: Sequence[Object], source: Any, label_file: Path, names: Mapping[int, str], *, first: bool
) -> None:
    """Writes objects as features; on the ground where their label's source is given."""
    rings = [ring for polygon, _ in batch for ring in polygon]
    placed = iter(rings if source is None else _on_the_ground(rings, source, label_file))
    for polygon, value in batch:
        there = [next(placed) for _ in polygon]
        properties: dict[str, object] = {"class": names[value], "value": value, "pixels": round(_area(polygon))}
        if source is not None:
            properties["area_m2"] = float(f"{_area([_equal_area(ring) for ring in there]):.6g}")
        coordinates = [_wound(ring, outer=not number).round(DIGITS).tolist() for number, ring in enumerate(there)]
        geometry = {"type": "Polygon", "coordinates": coordinates}
        feature = {"type": "Feature", "properties": properties, "geometry": geometry}
        file.write(("\n" if first else ",\n") + json.dumps(feature, separators=(",", ":"), ensure_ascii=False))
        first = False


def _on_the_ground(rings: Sequence[Points], source: Any, label_file: Path) -> list[Points]:
    """The rings in degrees, longitude and latitude; one across the 180th meridian goes on beyond it.

    Raises: BadData for what has no place on the Earth.
    """
    from rasterio.warp import transform

    x, y = np.concatenate(rings).T
    a, b, c, d, e, f = tuple(source.transform)[:6]
    with told(label_file):
        there = np.stack(transform(source.crs, "EPSG:4326", a * x + b * y + c, d * x + e * y + f), 1)
    if not np.isfinite(there).all() or np.abs(there[:, 1]).max() > 90 + 1e-9:
        raise BadData("lies outside of the Earth", where=str(label_file), remedy="mend its coordinates")
    found: list[Points] = np.split(there, np.cumsum([len(ring) for ring in rings])[:-1])
    for ring in found:
        longitudes = ring[:, 0]
        if longitudes.max() - longitudes.min() > 180:
            longitudes[longitudes < 0] += 360
    return found


def _equal_area(ring: Points) -> Points:
    """Degrees in the plane of Lambert's cylindrical equal-area projection of WGS 84, in metres."""
    e = math.sqrt(FLATTENING * (2 - FLATTENING))
    sine = np.sin(np.radians(ring[:, 1]))
    y = (1 - e**2) / 2 * (sine / (1 - (e * sine) ** 2) + np.arctanh(e * sine) / e)
    return MAJOR * np.stack([np.radians(ring[:, 0]), y], 1)


def _area(rings: Sequence[Points]) -> float:
    """Of a polygon: that of its outer ring, less its holes."""
    outer, *holes = (abs(_signed(ring)) for ring in rings)
    return outer - sum(holes)


def _signed(ring: Points) -> float:
    """The area of a closed ring, above 0 where it runs counterclockwise."""
    x, y = (ring - ring[0]).T
    return float((x[:-1] * y[1:] - x[1:] * y[:-1]).sum() / 2)


def _wound(ring: Points, outer: bool) -> Points:
    """The ring, counterclockwise where it is the outer one, else clockwise."""
    return ring if (_signed(ring) > 0) == outer else ring[::-1]
