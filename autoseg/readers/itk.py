"""NRRD and MetaImage volumes (.nrrd, .nhdr, .mha, .mhd) of any orientation, through SimpleITK."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import BadData, RunFailed
from autoseg.image import Array, Image
from autoseg.readers.checks import finite, join, label_for_file, plain_dtype, require_content
from autoseg.readers.itk_headers import Stored, stored
from autoseg.readers.nifti import AGAIN, _from_memory, _require_same_grid, _to_memory

FORMATS = {".nrrd": "NrrdImageIO", ".nhdr": "NrrdImageIO", ".mha": "MetaImageIO", ".mhd": "MetaImageIO"}
WHOLE = {".nhdr": ".nrrd", ".mhd": ".mha"}  # a label is one file, header and voxels
LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # ITK's axes run to the left and to the back


class Itk:
    """Reads NRRD and MetaImage files into RAS-like arrays and writes labels back onto the file's own grid."""

    endings: tuple[str, ...] = (".nrrd", ".nhdr", ".mha", ".mhd")

    def read(self, files: Sequence[Path]) -> Image:
        """The channels of all files: array (C, z, y, x), spacing (z, y, x) in mm.

        The numbers of a vector image, or a fourth axis, are channels; a file of two axes is one slice (z = 1). A
        header that names another file for its voxels is followed within its own folder alone.

        Raises: BadData for what is not a readable image, and for files on different grids.
        """
        images, geometries = zip(*[_read(file) for file in files], strict=True)
        for file, image in zip(files[1:], images[1:], strict=True):
            _require_same_grid(files[0], images[0], file, image)
        return _marked(join([image.array for image in images]), images[0], geometries[0])

    def read_label(self, file: Path) -> Image:
        """A label: array (1, z, y, x) with the values and the dtype of the file (float64 as float32).

        Raises: BadData as `read`, and for a label with several channels.
        """
        image, geometry = _read(file)
        if image.channels != 1:
            raise BadData(f"a label with {image.channels} channels", where=str(file), expected="one channel")
        return _marked(image.array, image, geometry)

    def write_label(self, file: Path, label: Array, like: Image) -> None:
        """Writes a label (z, y, x) compressed, with the size, axes, spacing, origin and direction of `like`'s file.

        The dtype is the first of uint8, uint16, int16 and int32 that holds the values.

        Raises: BadData for a label that does not fit; RunFailed when the file cannot be written.
        """
        import SimpleITK

        label = label_for_file(label, file, like, (np.uint8, np.uint16, np.int16, np.int32))
        geometry = cast(Mapping[str, Any], like.placement["geometry"])
        image = SimpleITK.GetImageFromArray(np.ascontiguousarray(_from_memory(label, like.placement).T))
        image.SetSpacing(geometry["spacing"])
        image.SetOrigin(geometry["origin"])
        image.SetDirection(geometry["direction"])
        try:
            SimpleITK.WriteImage(image, str(file), useCompression=True)
        except RuntimeError as problem:
            raise RunFailed(
                f"could not be written: {_sentence(problem)}", where=str(file), remedy="check the free disk space"
            ) from problem

    def label_ending(self, image_ending: str) -> str:
        """The same ending; that of the format's single file for a detached header."""
        return WHOLE.get(image_ending, image_ending)


def _marked(array: Array, image: Image, geometry: Mapping[str, Any]) -> Image:
    placement = {**image.placement, "kind": "itk", "geometry": geometry}
    return Image(array, image.spacing, finite(array), placement)


def _read(file: Path) -> tuple[Image, dict[str, Any]]:
    """The image, placed as a NIfTI file of that affine would be, and its geometry in ITK's terms."""
    import SimpleITK

    require_content(file)
    voxels = stored(file)
    with told(file, "NRRD" if FORMATS[file.suffix.lower()].startswith("Nrrd") else "MetaImage"):
        reader = SimpleITK.ImageFileReader()
        reader.SetFileName(str(file))
        reader.SetImageIO(FORMATS[file.suffix.lower()])
        reader.ReadImageInformation()
        _require_voxels(reader, voxels, file)
        _require_numbers(reader, file)
        image = reader.Execute()
    geometry = _geometry(image)
    data: Array = SimpleITK.GetArrayFromImage(image)
    data = data.astype(plain_dtype(data.dtype), copy=False)
    channels = image.GetNumberOfComponentsPerPixel()
    data = data[..., None] if channels == 1 else data
    if image.GetDimension() == 4:
        data = np.moveaxis(data[..., 0], 0, -1)
    flat = image.GetDimension() == 2
    data = data[None] if flat else data
    return placed(data.transpose(2, 1, 0, 3), affine_of(geometry), file, flat), geometry


def placed(data: Array, affine: NDArray[np.float64], file: Path, flat: bool = False) -> Image:
    """Voxels (x, y, z, C) at a RAS affine in mm, with the placement of a NIfTI file.

    Raises: BadData that names the file where the axes have no length or lie in one plane.
    """
    import nibabel as nib

    sizes = np.linalg.norm(affine[:3, :3], axis=0)
    if sizes.min() <= 0 or abs(np.linalg.det(affine[:3, :3] / sizes)) < 1e-6:
        text = ", ".join(f"{size:g}" for size in sizes)
        raise BadData(f"its axes span no space (spacing {text})", where=str(file), remedy="mend its header")
    header = nib.Nifti1Header()
    header.set_data_shape(data.shape[: 2 if flat else 3])
    header.set_xyzt_units("mm")
    header.set_sform(affine, 1)
    sheared = not _is_orthogonal(affine)
    header.set_qform(affine, 0 if sheared else 1, strip_shears=True)
    header["pixdim"][1 : header["dim"][0] + 1] = np.linalg.norm(affine[:3, : header["dim"][0]], axis=0)
    return _to_memory(data, affine, header, nib.Nifti1Image)


def _is_orthogonal(affine: NDArray[np.float64]) -> bool:
    axes = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    return bool(np.abs(axes.T @ axes - np.eye(3)).max() < 1e-4)


def _geometry(image: Any) -> dict[str, Any]:
    """Spacing, origin and direction of the axes in space, as ITK says them."""
    dims = image.GetDimension()
    space = min(dims, 3)
    direction = np.array(image.GetDirection()).reshape(dims, dims)[:space, :space]
    return {
        "spacing": image.GetSpacing()[:space],
        "origin": image.GetOrigin()[:space],
        "direction": tuple(float(number) for number in direction.ravel()),
    }


def affine_of(geometry: Mapping[str, Any]) -> NDArray[np.float64]:
    """The matrix from indices (x, y, z) to RAS mm. A plane lies in space, its normal along the third axis."""
    space = len(geometry["spacing"])
    affine = np.eye(4)
    affine[:space, :space] = np.array(geometry["direction"]).reshape(space, space) * np.array(geometry["spacing"])
    affine[:space, 3] = geometry["origin"]
    return LPS @ affine


@contextmanager
def told(file: Path, what: str) -> Iterator[None]:
    """What SimpleITK raises on damaged files, as BadData; what it would write to stderr beside it is not for users."""
    import SimpleITK

    before = SimpleITK.ProcessObject.GetGlobalWarningDisplay()
    SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        yield
    except (RuntimeError, ValueError, OverflowError, MemoryError) as problem:
        raise BadData(f"cannot be read as {what}: {_sentence(problem)}", where=str(file), remedy=AGAIN) from problem
    finally:
        SimpleITK.ProcessObject.SetGlobalWarningDisplay(before)


def _sentence(problem: BaseException) -> str:
    """The end of ITK's message, without the place in its own source that it begins with."""
    text = str(problem) or type(problem).__name__
    return " ".join(text.rpartition("ERROR:")[2].rpartition("): ")[2].split())[-200:]


def _require_numbers(reader: Any, file: Path) -> None:
    """Raises: BadData for a geometry of NaN or inf, which ITK takes as it comes."""
    numbers = (*reader.GetSpacing(), *reader.GetOrigin(), *reader.GetDirection())
    if not all(math.isfinite(number) for number in numbers):
        raise BadData("the geometry holds NaN or inf", where=str(file), remedy="mend its header")
    if min(reader.GetSpacing()) <= 0:
        sizes = ", ".join(f"{size:g}" for size in reader.GetSpacing())
        raise BadData(f"spacing {sizes}", where=str(file), expected="spacing above 0", remedy="mend its header")


def _require_voxels(reader: Any, voxels: Stored, file: Path) -> None:
    """Raises: BadData for axes, numbers or a length that no image here has."""
    import SimpleITK

    size, channels = reader.GetSize(), reader.GetNumberOfComponents()
    kind = SimpleITK.GetPixelIDValueAsString(reader.GetPixelID())
    if not 2 <= len(size) <= 4 or (len(size) == 4 and channels > 1):
        expected = "x, y, z and at most one axis of channels"
        raise BadData(f"{len(size)}-dimensional, of shape {size}", where=str(file), expected=expected)
    if "complex" in kind or "-bit" not in kind:
        raise BadData(f"holds {kind}", where=str(file), expected="one real number per voxel and channel")
    if not all(size):
        raise BadData(f"shape {size} has no voxels", where=str(file), remedy=AGAIN)
    bits = int(kind.partition("-bit")[0].split()[-1])
    voxels.require(math.prod(size) * channels * bits // 8, file)
