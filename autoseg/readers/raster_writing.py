"""Labels of rasters of any size, written window by window: tiled GeoTIFFs that lie where their image lies, or PNGs."""

from __future__ import annotations

import colorsys
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from autoseg.errors import RunFailed
from autoseg.image import Array, Image
from autoseg.readers.bands import holds
from autoseg.readers.checks import label_for_file
from autoseg.readers.gdal import quiet
from autoseg.records import Question

TILED_ABOVE = 512  # rows or columns; larger labels are cloud-optimised
BLOCK = 256
PNG_DTYPES = (np.uint8, np.uint16)
DTYPES = (np.uint8, np.int16, np.uint16, np.int32)
Box = Sequence[slice]  # rows, columns
Colour = tuple[int, int, int, int]
NO_COLOURS: Mapping[int, Colour] = {}


class LabelFile:
    """A label that is being written. Every pixel is written once, in any order; blocks go out as they are complete."""

    def __init__(self, file: Path, target: Any, nodata: int | None, block: tuple[int, int]) -> None:
        self._file, self._target, self._nodata, self._block = file, target, nodata, block
        self._shape = (int(target.height), int(target.width))
        self._dtype = np.dtype(target.dtypes[0])
        self._open: dict[tuple[int, int], tuple[Array, int]] = {}
        self._missing = math.prod(self._shape)
        self.has_nodata = False

    def write(self, box: Box, label: Array) -> None:
        """Puts the label (y, x) into its box.

        Raises: RunFailed where the disk is full; ValueError for a label that does not fit, or is written twice.
        """
        if label.shape != tuple(part.stop - part.start for part in box) or not _fits(box, self._shape):
            raise ValueError(f"a label of shape {label.shape} does not fit {box} of {self._shape}")
        if self._nodata is not None and not self.has_nodata:
            self.has_nodata = bool((label == self._nodata).any())
        rows, columns = (
            range(part.start // size, -(-part.stop // size)) for part, size in zip(box, self._block, strict=True)
        )
        for row in rows:
            for column in columns:
                self._put((row, column), box, label)

    def _put(self, key: tuple[int, int], box: Box, label: Array) -> None:
        block = [
            slice(n * size, min((n + 1) * size, full))
            for n, size, full in zip(key, self._block, self._shape, strict=True)
        ]
        size = [part.stop - part.start for part in block]
        shared = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(block, box, strict=True)]
        values, missing = self._open.pop(key, None) or (np.empty(size, self._dtype), math.prod(size))
        values[_moved(shared, block)] = label[_moved(shared, box)]
        written = math.prod(part.stop - part.start for part in shared)
        self._missing -= written
        if written < missing:
            self._open[key] = values, missing - written
        elif written > missing:
            raise ValueError(f"pixels of {box} were written before")
        else:
            with writing(self._file):
                self._target.write(values, 1, window=tuple((part.start, part.stop) for part in block))

    def finish(self) -> None:
        """Raises: ValueError where pixels were not written, or some twice."""
        if self._missing or self._open:
            raise ValueError(f"{self._missing} of {math.prod(self._shape)} pixels of the label were not written")


class HeldLabel:
    """A label that is kept until it is complete, for formats that can only be written at once; as `LabelFile`."""

    def __init__(self, shape: Sequence[int], dtype: DTypeLike) -> None:
        self.label: Array = np.zeros(tuple(shape), dtype)
        self._missing = math.prod(shape)

    def write(self, box: Box, label: Array) -> None:
        """Puts the label (y, x) into its box. Raises: ValueError for one that does not fit."""
        self.label[box[0], box[1]] = label
        self._missing -= label.size

    def finish(self) -> None:
        """Raises: ValueError where pixels were not written, or some twice."""
        if self._missing:
            raise ValueError(f"{self._missing} of {self.label.size} pixels of the label were not written")


@contextmanager
def open_label(
    file: Path, like: Image, dtype: DTypeLike, nodata: int | None = None, colours: Mapping[int, Colour] = NO_COLOURS
) -> Iterator[LabelFile | HeldLabel]:
    """A label file of an image, to be written by windows: PNG by its ending, else GeoTIFF.

    A GeoTIFF has the image's coordinates: its system and affine transform of any kind, ground control points, rational
    polynomials. One of more than 512 rows or columns is cloud-optimised: in blocks, with overviews of the most frequent
    values. It declares `nodata` where a pixel has it or the image declares one. A PNG is held in memory and holds
    nothing but the values.

    Args:
        file: written in place, and beside it for a while FILE.tiles; the caller makes it atomic.
        like: the image, or `Windows.grid`.
        nodata: the value of pixels without a measurement; see `nodata_for`.
        colours: of the values, for uint8 alone; see `colours_for`.
    Raises: RunFailed where it cannot be written; BadData for values that no PNG holds.
    """
    if file.name.lower().endswith(".png"):
        held = HeldLabel(like.shape, dtype)
        yield held
        held.finish()
        _write_png(file, label_for_file(held.label, file, like, PNG_DTYPES))
        return
    large = max(like.shape) > TILED_ABOVE
    tiles = file.with_name(file.name + ".tiles") if large else file
    try:
        with _created(tiles, like, np.dtype(dtype), large) as target:
            if colours and np.dtype(dtype) == np.uint8:
                target.write_colormap(1, dict(colours))
            rows, columns = like.shape
            label = LabelFile(file, target, nodata, (BLOCK, BLOCK) if large else (rows, columns))
            yield label
            label.finish()
            if nodata is not None and (label.has_nodata or like.placement.get("nodata") is not None):
                with writing(file):
                    target.nodata = nodata
        if large:
            _optimise(tiles, file)
    finally:
        if large:
            tiles.unlink(missing_ok=True)


def nodata_for(question: Question, placement: Mapping[str, object]) -> int | None:
    """What a label says where its image has no measurement: a value of no class that fits the label's dtype.

    It is the task's ignored value, else the image's own nodata, else 255, else the largest that is free.
    """
    taken = {*question.labels.values(), *question.merged}
    limits = np.iinfo(label_dtype(question))
    own = placement.get("nodata")
    wanted = [question.ignore, int(own) if isinstance(own, float) and holds(np.dtype(limits.dtype), own) else None, 255]
    for value in wanted:
        if value is not None and value not in taken and limits.min <= value <= limits.max:
            return value
    return next((value for value in range(int(limits.max), int(limits.min) - 1, -1) if value not in taken), None)


def label_dtype(question: Question) -> np.dtype[Any]:
    """The smallest of uint8, int16, uint16 and int32 that holds the task's values."""
    values = question.labels.values()
    fitting = (kind for kind in DTYPES if np.iinfo(kind).min <= min(values) and max(values) <= np.iinfo(kind).max)
    return np.dtype(next(fitting, np.int32))


def colours_for(question: Question, nodata: int | None = None) -> dict[int, Colour]:
    """A colour for every value of a task: its own where it has colours, else black for 0 and distinct ones."""
    own = {value: text for text, value in reversed(question.colours.items())}
    found: dict[int, Colour] = {}
    for number, value in enumerate(sorted(set(question.labels.values()) - {0})):
        # hues by the golden ratio lie far from those before, whatever their number
        hue, tone = (number * 0.618034) % 1, (1.0, 0.75, 0.9)[number % 3]
        red, green, blue = (round(255 * part) for part in colorsys.hsv_to_rgb(hue, (0.85, 0.6)[number // 3 % 2], tone))
        found[value] = (red, green, blue, 255)
    if 0 in question.labels.values():
        found[0] = (0, 0, 0, 255)
    for value, text in own.items():
        if value in found:
            found[value] = (int(text[1:3], 16), int(text[3:5], 16), int(text[5:7], 16), 255)
    if nodata is not None and nodata not in found:
        used = {colour[:3] for colour in found.values()}
        grey = next(tone for tone in range(128, 256) if (tone, tone, tone) not in used)
        found[nodata] = (grey, grey, grey, 0)
    return found


@contextmanager
def writing(file: Path) -> Iterator[None]:
    """What goes wrong with a raster that is written is RunFailed that names it; nothing is put beside it."""
    import rasterio
    from rasterio._err import CPLE_BaseError
    from rasterio.errors import RasterioError

    try:
        with quiet(), rasterio.Env(GDAL_PAM_ENABLED=False):
            yield
    except (RasterioError, CPLE_BaseError, OSError) as problem:
        reason = str(problem.__cause__ or problem) or type(problem).__name__
        raise RunFailed(
            f"could not be written: {reason}", where=str(file), remedy="check the free disk space"
        ) from problem


@contextmanager
def _created(file: Path, like: Image, dtype: np.dtype[Any], tiled: bool) -> Iterator[Any]:
    """A GeoTIFF open for writing, closed at the end."""
    import rasterio

    options: dict[str, object] = {"driver": "GTiff", "compress": "deflate"}
    if tiled:  # it is read once: fast rather than small
        options |= {"tiled": True, "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "if_safer", "zlevel": 1}
    height, width = like.shape
    with writing(file):
        target = rasterio.open(
            file.absolute(), "w", height=height, width=width, count=1, dtype=dtype.name, **options, **_place(like)
        )
    try:
        yield target
    finally:
        with writing(file):
            target.close()


def _place(like: Image) -> dict[str, object]:
    """Where the image lies, as rasterio wants it."""
    from rasterio.control import GroundControlPoint
    from rasterio.rpc import RPC
    from rasterio.transform import Affine

    placement: Mapping[str, Any] = like.placement
    found: dict[str, object] = {}
    if placement.get("crs"):
        found["crs"] = placement["crs"]
    if placement.get("transform") is not None:
        found["transform"] = Affine(*np.asarray(placement["transform"], dtype=float))
    elif placement.get("gcps"):
        found["gcps"] = [GroundControlPoint(*point) for point in placement["gcps"]]
        found |= {"crs": placement["gcps_crs"]} if placement["gcps_crs"] else {}
    if placement.get("rpcs"):
        found["rpcs"] = RPC(**placement["rpcs"])
    return found


def _optimise(tiles: Path, file: Path) -> None:
    """A cloud-optimised copy."""
    from rasterio.shutil import copy

    options = {"compress": "deflate", "blocksize": BLOCK, "overview_resampling": "mode", "bigtiff": "if_safer"}
    with writing(file):
        copy(str(tiles.absolute()), str(file.absolute()), driver="COG", **options)


def _write_png(file: Path, label: Array) -> None:
    import rasterio

    height, width = label.shape
    size = {"height": height, "width": width, "count": 1, "dtype": label.dtype.name}
    with writing(file), rasterio.open(file.absolute(), "w", driver="PNG", **size) as target:
        target.write(label, 1)


def _fits(box: Box, shape: Sequence[int]) -> bool:
    return all(0 <= part.start < part.stop <= full for part, full in zip(box, shape, strict=True))


def _moved(box: Box, origin: Box) -> tuple[slice, ...]:
    return tuple(slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, origin, strict=True))
