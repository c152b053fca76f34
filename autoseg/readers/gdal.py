"""Opening rasters with GDAL: the driver by content, its messages kept quiet, its errors told."""

from __future__ import annotations

import logging
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from autoseg.errors import BadData
from autoseg.readers.checks import require_content

# GDAL is told the driver, because a file of another kind could name any other file (VRT)
DRIVERS = {
    **dict.fromkeys((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "GTiff"),
    b"\x89PNG": "PNG",
    **dict.fromkeys((b"\xff\xd8\xff" + bytes([last]) for last in range(0xC0, 0xFF)), "JPEG"),
}
CACHE = 64 * 2**20  # bytes of blocks that GDAL may keep; its own choice is a share of the machine's memory
PIECE = 1 << 20
AGAIN = "copy it again from its source"


@contextmanager
def quiet() -> Iterator[None]:
    """GDAL's messages go to Python's logging, and to stderr only where a user has asked for that."""
    import rasterio
    from rasterio.errors import NotGeoreferencedWarning

    logger = logging.getLogger("rasterio")
    if not any(isinstance(handler, logging.NullHandler) for handler in logger.handlers):
        logger.addHandler(logging.NullHandler())
    # without the first option a JPEG that is cut short is filled with grey
    with warnings.catch_warnings(), rasterio.Env(GDAL_ERROR_ON_LIBJPEG_WARNING=True, GDAL_CACHEMAX=CACHE):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        yield


@contextmanager
def told(file: Path) -> Iterator[None]:
    """What goes wrong with a raster inside is BadData that names the file."""
    from rasterio._err import CPLE_BaseError  # some of GDAL's own errors come through as they are
    from rasterio.errors import RasterioError

    try:
        with quiet():
            yield
    except (RasterioError, CPLE_BaseError, OSError, ValueError, KeyError, MemoryError) as problem:
        reason = str(problem.__cause__ or problem) or type(problem).__name__
        raise BadData(f"cannot be read: {reason}", where=str(file), remedy=AGAIN) from problem


@contextmanager
def opened(file: Path) -> Iterator[Any]:
    """The open rasterio dataset. What is read of it is read inside `told`."""
    import rasterio

    require_content(file)
    with told(file):
        if (driver := _driver(file)) == "PNG":
            _require_whole_png(file)
        source = rasterio.open(file.absolute(), driver=driver)
    try:
        yield source
    finally:
        source.close()


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
            found = zlib.crc32(kind)
            while size and (body := stream.read(min(size, PIECE))):
                found, size = zlib.crc32(body, found), size - len(body)
            if size or stream.read(4) != found.to_bytes(4, "big"):
                raise BadData("the PNG is cut short or damaged", where=str(file), remedy=AGAIN)
