"""The bands of an open raster: which are channels, which are masks, where they lie."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import BadData
from autoseg.image import Array, Image, Mask
from autoseg.readers import colours as coding
from autoseg.readers.checks import finite, plain_dtype
from autoseg.readers.gdal import told
from autoseg.readers.windows import Window, Windows, blank, spread

KEPT = {"uint8", "uint16", "int16", "float32"}
WIDENED = {"int8": "int16", "int32": "float32", "uint32": "float32", "int64": "float32", "uint64": "float32"}
HELD = 64_000_000  # pixels of a band that are read at once to see whether it is a mask; of more, some
EDGE, PIECES = 1024, 36


@dataclass(frozen=True)
class Bands:
    """The channels of an open raster, and its masks, by their numbers in the file."""

    source: Any
    file: Path
    channels: tuple[int, ...]
    masks: tuple[int, ...]

    def windows(self) -> Windows:
        """The raster as an image. Raises: BadData for coordinates that give pixels no size."""
        grid = self._grid()
        colours = self.source.driver == "PNG" and self.source.colorinterp[0].name == "palette"
        count = 3 if colours else len(self.channels)
        return Windows(grid, count, self._block(), self._image)

    def label(self, colours: Mapping[str, int]) -> Windows:
        """The raster as a label: one channel. Raises: BadData as `windows`."""

        def read(window: Window) -> Image:
            return self._label(window, colours)

        return Windows(self._grid(), 1, self._block(), read)

    def colours(self, window: Window) -> dict[str, int]:
        """The pixels of every colour, the most frequent first; none where the bands are no colours."""
        bands = self._bands(window)
        return coding.counted(bands) if _is_coloured(bands) else {}

    def _grid(self) -> Image:
        with told(self.file):
            placement, spacing = _place(self.source, self.file, bool(self.masks))
            return blank((self.source.height, self.source.width), spacing, placement)

    def _block(self) -> tuple[int, int]:
        rows, columns = self.source.block_shapes[self.channels[0] - 1]
        return int(rows), int(columns)

    def _bands(self, window: Window) -> Array:
        with told(self.file):
            bands: Array = self.source.read(self.channels, window=_as_rasterio(window))
        return bands

    def _image(self, window: Window) -> Image:
        bands = self._bands(window)
        with told(self.file):
            valid = _valid(self, bands, window)
            if self.source.driver == "PNG" and self.source.colorinterp[0].name == "palette":
                bands, opaque = _colours(bands[0], self.source.colormap(1))
                valid = opaque if valid is None else valid & opaque
        name = bands.dtype.name
        with np.errstate(over="ignore"):
            bands = bands.astype(name if name in KEPT else WIDENED.get(name, "float32"), copy=False)
        if (numbers := finite(bands)) is not None:
            valid = numbers if valid is None else valid & numbers
        grid = self._grid()
        return Image(bands, grid.spacing, None if valid is None or valid.all() else valid, grid.placement)

    def _label(self, window: Window, colours: Mapping[str, int]) -> Image:
        bands = self._bands(window)
        if colours and len(bands) == 1 and (palette := self._palette()):
            bands, _ = _colours(bands[0], palette)
        if colours and _is_coloured(bands):
            array: Array = coding.values_of(bands, colours)[None]
        elif any((band != bands[0]).any() for band in bands[1:]):
            raise self._refusal(bands, window)
        else:
            array = bands[:1].astype(plain_dtype(bands.dtype), copy=False)
        grid = self._grid()
        return Image(array, grid.spacing, finite(array), grid.placement)

    def _palette(self) -> dict[int, tuple[int, int, int, int]]:
        """The colours of the values of a file with a palette; none of another."""
        if self.source.colorinterp[self.channels[0] - 1].name != "palette":
            return {}
        with told(self.file):
            palette: dict[int, tuple[int, int, int, int]] = self.source.colormap(self.channels[0])
        return palette

    def _refusal(self, bands: Array, window: Window) -> BadData:
        """What is wrong with a label whose bands differ."""
        if _is_coloured(bands):
            return coding.refusal(coding.counted(bands), str(self.file))
        return BadData(
            f"a label with {len(bands)} bands that differ",
            where=str(self.file),
            expected="one band of class values",
            remedy="convert its colours to class values",
        )


def bands_of(source: Any, file: Path) -> Bands:
    """The bands of an open raster. Raises: BadData for what has no plain bands."""
    _require_plain(source, file)
    with told(file):
        masks = _alpha(source)
    channels = [index for index in source.indexes if index not in masks]
    if not channels:
        raise BadData("holds no band but alpha", where=str(file))
    return Bands(source, file, tuple(channels), tuple(masks))


def _is_coloured(bands: Array) -> bool:
    return len(bands) == 3 and bands.dtype == np.uint8


def _as_rasterio(window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
    rows, columns = window
    return (rows.start, rows.stop), (columns.start, columns.stop)


def _require_plain(source: Any, file: Path) -> None:
    """Raises: BadData for pages and complex numbers."""
    if source.subdatasets:
        raise BadData(
            f"holds {len(source.subdatasets)} pages",
            where=str(file),
            expected="one page",
            remedy="save every page as a file, or a volume as .nii.gz",
        )
    if any("complex" in name for name in source.dtypes):
        raise BadData(f"holds {source.dtypes[0]} numbers", where=str(file), expected="real numbers")


def _alpha(source: Any) -> list[int]:
    """The bands that are masks: marked as alpha and, in a TIFF, of two values at most.

    GDAL marks the fourth of four 8-bit bands as alpha unless told not to, near-infrared bands too. Of a raster that is
    too large to be held, windows spread over it are looked at.
    """
    marked = [i for i, colour in zip(source.indexes, source.colorinterp, strict=True) if colour.name == "alpha"]
    return marked if source.driver != "GTiff" else [index for index in marked if _has_two_values(source, index)]


def _has_two_values(source: Any, index: int) -> bool:
    shape = (source.height, source.width)
    windows = [(slice(0, shape[0]), slice(0, shape[1]))]
    if shape[0] * shape[1] > HELD:
        windows = spread(shape, source.block_shapes[index - 1], EDGE, PIECES)
    met: set[float] = set()
    for window in windows:
        band = source.read(index, window=_as_rasterio(window))
        met |= {float(band.min()), float(band.max())}
        if not np.isin(band, (band.min(), band.max())).all() or len(met) > 2:
            return False
    return True


def _valid(bands: Bands, values: Array, window: Window) -> Mask | None:
    """Where alpha, the file's mask and the bands' nodata say that there is a measurement; None: not said."""
    from rasterio.enums import MaskFlags

    source, part = bands.source, _as_rasterio(window)
    masks: list[Mask] = [source.read(index, window=part) > 0 for index in bands.masks]
    flags = source.mask_flag_enums[bands.channels[0] - 1]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        masks.append(source.read_masks(bands.channels[0], window=part) > 0)
    else:
        masks += [
            band != band.dtype.type(nodata)
            for band, index in zip(values, bands.channels, strict=True)
            if (nodata := source.nodatavals[index - 1]) is not None and holds(band.dtype, nodata)
        ]
    return np.logical_and.reduce(masks) if masks else None


def holds(dtype: np.dtype[Any], nodata: float) -> bool:
    """Whether a band of that dtype can hold the value. NaN is found with the other non-finite numbers."""
    if not math.isfinite(nodata):
        return False
    if dtype.kind == "f":
        return abs(nodata) <= float(np.finfo(dtype).max)
    return nodata == int(nodata) and np.iinfo(dtype).min <= nodata <= np.iinfo(dtype).max


def _colours(indices: Array, palette: dict[int, tuple[int, int, int, int]]) -> tuple[Array, Mask]:
    """The colours (3, y, x) uint8 of palette indices, and where they are not transparent."""
    table = np.zeros((256, 4), dtype=np.uint8)
    for index, colour in palette.items():
        table[index] = colour
    colours = table[indices]
    return np.ascontiguousarray(np.moveaxis(colours[..., :3], -1, 0)), colours[..., 3] > 0


def _place(source: Any, file: Path, alpha: bool) -> tuple[dict[str, object], tuple[float, float]]:
    """The placement, and the spacing (y, x) in metres per pixel: 1 without coordinates."""
    transform = None if source.transform.is_identity else tuple(source.transform)[:6]
    placement: dict[str, object] = {
        "kind": "raster",
        "crs": source.crs.to_wkt() if source.crs else "",
        "transform": transform,
        "width": source.width,
        "height": source.height,
        "nodata": source.nodata,
        "alpha": alpha,
        **_sensor(source),
    }
    if transform is None or not source.crs:
        return placement, (1.0, 1.0)
    a, b, _, d, e, _ = transform
    east, north = _metres(source)
    spacing = (math.hypot(b * east, e * north), math.hypot(a * east, d * north))
    if not all(math.isfinite(size) and size > 0 for size in spacing) or a * e == b * d:
        raise BadData(
            f"the geotransform {transform} gives pixels no size",
            where=str(file),
            remedy="mend its coordinates",
        )
    return placement, spacing


def _sensor(source: Any) -> dict[str, object]:
    """Ground control points and rational polynomials, where a raster is placed by these, in plain values."""
    found: dict[str, object] = {}
    points, crs = source.gcps
    if points:
        found["gcps"] = tuple((point.row, point.col, point.x, point.y, point.z) for point in points)
        found["gcps_crs"] = crs.to_wkt() if crs else ""
    if source.rpcs is not None:
        found["rpcs"] = source.rpcs.to_dict()
    return found


def _metres(source: Any) -> tuple[float, float]:
    """Metres per unit of the coordinate system, eastward and northward, at the scene's centre (WGS 84)."""
    if source.crs.is_projected:
        factor = float(source.crs.linear_units_factor[1])
        return factor, factor
    if not source.crs.is_geographic:
        return 1.0, 1.0
    _, _, _, d, e, f = tuple(source.transform)[:6]
    phi = math.radians(d * source.width / 2 + e * source.height / 2 + f)
    east = 111412.84 * math.cos(phi) - 93.5 * math.cos(3 * phi) + 0.118 * math.cos(5 * phi)
    north = 111132.92 - 559.82 * math.cos(2 * phi) + 1.175 * math.cos(4 * phi)
    return east, north
