"""Boxes: cutting out a part of an array, putting it back, padding and taking the padding off."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from autoseg.image import Mask

D = TypeVar("D", bound=np.generic)
Box = tuple[slice, ...]  # one slice(start, stop) per spatial axis; it acts on an array's trailing axes


def whole(shape: Sequence[int]) -> Box:
    """The box that holds everything of that shape."""
    return tuple(slice(0, size) for size in shape)


def bounding_box(mask: Mask) -> Box:
    """The smallest box that holds every True voxel of `mask` (*S); the whole array when there is none."""
    box = []
    for axis in range(mask.ndim):
        others = tuple(other for other in range(mask.ndim) if other != axis)
        hits = np.flatnonzero(mask.any(axis=others))
        if not hits.size:
            return whole(mask.shape)
        box.append(slice(int(hits[0]), int(hits[-1]) + 1))
    return tuple(box)


def nonzero_box(array: NDArray[Any], valid: Mask | None = None) -> Box:
    """The smallest box around the voxels that are valid and not zero in every channel.

    Args:
        array: (C, *S), any dtype.
        valid: (*S); None when every voxel is valid.

    Returns: a box of the spatial axes; the whole image when no voxel qualifies.
    """
    inside = np.zeros(array.shape[1:], dtype=bool)
    for channel in array:
        inside |= channel != 0
    if valid is not None:
        inside &= valid
    return bounding_box(inside)


def crop(array: NDArray[D], box: Box) -> NDArray[D]:
    """The part of `array` in `box`, which acts on the trailing axes. A view, not a copy."""
    part: NDArray[D] = array[_index(box)]
    return part


def uncrop(array: NDArray[D], box: Box, shape: Sequence[int], fill: float) -> NDArray[D]:
    """An array of spatial `shape` that is `array` inside `box` and `fill` elsewhere: `crop` undone.

    Args:
        array: (..., *size of box); leading axes and dtype are kept.
        box: where it was cut out.
        shape: sizes of the trailing axes before the cut.
        fill: a value of the array's dtype.

    Raises: ValueError when array, box and shape do not fit each other.
    """
    size = tuple(len(range(*part.indices(full))) for part, full in zip(box, shape, strict=True))
    leading = array.shape[: array.ndim - len(box)]
    if array.shape != leading + size:
        raise ValueError(f"an array of shape {array.shape} does not fill the box {box} of {tuple(shape)}")
    result = np.full(leading + tuple(shape), fill, dtype=array.dtype)
    result[_index(box)] = array
    return result


def pad_to(array: NDArray[D], shape: Sequence[int], fill: float) -> tuple[NDArray[D], Box]:
    """`array` centred in an array whose trailing axes are at least `shape`, and the box that cuts it back.

    An odd voxel of padding goes to the end. The array itself is returned when nothing is missing.
    """
    spatial = array.shape[array.ndim - len(shape) :]
    missing = [max(0, want - have) for want, have in zip(shape, spatial, strict=True)]
    box = tuple(slice(extra // 2, extra // 2 + have) for extra, have in zip(missing, spatial, strict=True))
    if not any(missing):
        return array, box
    full = tuple(have + extra for have, extra in zip(spatial, missing, strict=True))
    return uncrop(array, box, full, fill), box


def _index(box: Box) -> Any:
    return (Ellipsis, *box)
