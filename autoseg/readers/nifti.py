"""NIfTI-1 and NIfTI-2 volumes (.nii, .nii.gz) of any orientation."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import BadData, RunFailed
from autoseg.image import Array, Image
from autoseg.readers.checks import finite, join, label_for_file, plain_dtype, require_content
from autoseg.readers.geometry import offset

MILLIMETRES = {1: 1e3, 3: 1e-3}  # by the code of xyzt_units: metres, microns; all others are mm
GZIP_RATIO = 1040  # deflate cannot shrink data further than this
SHIFT = 0.1  # voxels by which the channels of one case may lie apart
GEOMETRY = (
    *("qform_code", "sform_code", "quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y"),
    *("qoffset_z", "srow_x", "srow_y", "srow_z", "xyzt_units"),
)
AGAIN = "copy it again from its source"


class Nifti:
    """Reads NIfTI files into RAS-like arrays and writes labels back onto the file's own grid."""

    endings: tuple[str, ...] = (".nii.gz", ".nii")

    def read(self, files: Sequence[Path]) -> Image:
        """The channels of all files: array (C, z, y, x), spacing (z, y, x) in mm.

        A fourth axis of a file holds channels; a file of two axes is one slice (z = 1). Whole numbers keep
        their dtype; floats and files with a scl_slope are float32; mixed files are promoted.

        Raises: BadData for what is not a readable NIfTI image, and for files on different grids.
        """
        images = [_read(file) for file in files]
        for file, image in zip(files[1:], images[1:], strict=True):
            _require_same_grid(files[0], images[0], file, image)
        array = join([image.array for image in images])
        return Image(array, images[0].spacing, finite(array), images[0].placement)

    def read_label(self, file: Path) -> Image:
        """A label: array (1, z, y, x) with the values and the dtype of the file (float64 as float32).

        Raises: BadData as `read`, and for a label with several channels.
        """
        image = _read(file)
        if image.channels != 1:
            raise BadData(f"a label with {image.channels} channels", where=str(file), expected="one channel")
        return Image(image.array, image.spacing, finite(image.array), image.placement)

    def write_label(self, file: Path, label: Array, like: Image) -> None:
        """Writes a label (z, y, x) with the shape, axes, affine, form codes and units of `like`'s file.

        The dtype is the first of uint8, uint16, int16 and int32 that holds the values.

        Raises: BadData for a label that does not fit; RunFailed when the file cannot be written.
        """
        import nibabel as nib

        label = label_for_file(label, file, like, (np.uint8, np.uint16, np.int16, np.int32))
        placement = like.placement
        array = _from_memory(label, placement)
        kind = nib.Nifti2Image if placement["version"] == 2 else nib.Nifti1Image
        header = kind.header_class()
        header.set_data_dtype(array.dtype)
        header.set_data_shape(array.shape)
        for name, value in cast(Mapping[str, Any], placement["header"]).items():
            header[name] = value
        header["pixdim"][:4] = placement["pixdim"]
        header.set_slope_inter(1, 0)
        try:
            nib.save(kind(array, None, header), file)
        except OSError as problem:
            raise RunFailed(
                f"could not be written: {problem}", where=str(file), remedy="check the free disk space"
            ) from problem

    def label_ending(self, image_ending: str) -> str:
        """The same ending: .nii.gz or .nii."""
        return image_ending


def _read(file: Path) -> Image:
    require_content(file)
    with _told(file), _quiet(), _stream(file) as stream:
        kind = _kind(stream, file)
        _check_header(kind, stream, file)
        stream.seek(0)
        image = kind.from_stream(stream)
        shape = _require_shape(image.shape, file)
        affine = _require_affine(image.affine, len(shape), file)
        data = _values(image)
        while stream.read(1 << 20):  # to the end, where gzip compares its checksum
            pass
    return _to_memory(data.reshape(shape), affine, image.header, kind)


@contextmanager
def _told(file: Path) -> Iterator[None]:
    """What nibabel, gzip and numpy raise on damaged files, as BadData."""
    from nibabel.filebasedimages import ImageFileError
    from nibabel.spatialimages import HeaderDataError, HeaderTypeError
    from nibabel.wrapstruct import WrapStructError

    known = (OSError, EOFError, zlib.error, ValueError, OverflowError, TypeError, MemoryError)
    try:
        yield
    except (*known, ImageFileError, HeaderDataError, HeaderTypeError, WrapStructError) as problem:
        reason = str(problem) or type(problem).__name__
        raise BadData(f"cannot be read as NIfTI: {reason}", where=str(file), remedy=AGAIN) from problem


@contextmanager
def _quiet() -> Iterator[None]:
    """nibabel writes to stderr what it mends in a header (negative spacing, offset): not for users."""
    from nibabel.imageglobals import logger

    before, logger.disabled = logger.disabled, True
    try:
        yield
    finally:
        logger.disabled = before


def _stream(file: Path) -> IO[bytes]:
    return cast(IO[bytes], gzip.open(file)) if file.name.lower().endswith(".gz") else file.open("rb")


def _kind(stream: IO[bytes], file: Path) -> Any:
    """The nibabel class for the file: told by the size of the header that its first four bytes spell."""
    import nibabel as nib

    start = stream.read(4)
    stream.seek(0)
    for size, kind in ((348, nib.Nifti1Image), (540, nib.Nifti2Image)):
        if start in (size.to_bytes(4, "little"), size.to_bytes(4, "big")):
            return kind
    raise BadData("this is no NIfTI file", where=str(file), expected="NIfTI-1 or NIfTI-2", remedy=AGAIN)


def _check_header(kind: Any, stream: IO[bytes], file: Path) -> None:
    """Refuses what nibabel would mend in silence (spacing 0) or find out late (dtype, missing bytes)."""
    header = kind.header_class.from_fileobj(stream, check=False)
    if not bytes(header["magic"]).startswith((b"n+1", b"n+2")):
        raise BadData("this is no single-file NIfTI", where=str(file), remedy="convert it to .nii.gz")
    try:
        dtype = header.get_data_dtype()
    except KeyError:
        code = int(header["datatype"])
        raise BadData(f"unknown data type {code}", where=str(file), remedy=AGAIN) from None
    if dtype.names or dtype.kind not in "iuf":
        what = "colours (RGB)" if dtype.names else f"{dtype.name} numbers"
        raise BadData(f"holds {what}", where=str(file), expected="one real number per voxel and channel")
    shape = _require_shape(header.get_data_shape(), file)
    pixdim = np.abs(header["pixdim"][1 : min(len(shape), 3) + 1])
    if not header["sform_code"] > 0 and not (np.isfinite(pixdim) & (pixdim > 0)).all():
        sizes = ", ".join(f"{size:g}" for size in pixdim)
        raise BadData(f"spacing {sizes}", where=str(file), expected="spacing above 0", remedy="mend its header")
    promised = int(np.prod(shape, dtype=object)) * dtype.itemsize + int(header["vox_offset"])
    held = file.stat().st_size * (GZIP_RATIO if file.name.lower().endswith(".gz") else 1)
    if promised > held:
        raise BadData(f"cut short: {promised} bytes promised, {held} held", where=str(file), remedy=AGAIN)


def _require_shape(shape: tuple[int, ...], file: Path) -> tuple[int, ...]:
    """Size along (x, y[, z[, channel]]) without trailing axes of size 1 above the fourth."""
    while len(shape) > 4 and shape[-1] == 1:
        shape = shape[:-1]
    if not 2 <= len(shape) <= 4:
        raise BadData(
            f"{len(shape)}-dimensional, of shape {shape}",
            where=str(file),
            expected="x, y, z and at most one axis of channels",
            remedy="save the channels along the fourth axis or as one file each",
        )
    if min(shape) < 1:
        raise BadData(f"shape {shape} has no voxels", where=str(file), remedy=AGAIN)
    return tuple(int(size) for size in shape)


def _require_affine(affine: Any, dims: int, file: Path) -> NDArray[np.float64]:
    """The affine as it is. Of a flat file only the two axes that exist must have a size."""
    matrix = np.array(affine, dtype=np.float64)
    if dims == 2 and not matrix[:3, 2].any():
        matrix[:3, 2] = np.cross(matrix[:3, 0], matrix[:3, 1])
        matrix[:3, 2] /= np.linalg.norm(matrix[:3, 2]) or 1.0
    remedy = "mend its header (qform or sform)"
    if not np.isfinite(matrix).all():
        raise BadData("the affine holds NaN or inf", where=str(file), remedy=remedy)
    sizes = np.linalg.norm(matrix[:3, :3], axis=0)
    if sizes.min() <= 0 or abs(np.linalg.det(matrix[:3, :3] / sizes)) < 1e-6:
        text = ", ".join(f"{size:g}" for size in sizes)
        raise BadData(f"the affine is degenerate (spacing {text})", where=str(file), remedy=remedy)
    return matrix


def _values(image: Any) -> Array:
    """The voxels as the header means them: scaled ones as float32, others in their own dtype."""
    raw: Array = np.asarray(image.dataobj.get_unscaled())
    slope, inter = image.dataobj.slope, image.dataobj.inter
    with np.errstate(over="ignore", invalid="ignore"):
        if (slope, inter) != (1, 0):
            raw = raw.astype(np.float64) * slope + inter
        values: Array = raw.astype(plain_dtype(raw.dtype), copy=False)
    return values


def _to_memory(data: Array, affine: NDArray[np.float64], header: Any, kind: Any) -> Image:
    """(x, y[, z[, C]]) of any orientation as (C, z, y, x) along the nearest RAS axes."""
    from nibabel.orientations import inv_ornt_aff, io_orientation

    size = (*data.shape[:3], 1)[:3]
    data = data.reshape(*size, -1)
    turn = io_orientation(affine)
    order = tuple(int(axis) for axis in np.argsort(turn[:, 0]))
    flips = tuple(axis for axis in range(3) if turn[order[axis], 1] < 0)
    ras = affine @ inv_ornt_aff(turn, size)
    ras[:3] *= MILLIMETRES.get(int(header["xyzt_units"]) & 7, 1.0)
    spacing = tuple(float(length) for length in np.linalg.norm(ras[:3, :3], axis=0)[::-1])
    array = np.flip(data.transpose(*order, 3), flips).transpose(3, 2, 1, 0)
    placement = {
        "kind": "nifti",
        "version": 2 if kind.header_class.sizeof_hdr == 540 else 1,
        "affine": affine,
        "ras": ras,
        "shape": size,
        "flat": header["dim"][0] == 2,
        "order": order,
        "flips": flips,
        "header": {name: np.array(header[name]) for name in GEOMETRY},
        "pixdim": np.array(header["pixdim"][:4]),
    }
    return Image(np.ascontiguousarray(array), spacing, None, placement)


def _from_memory(label: Array, placement: Mapping[str, Any]) -> Array:
    """(z, y, x) along RAS axes as the file's own (x, y[, z])."""
    array: Array = np.flip(label.transpose(2, 1, 0), placement["flips"])
    array = array.transpose(np.argsort(placement["order"]))
    return array[..., 0] if placement["flat"] else array


def _require_same_grid(first: Path, one: Image, file: Path, other: Image) -> None:
    away = offset(one, other) if one.shape == other.shape else None
    if away is not None and away.voxels <= SHIFT:
        return
    if away is None:
        difference = f"shape {other.shape}, but {first} has {one.shape}"
    else:
        difference = f"lies {away.length:.3g} mm ({away.voxels:.2g} voxels) away from {first}"
    raise BadData(difference, where=str(file), expected="one grid", remedy="resample one onto the other")
