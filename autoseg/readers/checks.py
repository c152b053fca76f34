"""What all readers check of a file and of a label before they touch either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from autoseg.errors import BadData
from autoseg.image import Array, Image, Mask


def require_content(file: Path) -> None:
    """Raises: BadData when there is no such file or nothing is in it."""
    if not file.is_file():
        raise BadData("no such file", where=str(file), remedy="check the path")
    if file.stat().st_size == 0:
        raise BadData("the file is empty", where=str(file), remedy="copy it again from its source")


def plain_dtype(dtype: np.dtype[np.generic]) -> np.dtype[np.generic]:
    """`dtype` in the machine's byte order; floats other than float32 become float32."""
    return np.dtype(np.float32) if dtype.kind == "f" else dtype.newbyteorder("=")


def join(arrays: Sequence[Array]) -> Array:
    """The arrays along the first axis, in the smallest dtype that holds all of them (at most float32)."""
    if len(arrays) == 1:
        return arrays[0]
    dtype = plain_dtype(np.result_type(*arrays))
    return np.concatenate([array.astype(dtype, copy=False) for array in arrays])


def finite(array: Array) -> Mask | None:
    """Where all channels of (C, *S) are finite, bool (*S); None when they are everywhere."""
    if array.dtype.kind != "f":
        return None
    mask: Mask = np.logical_and.reduce(np.isfinite(array))
    return None if mask.all() else mask


def label_for_file(label: Array, file: Path, like: Image, dtypes: Sequence[DTypeLike]) -> Array:
    """The label (*S) in the first of `dtypes` that holds its values.

    Raises: BadData when it is not whole numbers, not of the image's shape, or does not fit any of them.
    """
    if label.dtype.kind not in "iub":
        raise BadData(f"a label of dtype {label.dtype} cannot be written", where=str(file), expected="integers")
    if label.shape != like.shape:
        raise BadData(f"a label of shape {label.shape}", where=str(file), expected=f"{like.shape}, the image's")
    low, high = int(label.min()), int(label.max())
    for dtype in dtypes:
        limits = np.iinfo(np.dtype(dtype))
        if limits.min <= low and high <= limits.max:
            return label.astype(dtype, copy=False)
    names = ", ".join(np.dtype(dtype).name for dtype in dtypes)
    raise BadData(f"label values from {low} to {high} do not fit", where=str(file), expected=f"values of {names}")
