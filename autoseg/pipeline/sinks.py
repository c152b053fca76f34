"""Where the pieces of a label go: into an array that is written when it is whole, or into a raster as they come."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np

from autoseg.parts import READERS
from autoseg.pipeline.making import Making
from autoseg.records import Question
from autoseg.steps import cases as casework
from autoseg.store import whole

if TYPE_CHECKING:
    from autoseg.image import Image
    from autoseg.readers import Reader
    from autoseg.steps.pieces import Piece


class Sink(Protocol):
    """Takes the pieces of one image."""

    def take(self, piece: Piece) -> None: ...

    def close(self) -> Path:
        """Puts the file in its place; answers which."""
        ...

    def abandon(self) -> None:
        """Leaves nothing behind."""
        ...


def sink_for(question: Question, image: Image, target: Path, reader: str) -> Sink:
    """The sink of a label file of this image; `reader` names that of its files."""
    made: Reader = READERS.build(reader)
    if image.placement.get("kind") == "raster" and hasattr(made, "open_windows"):
        return RasterSink(question, image, target)
    return ArraySink(question, image, target, made)


class ArraySink:
    """A label in memory, in the smallest dtype of its values, written by a reader."""

    def __init__(self, question: Question, image: Image, target: Path, reader: Reader) -> None:
        self.question, self.image, self.target, self.reader = question, image, target, reader
        self.label = np.zeros(image.shape, casework.to_values(np.zeros(0, np.uint8), question).dtype)

    def take(self, piece: Piece) -> None:
        """Into its box."""
        self.label[piece.box] = casework.to_values(piece.indices, self.question)

    def close(self) -> Path:
        """Writes the file whole."""
        with whole(self.target) as temporary:
            self.reader.write_label(temporary, self.label, self.image)
        return self.target

    def abandon(self) -> None:
        """Nothing is on the disk yet."""


class RasterSink:
    """A label that is written window by window; pixels without a measurement get the file's nodata."""

    def __init__(self, question: Question, image: Image, target: Path) -> None:
        from autoseg.readers.raster_writing import colours_for, label_dtype, nodata_for, open_label

        self.question, self.target, self._dtype = question, target, label_dtype(question)
        # a PNG cannot say which value is no measurement
        png = target.suffix.lower() == ".png"
        self.nodata = question.ignore if png else nodata_for(question, image.placement)
        self._making = Making(target)
        with self._making.begun():
            label = open_label(self._making.path, image, self._dtype, self.nodata, colours_for(question, self.nodata))
            self._label = self._making.stack.enter_context(label)

    def take(self, piece: Piece) -> None:
        """Into its window."""
        values = casework.to_values(piece.indices, self.question)
        if piece.valid is not None and self.nodata is not None:
            values = np.where(piece.valid, values, self.nodata)
        self._label.write(piece.box, values.astype(self._dtype, copy=False))

    def close(self) -> Path:
        """Finishes the file and puts it in its place."""
        self._making.done()
        return self.target

    def abandon(self) -> None:
        """Removes what was written."""
        self._making.drop()
