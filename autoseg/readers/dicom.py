"""DICOM series: one file per slice, read through GDCM; their labels are NIfTI files on the series' grid."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from autoseg.errors import BadData
from autoseg.image import Array, Image
from autoseg.readers.checks import finite, join, plain_dtype, require_content
from autoseg.readers.dicom_slices import Slice, Stack, slice_of, stacked
from autoseg.readers.itk import placed, told
from autoseg.readers.nifti import AGAIN, Nifti, _from_memory, _require_same_grid

RATIO = 100_000  # pixels per byte that no coding reaches
NIFTI = (".nii.gz", ".nii")


class Dicom:
    """Reads the slices of a series into RAS-like arrays; labels are written as NIfTI onto the series' grid."""

    endings: tuple[str, ...] = (".dcm",)

    def read(self, files: Sequence[Path]) -> Image:
        """The slices in any order: array (C, z, y, x), spacing (z, y, x) in mm; rescaled as their headers say.

        Files of several series are its channels, in the order in which the series are met first. Slices lie where their
        positions say: where the steps between them differ, the mean one counts.

        Raises: BadData for what is not a readable series, and for series on different grids.
        """
        series: dict[str, list[Slice]] = {}
        for file in files:
            one = read_slice(file)
            series.setdefault(one.uid, []).append(one)
        stacks = [stacked(slices) for slices in series.values()]
        images = [_volume(stack) for stack in stacks]
        for stack, image in zip(stacks[1:], images[1:], strict=True):
            _require_same_grid(stacks[0].files[0], images[0], stack.files[0], image)
        array = join([image.array for image in images])
        return Image(array, images[0].spacing, finite(array), images[0].placement)

    def read_label(self, file: Path) -> Image:
        """A label as `write_label` writes it, or one slice. Raises: BadData as the reader of its format."""
        if file.name.lower().endswith(NIFTI):
            return Nifti().read_label(file)
        image = self.read([file])
        if image.channels != 1:
            raise BadData(f"a label with {image.channels} channels", where=str(file), expected="one channel")
        return image

    def write_label(self, file: Path, label: Array, like: Image) -> None:
        """Writes a label (z, y, x) as NIfTI, on the grid of the series. Raises: as `Nifti.write_label`."""
        Nifti().write_label(file, label, like)

    def label_ending(self, image_ending: str) -> str:
        """.nii.gz: DICOM has no plain file for a label."""
        return ".nii.gz"


def read_slice(file: Path) -> Slice:
    """What the header of a file says of its slice. Raises: BadData when it is none."""
    import SimpleITK

    require_content(file)
    with told(file, "DICOM"):
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(file))
        reader.SetImageIO("GDCMImageIO")
        reader.ReadImageInformation()
        kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
    voxels, held = math.prod(reader.GetSize()), file.stat().st_size
    if voxels > held * RATIO:
        raise BadData(f"{voxels} pixels promised, {held} bytes held", where=str(file), remedy=AGAIN)
    tags = {key: reader.GetMetaData(key).strip("\0 ") for key in reader.GetMetaDataKeys() if _is_plain(key)}
    return slice_of(file, tags, kind)


def _is_plain(key: str) -> bool:
    """Whether a tag is of a group that is read here: never those of the patient (0010)."""
    return key.startswith(("0008|", "0018|", "0020|", "0028|"))


def as_frames(label: Array, files: Sequence[Path]) -> tuple[list[Path], Array]:
    """The files of a series by position, and the label (z, y, x) in memory as their frames (n, rows, columns).

    Where the files are of several series, which are channels then, it is the first one.

    Raises: BadData as `Dicom.read`, and for a label of another shape than the series.
    """
    slices = [read_slice(file) for file in files]
    stack = stacked([one for one in slices if one.uid == slices[0].uid])
    grid = placed(np.broadcast_to(np.uint8(0), (*stack.size, 1)), stack.affine, stack.files[0])
    if label.shape != grid.shape:
        raise BadData(
            f"a label of shape {label.shape}", where=str(stack.files[0].parent),
            expected=f"{grid.shape}, the series'",
        )  # fmt: skip
    return list(stack.files), np.ascontiguousarray(_from_memory(label, grid.placement).T)


def _volume(stack: Stack) -> Image:
    import SimpleITK

    first = stack.files[0]
    with told(first, "DICOM"):
        reader = SimpleITK.ImageSeriesReader()
        reader.SetFileNames([str(file) for file in stack.files])
        reader.SetImageIO("GDCMImageIO")
        if stack.mixed:
            reader.SetOutputPixelType(SimpleITK.sitkFloat32)
        image: Any = reader.Execute()
        data: Array = SimpleITK.GetArrayFromImage(image)
    data = data.astype(plain_dtype(data.dtype), copy=False)
    data = data[..., None] if image.GetNumberOfComponentsPerPixel() == 1 else data
    return placed(data.transpose(2, 1, 0, 3), stack.affine, first)
