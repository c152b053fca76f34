"""Rasters and pictures: GeoTIFF, TIFF, PNG, JPEG."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from types import MappingProxyType

import numpy as np

from autoseg.errors import BadData
from autoseg.image import Array, Image
from autoseg.readers.bands import bands_of, holds
from autoseg.readers.checks import join, label_for_file
from autoseg.readers.gdal import opened
from autoseg.readers.geometry import same_place
from autoseg.readers.raster_writing import PNG_DTYPES, open_label
from autoseg.readers.windows import Window, Windows

NO_COLOURS: Mapping[str, int] = MappingProxyType({})


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
        with self.open_windows(files) as image:
            return image.whole()

    @contextmanager
    def open_windows(self, files: Sequence[Path]) -> Iterator[Windows]:
        """The files opened to be read by windows, of which each is what `read` gives there. Raises: as `read`."""
        with ExitStack() as stack:
            parts = [bands_of(stack.enter_context(opened(file)), file).windows() for file in files]
            for file, part in zip(files[1:], parts[1:], strict=True):
                misfit = same_place(parts[0].grid, part.grid)
                if misfit.fatal:
                    difference = misfit.sentence.replace("label", "other file")
                    raise BadData(f"differs from {files[0]}: {difference}", where=str(file), expected="one grid")
            placed = next((part for part in parts if part.grid.placement["crs"]), parts[0])

            def read(window: Window) -> Image:
                images = [part.read(window) for part in parts]
                masks = [image.valid for image in images if image.valid is not None]
                valid = np.logical_and.reduce(masks) if masks else None
                return Image(join([image.array for image in images]), placed.grid.spacing, valid, placed.grid.placement)

            yield Windows(placed.grid, sum(part.channels for part in parts), parts[0].block, read)

    def read_label(self, file: Path) -> Image:
        """A label: array (1, y, x) with the file's own values, palette indices where it has a palette.

        A nodata entry of a label file is taken as an ordinary value, because masks often call their
        background nodata. Equal bands (a grey mask saved as RGB) count as one; alpha is dropped.

        Raises: BadData as `read`; ColourCoded for a label that is coded by colours.
        """
        with self.open_label(file) as label:
            return label.whole()

    @contextmanager
    def open_label(self, file: Path, colours: Mapping[str, int] = NO_COLOURS) -> Iterator[Windows]:
        """A label opened to be read by windows, of which each is what `read_label` gives there.

        Args:
            colours: the value of every colour, as {"#3c1098": 4}: three bands and palettes are read by them. Another
                colour becomes `colours.UNKNOWN` and its 24 bits.
        """
        with opened(file) as source:
            yield bands_of(source, file).label(colours)

    def colours(self, file: Path) -> dict[str, int]:
        """The pixels of every colour of a label in three bands, most frequent first; none of one in values."""
        with opened(file) as source:
            bands = bands_of(source, file)
            return bands.colours((slice(0, source.height), slice(0, source.width)))

    def write_label(self, file: Path, label: Array, like: Image) -> None:
        """Writes a label (y, x) as PNG, or as GeoTIFF with the coordinates of `like`'s file.

        The dtype is the first that holds the values: uint8, uint16, and in a GeoTIFF int16, int32. A
        GeoTIFF gets the image's nodata where its dtype holds it and no pixel has it: QGIS hides those that do. See
        `raster_writing.open_label` for labels that are written by windows, and for their nodata.

        Raises: BadData for a label that does not fit; RunFailed when the file cannot be written.
        """
        flat = file.name.lower().endswith(".png")
        label = label_for_file(label, file, like, PNG_DTYPES if flat else (np.uint8, np.uint16, np.int16, np.int32))
        own = like.placement.get("nodata")
        hides = isinstance(own, float) and holds(label.dtype, own) and not (label == own).any()
        nodata = int(own) if hides and isinstance(own, float) else None
        with open_label(file, like, label.dtype, nodata) as target:
            target.write([slice(0, size) for size in label.shape], label)

    def label_ending(self, image_ending: str) -> str:
        """TIFFs keep their ending; PNG and JPEG give .png."""
        return image_ending if image_ending in (".tif", ".tiff") else ".png"
