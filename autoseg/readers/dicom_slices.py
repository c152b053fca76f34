"""Slices of a DICOM series: what their headers say, and how they lie on each other.

Nothing of the patient is read: what is kept of a header is the geometry, and the marks that tell series apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import BadData

Vector = NDArray[np.float64]
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # DICOM's axes run to the left and to the back
ONE_PLACE = 1e-2  # mm between slices below which they lie at one place
UNEVEN = 1e-2  # share of the mean step by which steps may differ unsaid


@dataclass(frozen=True)
class Slice:
    """One file of a series.

    Attributes:
        position: of the centre of its first pixel, LPS mm; None where the header has none.
        orientation: the directions of a row and of a column.
        pixel: mm from column to column and from row to row.
        thick: mm to the next slice as the header says; it counts for a single slice alone.
        kind: the numbers of its pixels in SimpleITK's words.
    """

    file: Path
    uid: str
    description: str
    number: str
    image_type: str
    size: tuple[int, int]
    frames: int
    position: tuple[float, ...] | None
    orientation: tuple[float, ...] | None
    pixel: tuple[float, ...] | None
    thick: float
    kind: str

    def is_like(self, other: Slice) -> bool:
        """Whether both may lie in one stack: of one size, one pixel and one orientation."""
        return self.size == other.size and all(
            _near(getattr(self, name), getattr(other, name)) for name in ("orientation", "pixel")
        )


@dataclass(frozen=True)
class Stack:
    """Slices sorted along their normal; `affine` leads from (column, row, slice) to RAS mm."""

    files: tuple[Path, ...]
    size: tuple[int, int, int]
    affine: Vector
    notes: tuple[str, ...]
    mixed: bool


def slice_of(file: Path, tags: Mapping[str, str], kind: str) -> Slice:
    """The slice of a header's tags ("0020|0032"). Raises: BadData for numbers that are none."""

    def numbers(tag: str, count: int) -> tuple[float, ...] | None:
        text = tags.get(tag, "")
        if not text:
            return None
        try:
            found = tuple(float(part) for part in text.split("\\"))
        except ValueError:
            found = ()
        if len(found) != count or not all(map(math.isfinite, found)):
            raise BadData(f"({tag.replace('|', ',')}) is no {count} numbers", where=str(file), remedy="mend its header")
        return found

    def number(tag: str, otherwise: float) -> float:
        found = numbers(tag, 1)
        return found[0] if found else otherwise

    spacing = numbers("0028|0030", 2) or numbers("0018|1164", 2)
    if spacing is not None and min(spacing) <= 0:
        raise BadData(f"pixels of {spacing[0]:g} by {spacing[1]:g} mm", where=str(file), remedy="mend its header")
    thick = abs(number("0018|0088", 0) or number("0018|0050", 0))
    return Slice(
        file, tags.get("0020|000e", ""), tags.get("0008|103e", ""), tags.get("0020|0011", ""),
        tags.get("0008|0008", ""), (int(number("0028|0011", 0)), int(number("0028|0010", 0))),
        int(number("0028|0008", 1)), numbers("0020|0032", 3), numbers("0020|0037", 6),
        None if spacing is None else spacing[::-1], thick, kind,
    )  # fmt: skip


def stacked(slices: Sequence[Slice]) -> Stack:
    """The slices of one series by position.

    Raises: BadData where they are not one stack: multi-frame files, several sizes or orientations, slices without a
        position or at the same one.
    """
    first = slices[0]
    for one in slices:
        if one.frames > 1:
            raise BadData(
                f"holds {one.frames} frames", where=str(one.file), expected="one slice per file",
                remedy="convert it to .nii.gz, for example with dcm2niix",
            )  # fmt: skip
        if not one.is_like(first):
            raise BadData("is of another size or orientation", where=str(one.file), expected=f"that of {first.file}")
    rows, columns = _axes(first)
    normal = np.cross(rows, columns)
    places = np.array([_position(one, len(slices)) for one in slices])
    order = np.argsort(places @ normal, kind="stable")
    places = places[order]
    slices = [slices[index] for index in order]
    pixel = first.pixel or (1.0, 1.0)
    affine = np.eye(4)
    affine[:3, 0], affine[:3, 1] = rows * pixel[0], columns * pixel[1]
    affine[:3, 2], affine[:3, 3] = normal * (first.thick or 1.0), places[0]
    notes: tuple[str, ...] = ()
    if len(slices) > 1:
        affine[:3, 2] = (places[-1] - places[0]) / (len(slices) - 1)
        notes = _notes(slices, places, normal)
    mixed = len({one.kind for one in slices}) > 1
    return Stack(tuple(one.file for one in slices), (*first.size, len(slices)), LPS @ affine, notes, mixed)


def _axes(one: Slice) -> tuple[Vector, Vector]:
    """The directions of rows and columns as unit vectors at a right angle. Raises: BadData where they are none."""
    rows, columns = np.array(one.orientation or (1, 0, 0, 0, 1, 0), dtype=np.float64).reshape(2, 3)
    lengths = np.linalg.norm(rows), np.linalg.norm(columns)
    if max(abs(lengths[0] - 1), abs(lengths[1] - 1), abs(float(rows @ columns))) > 1e-2:
        raise BadData("its orientation is no right angle", where=str(one.file), remedy="mend its header")
    rows = rows / lengths[0]
    columns = columns - (columns @ rows) * rows
    return rows, columns / np.linalg.norm(columns)


def _position(one: Slice, of: int) -> tuple[float, ...]:
    """Raises: BadData where one of several slices does not say where it lies, or how large its pixels are."""
    if of > 1 and (one.position is None or one.orientation is None or one.pixel is None):
        lacks = [name for name in ("position", "orientation", "pixel") if getattr(one, name) is None]
        raise BadData(f"its header lacks the {lacks[0]} of the slice", where=str(one.file), remedy="mend its header")
    return one.position or (0.0, 0.0, 0.0)


def _notes(slices: Sequence[Slice], places: Vector, normal: Vector) -> tuple[str, ...]:
    """What is to be said of the steps between slices. Raises: BadData for two slices at one place."""
    heights = places @ normal
    steps = np.diff(heights)
    if steps.min() < ONE_PLACE:
        at = int(steps.argmin())
        raise BadData(
            f"{slices[at].file.name} and {slices[at + 1].file.name} lie at one place",
            where=str(slices[at].file.parent), expected="one slice at every place",
            remedy="split the series by time, echo or reconstruction",
        )  # fmt: skip
    mean = float(steps.mean())
    notes = []
    if steps.max() - steps.min() > max(UNEVEN * mean, ONE_PLACE):
        shortest, longest = float(steps.min()), float(steps.max())
        notes.append(f"slices are {shortest:.3g} to {longest:.3g} mm apart, taken as {mean:.3g} mm")
    lacking = int((np.rint(steps / np.median(steps)) - 1).clip(0).sum())
    if lacking:
        notes.append(f"{lacking} slices seem to be missing" if lacking > 1 else "one slice seems to be missing")
    straight = places[0] + np.outer((heights - heights[0]) / (heights[-1] - heights[0]), places[-1] - places[0])
    beside = float(np.linalg.norm(places - straight, axis=1).max())
    if beside > 0.5 * min(slices[0].pixel or (1.0,)):
        notes.append(f"slices lie up to {beside:.3g} mm beside a straight line, on which they are taken to be")
    return tuple(notes)


def _near(one: tuple[float, ...] | None, other: tuple[float, ...] | None) -> bool:
    if one is None or other is None:
        return one is other
    return bool(np.allclose(one, other, rtol=1e-3, atol=1e-3))
