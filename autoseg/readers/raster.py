"""Rasters and pictures: GeoTIFF, TIFF, PNG, JPEG."""

from __future__ import annotations

import logging
import math
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import BadData, RunFailed
from autoseg.image import Array, Image, Mask
from autoseg.readers.checks import finite, join, label_for_file, plain_dtype, require_content
from autoseg.readers.geometry import same_place

# GDAL is told the driver, because a file of another kind could name any other file (VRT)
DRIVERS = {
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "GTiff"),
    b"\x89PNG": "PNG",
    **dict.fromkeys((b"\xff\xd8\xff" + bytes([last]) for last in range(0xC0, 0xFF)), "JPEG"),
}
KEPT = {"uint8", "uint16", "int16", "float32"}
WIDENED = {"int8": "int16", "int32": "float32", "uint32": "float32", "int64": "float32", "uint64": "float32"}
TILED_ABOVE = 512
AGAIN = "copy it again from its source"


class Raster:
    """Reads rasters and pictures; writes labels as GeoTIFF with the image's coordinates, or as PNG."""

    endings: tuple[str, ...] = (".tiff", ".jpeg", ".tif", ".png", ".jpg")

    def read(self, files: Sequence[Path]) -> Image:
        """The bands of all files: array (C, y, x) of uint8, uint16, int16 or float32, spacing in metres.

        int8 becomes int16, larger whole numbers and float64 become float32 (exact up to 2^24); a PNG with a
        palette becomes its colours, a GeoTIFF with one keeps its values. An alpha band is no channel: where
        it is 0 there is no measurement (`valid`). `valid` is also False where any band is nodata, NaN or inf.
        A TIFF's band counts as alpha only when it is marked so and holds no more than two values: GDAL marks
        near-infrared bands so too. Spacing is 1 where a
        file has no coordinates; degrees are metres at the scene's centre. Scale and offset tags are not used.

        Raises: BadData for what cannot be read, and for files of different sizes or places.
        """
        images = [_read(file) for file in files]
        for file, image in zip(files[1:], images[1:], strict=True):
            if misfit := same_place(images[0], image):
                difference = misfit.sentence.replace("label", "other file")
                if misfit.fatal:
                    raise BadData(f"differs from {files[0]}: {difference}", where=str(file), expected="one grid")
        placed = next((image for image in images if image.placement["crs"]), images[0])
        masks = [image.valid for image in images if image.valid is not None]
        valid = np.logical_and.reduce(masks) if masks else None
        return Image(join([image.array for image in images]), placed.spacing, valid, placed.placement)

    def read_label(self, file: Path) -> Image:
        """A label: array (1, y, x) with the file's own values, palette indices where it has a palette.

        A nodata entry of a label file is taken as an ordinary value, because masks often call their
        background nodata. Equal bands (a grey mask saved as RGB) count as one; alpha is dropped.

        Raises: BadData as `read`, and for a label that is coded by colours.
        """
        with _opened(file) as source:
            bands = source.read(_channels(source, file))
            placement, spacing = _place(source, file)
        if any((band != bands[0]).any() for band in bands[1:]):
            raise BadData(
                f"a label with {len(bands)} bands that differ",
                where=str(file),
                expected="one band of class values",
                remedy="convert its colours to class values",
            )
        array = bands[:1].astype(plain_dtype(bands.dtype), copy=False)
        return Image(array, spacing, finite(array), placement)

    def write_label(self, file: Path, label: Array, like: Image) -> None:
        """Writes a label (y, x) as PNG, or as GeoTIFF with the coordinates of `like`'s file.

        The dtype is the first that holds the values: uint8, uint16, and in a GeoTIFF int16, int32. A
        GeoTIFF gets the image's nodata where its dtype holds it and no pixel has it: QGIS hides those that do.

        Raises: BadData for a label that does not fit; RunFailed when the file cannot be written.
        """
        import rasterio
        from rasterio.transform import Affine

        flat = file.name.lower().endswith(".png")
        dtypes = (np.uint8, np.uint16) if flat else (np.uint8, np.uint16, np.int16, np.int32)
        label = label_for_file(label, file, like, dtypes)
        height, width = label.shape
        options: dict[str, object] = {"driver": "PNG"} if flat else {"driver": "GTiff", "compress": "deflate"}
        if not flat and max(label.shape) > TILED_ABOVE:
            options |= {"tiled": True, "blockxsize": 256, "blockysize": 256, "bigtiff": "if_safer"}
        if not flat and like.placement.get("crs"):
            options["crs"] = like.placement["crs"]
        if not flat and like.placement.get("transform") is not None:
            options["transform"] = Affine(*np.asarray(like.placement["transform"], dtype=float))
        nodata = like.placement.get("nodata")
        if not flat and isinstance(nodata, float) and _holds(label.dtype, nodata) and not (label == nodata).any():
            options["nodata"] = nodata
        try:
            with (
                _quiet(),
                rasterio.open(file.absolute(), "w", **options, **_size(height, width, label)) as target,
            ):
                target.write(label, 1)
        except OSError as problem:
            raise RunFailed(
                f"could not be written: {problem}", where=str(file), remedy="check the free disk space"
            ) from problem

    def label_ending(self, image_ending: str) -> str:
        """TIFFs keep their ending; PNG and JPEG give .png."""
        return image_ending if image_ending in (".tif", ".tiff") else ".png"


def _size(height: int, width: int, label: Array) -> dict[str, object]:
    return {"height": height, "width": width, "count": 1, "dtype": label.dtype.name}


@contextmanager
def _quiet() -> Iterator[None]:
    """GDAL's messages go to Python's logging, and to stderr only where a user has asked for that."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    logger = logging.getLogger("rasterio")
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
    # without the option a JPEG that is cut short is filled with grey
    with warnings.catch_warnings(), rasterio.Env(GDAL_ERROR_ON_LIBJPEG_WARNING=True):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def _opened(file: Path) -> Iterator[Any]:
    """The open rasterio dataset; what goes wrong with it is BadData."""
    import rasterio
    from rasterio._err import CPLE_BaseError  # some of GDAL's own errors come through as they are
    from rasterio.errors import RasterioError

    require_content(file)
    try:
        if (driver := _driver(file)) == "PNG":
            _require_whole_png(file)
        with _quiet(), rasterio.open(file.absolute(), driver=driver) as source:
            yield source
    except (RasterioError, CPLE_BaseError, OSError, ValueError, KeyError, MemoryError) as problem:
        reason = str(problem.__cause__ or problem) or type(problem).__name__
        raise BadData(f"cannot be read: {reason}", where=str(file), remedy=AGAIN) from problem


def _driver(file: Path) -> str:
    """The driver for what the file holds, whatever its ending says."""
    with file.open("rb") as stream:
        start = stream.read(4)
    if start not in DRIVERS:
        raise BadData("this is no raster", where=str(file), expected="TIFF, PNG or JPEG", remedy=AGAIN)
    return DRIVERS[start]


def _require_whole_png(file: Path) -> None:
    """Raises: BadData for a PNG that is cut short or damaged, which GDAL fills with zeros without a word."""
    with file.open("rb") as stream:
        stream.seek(8)
        kind = b""
        while kind != b"IEND":
            head = stream.read(8)
            kind, size = head[4:], int.from_bytes(head[:4], "big")
            body = stream.read(size)
            if stream.read(4) != zlib.crc32(kind + body).to_bytes(4, "big"):
                raise BadData("the PNG is cut short or damaged", where=str(file), remedy=AGAIN)


def _read(file: Path) -> Image:
    with _opened(file) as source:
        indexes = _channels(source, file)
        bands = source.read(indexes)
        valid = _valid(source, bands, indexes)
        if source.driver == "PNG" and source.colorinterp[0].name == "palette":
            bands, opaque = _colours(bands[0], source.colormap(1))
            valid = opaque if valid is None else valid & opaque
        placement, spacing = _place(source, file)
    name = bands.dtype.name
    with np.errstate(over="ignore"):
        bands = bands.astype(name if name in KEPT else WIDENED.get(name, "float32"), copy=False)
    if (numbers := finite(bands)) is not None:
        valid = numbers if valid is None else valid & numbers
    return Image(bands, spacing, None if valid is None or valid.all() else valid, placement)


def _channels(source: Any, file: Path) -> list[int]:
    """The indices of the bands that are no alpha. Raises: BadData for what has no plain bands."""
    if source.subdatasets:
        raise BadData(
            f"holds {len(source.subdatasets)} pages",
            where=str(file),
            expected="one page",
            remedy="save every page as a file, or a volume as .nii.gz",
        )
    if any("complex" in name for name in source.dtypes):
        raise BadData(f"holds {source.dtypes[0]} numbers", where=str(file), expected="real numbers")
    masks = _alpha(source)
    indexes = [index for index in source.indexes if index not in masks]
    if not indexes:
        raise BadData("holds no band but alpha", where=str(file))
    return indexes


def _alpha(source: Any) -> list[int]:
    """The bands that are masks: marked as alpha and, in a TIFF, of two values at most.

    GDAL marks the fourth of four 8-bit bands as alpha unless told not to, near-infrared bands too.
    """
    marked = [i for i, colour in zip(source.indexes, source.colorinterp, strict=True) if colour.name == "alpha"]
    if source.driver != "GTiff":
        return marked
    return [index for index in marked if np.isin(band := source.read(index), (band.min(), band.max())).all()]


def _valid(source: Any, bands: Array, indexes: Sequence[int]) -> Mask | None:
    """Where alpha, the file's mask and the bands' nodata say that there is a measurement; None: not said."""
    from rasterio.enums import MaskFlags

    masks: list[Mask] = []
    masks += [source.read(index) > 0 for index in _alpha(source)]
    flags = source.mask_flag_enums[indexes[0] - 1]
    if MaskFlags.per_dataset in flags and MaskFlags.alpha not in flags:
        masks.append(source.read_masks(indexes[0]) > 0)
    else:
        masks += [
            band != band.dtype.type(nodata)
            for band, index in zip(bands, indexes, strict=True)
            if (nodata := source.nodatavals[index - 1]) is not None and _holds(band.dtype, nodata)
        ]
    return np.logical_and.reduce(masks) if masks else None


def _holds(dtype: np.dtype[Any], nodata: float) -> bool:
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


def _place(source: Any, file: Path) -> tuple[dict[str, object], tuple[float, float]]:
    """The placement, and the spacing (y, x) in metres per pixel: 1 without coordinates."""
    transform = None if source.transform.is_identity else tuple(source.transform)[:6]
    placement: dict[str, object] = {
        "kind": "raster",
        "crs": source.crs.to_wkt() if source.crs else "",
        "transform": transform,
        "width": source.width,
        "height": source.height,
        "nodata": source.nodata,
        "alpha": bool(_alpha(source)),
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
