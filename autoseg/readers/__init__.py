"""Files to images and labels back to files. One reader per family of formats, found by the file's ending."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from autoseg.errors import BadData
from autoseg.image import Array, Image
from autoseg.parts import READERS
from autoseg.readers.geometry import Misfit, nodata, orientation, same_place
from autoseg.readers.windows import Windows

__all__ = [
    "ENDINGS", "Misfit", "Reader", "Windows", "ending_of", "endings", "is_litter", "nodata", "orientation",
    "reader_for", "same_place", "stem_of",
]  # fmt: skip


class Reader(Protocol):
    """What every reader does.

    `endings` are lower-case, with the dot, longest first. All methods raise BadData that names the file. A reader of
    files that may be too large to be held has `open_windows(files)` and `open_label(file)` too: contexts of `Windows`.
    """

    endings: tuple[str, ...]

    def read(self, files: Sequence[Path]) -> Image:
        """The channels of all files, in order, on one grid. Files on different grids: BadData."""
        ...

    def read_label(self, file: Path) -> Image:
        """A label: array (1, *S), of the file's dtype, in the same axes as `read` gives."""
        ...

    def write_label(self, file: Path, label: Array, like: Image) -> None:
        """Writes an integer (*S) label onto the grid of the file that `like` was read from.

        `file` is written in place; the caller makes it atomic. Its ending is `label_ending`'s.
        """
        ...

    def label_ending(self, image_ending: str) -> str:
        """The ending a label gets whose image ends so (JPEG loses values: it becomes PNG)."""
        ...


ENDINGS = {  # of autoseg's own readers
    ".nii.gz": "nifti",
    ".nii": "nifti",
    ".nrrd": "itk",
    ".nhdr": "itk",
    ".mha": "itk",
    ".mhd": "itk",
    ".dcm": "dicom",
    ".tiff": "raster",
    ".tif": "raster",
    ".png": "raster",
    ".jpeg": "raster",
    ".jpg": "raster",
}


def endings() -> dict[str, str]:
    """Which reader reads which ending, those of plug-ins among them."""
    return ENDINGS | {ending: name for name in READERS.added for ending in READERS.build(name).endings}


def ending_of(name: str) -> str:
    """The known ending of a file name, the longest one, lower case; '' when no reader knows it."""
    low = name.lower()
    return max((ending for ending in endings() if low.endswith(ending)), key=len, default="")


def stem_of(name: str) -> str:
    """The file name without its known ending."""
    return name[: len(name) - len(ending_of(name))]


def reader_for(name: str) -> str:
    """The name of the reader of a file. Raises: BadData that lists the known endings."""
    if not (ending := ending_of(name)):
        known, remedy = " ".join(endings()), "a reader of your own is loaded with --plugin FILE.py"
        raise BadData("no reader for this kind of file", where=name, expected=f"one of {known}", remedy=remedy)
    return endings()[ending]


def is_litter(name: str) -> bool:
    """Files that operating systems leave behind: `._x`, `.DS_Store`, `Thumbs.db` and other hidden ones."""
    return name.startswith(".") or name in {"Thumbs.db", "desktop.ini", "__MACOSX"}
