"""Rasters of any size as the network sees them: prepared window by window, as `preprocess` prepares the whole."""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.boxes import Box, crop
from autoseg.arrays.normalisers import Moments
from autoseg.arrays.resample_part import Bands, bands_of, needed, resample_part
from autoseg.errors import BadData
from autoseg.image import Image, Mask
from autoseg.parts import NORMALISERS, RESAMPLERS
from autoseg.readers.windows import Kept, Window, Windows, by_rows, window_size
from autoseg.records import Configuration, Question
from autoseg.steps import cases, preprocess
from autoseg.steps.preprocess import Geometry

CACHE = 160 * 1024**2  # bytes of prepared pixels that are kept
ROWS = 272 * 1024**2  # bytes of rows that are kept of a file without tiles
HELD = 2 * 1024**3  # bytes up to which a raster is prepared whole where it cannot be prepared by windows
EDGE = 512  # rows and columns that are prepared at once
SURVEYED = 1024  # rows and columns, or as many pixels in whole rows, that the moments of an image are taken of at once

Floats = NDArray[np.float32]
Key = tuple[int, int]


@dataclass(frozen=True)
class Way:
    """What becomes of one channel: `outputs` channels, made by `make` and resampled by `bands`."""

    make: Callable[[Floats, Mask], Floats]
    bands: Bands
    outputs: int


class RasterSource:
    """A raster that is read, normalised and resampled where it is asked for: a `pieces.Source`.

    It is made of chunks. Those that were made last are kept, and of all that were ever made where they are valid.
    For one thread at a time.

    Attributes:
        shape: (1, y, x) in the plan's spacing; channels: what the network is given.
        geometry: how it lies in the image.
    """

    def __init__(self, windows: Windows, geometry: Geometry, shape: Sequence[int], ways: Sequence[Way], room: int):
        self.geometry, self.shape = geometry, (1, shape[1], shape[2])
        self.channels = sum(way.outputs for way in ways)
        self._windows, self._ways = windows, ways
        sizes = window_size(windows.shape, windows.block, EDGE)
        if _in_rows(windows):  # of these few are kept
            sizes[0] = min(sizes[0], max(1, EDGE // 8))
        each = zip(windows.shape, shape[1:], sizes, strict=True)
        self._edges = [_edges(m, size if n == m else max(1, min(EDGE, size * m // n))) for n, m, size in each]
        # of the image's pixels every chunk owns a box, so that each is owned once
        self._owned = [edges * n // m for edges, n, m in zip(self._edges, windows.shape, shape[1:], strict=True)]
        self._chunks: Kept[Key, Floats | None] = Kept(room, self._make, lambda made: 0 if made is None else made.nbytes)
        self._masks: dict[Key, bytes | bool] = {}

    def read(self, box: Box) -> Floats:
        """(C, 1, y, x) of the box, 0 where there is no measurement. Raises: BadData."""
        _, *parts = box
        result = np.zeros((self.channels, 1, *(part.stop - part.start for part in parts)), np.float32)
        for key in _over(self._edges, parts):
            chunk = self._chunks[key]
            if chunk is not None:
                there, here = _overlap(parts, _box(self._edges, key))
                crop(result, there)[:] = crop(chunk, here)
        return result

    def valid(self, box: Box) -> bool:
        """Whether the image has a measurement in the box. Raises: BadData."""
        mask = self.valid_window(_under(box[1:], self._windows.shape, self.shape[1:]))
        return mask is None or bool(mask.any())

    def valid_window(self, box: Box) -> Mask | None:
        """Where a box (y, x) of the image has a measurement, None: everywhere. Raises: BadData."""
        mask = np.ones([part.stop - part.start for part in box], bool)
        for key in _over(self._owned, box):
            owned = _box(self._owned, key)
            there, here = _overlap(box, owned)
            mask[there] = self._mask(key, owned)[here]
        return None if mask.all() else mask

    def _mask(self, key: Key, owned: Box) -> Mask:
        if key not in self._masks:
            self._chunks[key]
        return _unpacked(self._masks[key], [part.stop - part.start for part in owned])

    def _make(self, key: Key) -> Floats | None:
        """A chunk (C, 1, y, x); None where it would be 0."""
        box, owned = (slice(0, 1), *_box(self._edges, key)), _box(self._owned, key)
        old = (1, *self._windows.shape)
        needs = [needed(box, old, self.shape, bands)[1:] for bands in {way.bands for way in self._ways}]
        window = _hull([owned, *needs])
        image = self._windows.read(window)
        inside = _inside(image)
        self._masks.setdefault(key, _packed(inside[0][tuple(_moved(owned, window))]))
        if not inside.any():
            return None
        begin = (0, *(part.start for part in window))
        return np.concatenate([
            resample_part(_normalised(way.make, channel, inside), begin, box, old, self.shape, way.bands)
            for channel, way in zip(image.array, self._ways, strict=True)
        ])  # fmt: skip


class HeldSource:
    """A raster that is prepared whole, because a part of its plan wants it whole; as `RasterSource`."""

    def __init__(self, image: Image, configuration: Configuration, question: Question) -> None:
        self._array, self.geometry = preprocess.prepare_image(image, configuration, question)
        self._valid, (self.channels, z, y, x) = image.valid, self._array.shape
        self.shape = (z, y, x)

    def read(self, box: Box) -> Floats:
        """(C, *box)."""
        return crop(self._array, box)

    def valid(self, box: Box) -> bool:
        """Whether the image has a measurement in the box."""
        if self._valid is None:
            return True
        turned = self._valid[None].transpose(self.geometry.axes)
        return bool(turned[_under(box, turned.shape, self.shape)].any())

    def valid_window(self, box: Box) -> Mask | None:
        """Where a box (y, x) of the image has a measurement, None: everywhere."""
        return None if self._valid is None or self._valid[box].all() else self._valid[box]


def raster_source(
    windows: Windows, configuration: Configuration, question: Question, *,
    files: Sequence[Path] = (), room: int | None = None, held: int = HELD,
) -> RasterSource | HeldSource:  # fmt: skip
    """An open raster as the network sees it; looked at once as a whole where its moments are wanted.

    Args:
        files: what an error names.
        room: bytes of what is kept, else CACHE or ROWS; held: bytes up to which a raster may be prepared whole.
    Raises: BadData for other channels than the task's, a raster that can be prepared neither by windows nor whole, and
        what cannot be read.
    """
    cases.require_channels(windows.channels, list(files), question)
    shape, geometry = _shape(windows.grid, configuration, question)
    built = [NORMALISERS.build(part, intensity=None) for part in configuration.normalise]
    if reason := _wants_all(built, configuration):
        needs = 4 * (2 * windows.channels + preprocess.channels(configuration.normalise)) * prod(windows.shape)
        needs = max(needs, 4 * preprocess.channels(configuration.normalise) * prod(shape))
        if needs > held:
            raise BadData(
                f"{windows.shape[0]}×{windows.shape[1]} pixels are too many to be prepared at once, and {reason}",
                where=" + ".join(map(str, files)), expected=f"at most {held / 1e9:.3g} GB",
                remedy="cut the raster into tiles",
            )  # fmt: skip
        return HeldSource(windows.whole(), configuration, question)
    ways = _ways(windows, built, configuration)
    if _in_rows(windows):
        room = ROWS if room is None else room
        return RasterSource(by_rows(windows, room, EDGE**2), geometry, shape, ways, room // 8)
    return RasterSource(windows, geometry, shape, ways, CACHE if room is None else room)


def _in_rows(windows: Windows) -> bool:
    """Whether the file can only be read by rows that are too long for a chunk."""
    return windows.block[1] >= windows.shape[1] > EDGE


def _shape(grid: Image, configuration: Configuration, question: Question) -> tuple[tuple[int, int, int], Geometry]:
    geometry = preprocess.geometry_of(grid, configuration, question)
    spacing = [(1.0, *grid.spacing)[axis] for axis in configuration.axes]
    return preprocess.target_shape(geometry.cropped, spacing, configuration), geometry


def _wants_all(built: Sequence[Any], configuration: Configuration) -> str:
    """Why a raster can only be prepared whole; nothing where it can be by windows."""
    if configuration.dims != 2 or configuration.axes != (0, 1, 2):
        return "the plan turns its axes"
    for part, normaliser in zip(configuration.normalise, built, strict=True):
        measured = hasattr(normaliser, "moments") and hasattr(normaliser, "by")
        if not (getattr(normaliser, "local", False) or measured):
            return f"the normaliser {part.name} wants whole images"
        way = getattr(normaliser, "resample", configuration.resample)
        if bands_of(RESAMPLERS.build(way)) is None:
            return f"the resampler {way.name} wants whole images"
    return ""


def _ways(windows: Windows, built: Sequence[Any], configuration: Configuration) -> list[Way]:
    moments = _moments(windows, {n: one for n, one in enumerate(built) if not getattr(one, "local", False)})
    ways = []
    for number, normaliser in enumerate(built):
        make = partial(normaliser.by, moments[number]) if number in moments else normaliser
        bands = bands_of(RESAMPLERS.build(getattr(normaliser, "resample", configuration.resample)))
        assert bands is not None
        ways.append(Way(make, bands, getattr(normaliser, "outputs", 1)))
    return ways


def _moments(windows: Windows, wanting: dict[int, Any]) -> dict[int, Moments]:
    """Those of the channels, by number, that `wanting` has a normaliser of."""
    found = dict.fromkeys(wanting, Moments())
    for window in _all(windows) if wanting else ():
        image = windows.read(window)
        inside = _inside(image)
        for number, normaliser in wanting.items():
            found[number] += normaliser.moments(_floats(image.array[number], inside), inside)
    return found


def _all(windows: Windows) -> Iterator[Window]:
    """Windows that cover the raster once, row by row."""
    height, width = windows.shape
    sizes = window_size(windows.shape, windows.block, SURVEYED)
    if _in_rows(windows):
        sizes = [max(1, SURVEYED**2 // width), width]
    edges = _edges(height, sizes[0]), _edges(width, sizes[1])
    return (_box(edges, key) for key in _over(edges, windows.all))


def _inside(image: Image) -> Mask:
    return np.ones((1, *image.shape), bool) if image.valid is None else image.valid[None]


def _floats(channel: NDArray[Any], inside: Mask) -> Floats:
    """A channel (1, y, x) as normalisers are given it."""
    return np.where(inside, channel[None], 0).astype(np.float32)


def _normalised(make: Callable[[Floats, Mask], Floats], channel: NDArray[Any], inside: Mask) -> Floats:
    made = make(_floats(channel, inside), inside)
    return made if made.ndim == 4 else made[None]


def _packed(mask: Mask) -> bytes | bool:
    """A mask in few bytes; one truth value where it is the same everywhere."""
    first = bool(mask.flat[0]) if mask.size else True
    return first if (mask == first).all() else zlib.compress(np.packbits(mask).tobytes(), 1)


def _under(box: Sequence[slice], old: Sequence[int], new: Sequence[int]) -> Box:
    """The pixels of an image of shape `old` under a box of the resampled one, of shape `new`."""
    each = zip(box, old, new, strict=True)
    return tuple(slice(part.start * n // m, -(-part.stop * n // m)) for part, n, m in each)


def _unpacked(known: bytes | bool, shape: Sequence[int]) -> Mask:
    if isinstance(known, bool):
        return np.full(shape, known)
    bits = np.unpackbits(np.frombuffer(zlib.decompress(known), np.uint8), count=prod(shape))
    return bits.astype(bool).reshape(shape)


def _edges(full: int, size: int) -> NDArray[np.int64]:
    """Where pieces of a size begin and end along an axis."""
    return np.append(np.arange(0, full, size, dtype=np.int64), full)


def _over(edges: Sequence[NDArray[np.int64]], box: Sequence[slice]) -> Iterator[Key]:
    """The pieces between the edges that a box has a share of, row by row."""
    rows, columns = (
        range(int(np.searchsorted(along, part.start, "right")) - 1, int(np.searchsorted(along, part.stop)))
        for along, part in zip(edges, box, strict=True)
    )
    return itertools.product(rows, columns)


def _box(edges: Sequence[NDArray[np.int64]], key: Key) -> tuple[slice, slice]:
    rows, columns = (slice(int(along[n]), int(along[n + 1])) for along, n in zip(edges, key, strict=True))
    return rows, columns


def _overlap(one: Sequence[slice], other: Sequence[slice]) -> tuple[tuple[slice, ...], tuple[slice, ...]]:
    """What two boxes share, as counted in each."""
    both = [slice(max(a.start, b.start), min(a.stop, b.stop)) for a, b in zip(one, other, strict=True)]
    return tuple(_moved(both, one)), tuple(_moved(both, other))


def _moved(box: Sequence[slice], origin: Sequence[slice]) -> list[slice]:
    return [slice(a.start - b.start, a.stop - b.start) for a, b in zip(box, origin, strict=True)]


def _hull(boxes: Sequence[Sequence[slice]]) -> Window:
    """The smallest window around all of the boxes; empty ones do not count."""
    rows, columns = (
        slice(min(part.start for part in along), max(part.stop for part in along)) for along in zip(*boxes, strict=True)
    )
    return rows, columns
