"""Whether a label lies where its image shows the borders that it draws."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.boxes import Box, bounding_box, crop
from autoseg.image import Mask

REACH = 8  # voxels that a label is moved at most
EDGE = {2: 1024, 3: 128}  # of the part that is looked at
LEAST = 16  # border voxels without which nothing can be said


class Shift(NamedTuple):
    """Where the borders of a label fit best.

    Attributes:
        voxels: the way from where they are to there, one whole number per axis.
        gain: how much better they fit there, in standard deviations of the fit over all shifts; at least 0.
    """

    voxels: tuple[int, ...]
    gain: float


def borders(label: NDArray[Any]) -> Mask:
    """The voxels of a label (*S) that have a neighbour of another value along an axis."""
    found = np.zeros(label.shape, bool)
    for axis in range(label.ndim):
        before, after = _neighbours(label.ndim, axis)
        differ = label[before] != label[after]
        found[before] |= differ
        found[after] |= differ
    return found


def best_shift(image: NDArray[Any], border: Mask, valid: Mask | None = None, reach: int = REACH) -> Shift | None:
    """How far a label has to be moved for its borders to lie on the strongest edges of the image.

    The fit of a shift is the mean strength of the image's edges (sum of the absolute differences to the neighbours, cut
    at the 95th percentile) under the moved border; all whole shifts are tried at once by Fourier transform. Axes too
    short to move along stay, and so do border voxels within reach of the image's edge.

    Args:
        image: (C, y, x) or (C, z, y, x); the mean of its channels is looked at.
        border: (*S), as `borders` gives it.
        valid: (*S), where the image is finite; None when it is everywhere.
        reach: voxels to move at most.

    Returns: None where there are too few borders or no edges, and where the best shift is as far as was looked.
    """
    box = _around(border)
    border = crop(border, box)
    reaches = [min(reach, (size - 1) // 4) for size in border.shape]
    inner = tuple(slice(far, size - far) for far, size in zip(reaches, border.shape, strict=True))
    moved = np.zeros(border.shape, np.float32)
    moved[inner] = border[inner]
    number = float(moved.sum())
    if number < LEAST or not any(reaches):
        return None
    edges = _edges(_mean(crop(image, box), None if valid is None else crop(valid, box)))
    fit = _correlation(edges, moved, reaches) / number
    at = np.unravel_index(int(fit.argmax()), fit.shape)
    spread = float(fit.std())
    if spread < 1e-6 or any(far and place in (0, 2 * far) for place, far in zip(at, reaches, strict=True)):
        return None
    here = fit[tuple(reaches)]
    voxels = tuple(int(place) - far for place, far in zip(at, reaches, strict=True))
    return Shift(voxels, float((fit[at] - here) / spread))


def _correlation(edges: NDArray[np.float32], moved: NDArray[np.float32], reaches: list[int]) -> NDArray[np.float32]:
    """Sum of the edges under the border for every shift: (2 r + 1 per axis), the shift of nothing in the middle."""
    from scipy import fft

    size = [fft.next_fast_len(length, real=True) for length in edges.shape]
    product = fft.rfftn(edges, size) * np.conj(fft.rfftn(moved, size))
    sums = fft.irfftn(product, size)
    for axis, far in enumerate(reaches):
        sums = np.take(sums, range(-far, far + 1), axis=axis, mode="wrap")
    result: NDArray[np.float32] = sums
    return result


def _mean(image: NDArray[Any], valid: Mask | None) -> NDArray[np.float32]:
    """The mean of the channels, of magnitudes up to 1; 0 where it is not valid."""
    mean: NDArray[np.float32] = image[0] if len(image) == 1 else image.mean(axis=0, dtype=np.float64)
    if valid is not None:
        mean = np.where(valid, mean, 0)
    return (mean / (float(np.abs(mean).max()) or 1.0)).astype(np.float32)


def _edges(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """Strength of the edges of an image, 0 to 1."""
    edges = np.zeros(image.shape, np.float32)
    for axis in range(image.ndim):
        before, after = _neighbours(image.ndim, axis)
        difference = np.abs(image[after] - image[before])
        edges[before] += difference
        edges[after] += difference
    strong = float(np.percentile(edges.ravel()[:: 1 + edges.size // 10_000], 95)) or float(edges.max())
    return np.minimum(edges / strong, 1) if strong else edges


def _around(border: Mask) -> Box:
    """The part to look at: the border with the reach around it, around its middle voxel where that is too large."""
    box, limit = [], EDGE[border.ndim]
    at = np.argwhere(border)
    middle = at[len(at) // 2] if len(at) else np.zeros(border.ndim, int)
    for tight, centre, size in zip(bounding_box(border), middle, border.shape, strict=True):
        low, high = max(0, tight.start - 2 * REACH), min(size, tight.stop + 2 * REACH)
        if high - low > limit:
            low = int(min(max(low, centre - limit // 2), high - limit))
            high = low + limit
        box.append(slice(low, high))
    return tuple(box)


def _neighbours(dims: int, axis: int) -> tuple[Any, Any]:
    """Two indices that set every voxel beside its next one along an axis."""
    before: list[slice] = [slice(None)] * dims
    after = [*before]
    before[axis], after[axis] = slice(None, -1), slice(1, None)
    return tuple(before), tuple(after)
