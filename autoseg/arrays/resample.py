"""Resampling to another shape: images by splines or linearly, labels and logits class by class.

Voxels are areas: voxel i of n covers [i, i + 1] / n of the field of view, before and after
(`align_corners=False` in torch, `grid_mode=True` in scipy). Nothing is smoothed before it is made coarser.
Arrays must be finite: one NaN or inf would spread along the axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.arrays.splines import spline
from autoseg.image import IGNORE

if TYPE_CHECKING:
    from torch import Tensor

Shape3 = tuple[int, ...]
Floats = NDArray[np.float32]
Labels = NDArray[np.uint8]


# -- images --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spline:
    """Resampler by interpolating cubic B-splines: the result of `scipy.ndimage.zoom` of order 3.

    Equal to `zoom(grid_mode=True, mode="nearest")`, edges included, to the precision of float32, for
    sides of any length. Each axis is a product with a banded matrix (Unser, IEEE SPM 16(6), 1999).

    Args:
        anisotropy: spacings that differ by more than this factor call for `coarse`: see `coarse_axis`.
            None: no axis is ever treated apart.
    """

    anisotropy: float | None = 3.0

    def __post_init__(self) -> None:
        _check_anisotropy(self.anisotropy)

    def __call__(self, array: Floats, shape: Sequence[int], *, coarse: int | None = None) -> Floats:
        """`array` (C, z, y, x) as float32 (C, *shape); `coarse` is the axis that takes nearest neighbours."""
        return _each_channel(array, shape, coarse, spline)


@dataclass(frozen=True)
class Keep:
    """Resampler that leaves the array as it is: its shape must be the one asked for already."""

    anisotropy: float | None = None

    def __call__(self, array: Floats, shape: Sequence[int], *, coarse: int | None = None) -> Floats:
        """`array` (C, z, y, x) itself. Raises: ValueError when `shape` is another."""
        if tuple(array.shape[1:]) != tuple(shape):
            raise ValueError(f"shape {array.shape[1:]} is not {tuple(shape)}, and nothing may be resampled")
        return array


@dataclass(frozen=True)
class Linear:
    """Resampler by trilinear interpolation: `torch.nn.functional.interpolate(mode="trilinear")`.

    Args:
        anisotropy: as in `Spline`.
    """

    anisotropy: float | None = None

    def __post_init__(self) -> None:
        _check_anisotropy(self.anisotropy)

    def __call__(self, array: Floats, shape: Sequence[int], *, coarse: int | None = None) -> Floats:
        """`array` (C, z, y, x) as float32 (C, *shape); `coarse` is the axis that takes nearest neighbours."""
        return _each_channel(array, shape, coarse, _trilinear)


def coarse_axis(old: Sequence[float], new: Sequence[float], anisotropy: float | None) -> int | None:
    """The axis (0 to 2) along which interpolation would invent structure, or None.

    It is the only coarsest axis of the old spacing, when that is more than `anisotropy` times the finest;
    else the same of the new spacing (the rule of nnU-Net, Isensee et al., Nature Methods 2021).

    Args:
        old, new: spacings (z, y, x) before and after.
        anisotropy: None: never.
    """
    if anisotropy is None:
        return None
    for spacing in (old, new):
        if max(spacing) > anisotropy * min(spacing):
            coarsest = [axis for axis, size in enumerate(spacing) if math.isclose(size, max(spacing))]
            return coarsest[0] if len(coarsest) == 1 else None
    return None


def _check_anisotropy(anisotropy: float | None) -> None:
    if anisotropy is not None and not anisotropy >= 1:
        raise ValueError(f"anisotropy {anisotropy} is not at least 1")


def _each_channel(
    array: Floats, shape: Sequence[int], coarse: int | None, smooth: Callable[[Tensor, Shape3], Tensor]
) -> Floats:
    if array.ndim != 4:
        raise ValueError(f"an array of shape {array.shape} is not (C, z, y, x)")
    size = _checked(array.shape[1:], shape, coarse)
    if size == array.shape[1:]:
        return np.array(array, dtype=np.float32)
    result = np.empty((array.shape[0], *size), dtype=np.float32)
    for channel, place in zip(array, result, strict=True):
        place[:] = _volume(_tensor(channel), size, coarse, smooth).numpy()
    return result


def _checked(old: Sequence[int], new: Sequence[int], coarse: int | None) -> Shape3:
    size = tuple(int(n) for n in new)
    if len(old) != 3 or len(size) != 3 or min(*old, *size) < 1:
        raise ValueError(f"cannot resample {tuple(old)} to {size}: want three axes of at least one voxel")
    if coarse not in (None, 0, 1, 2):
        raise ValueError(f"coarse axis {coarse} is not one of 0, 1, 2")
    return size


def _tensor(array: NDArray[Any]) -> Tensor:
    """A float32 tensor that may share the array's memory; copied when that is read-only."""
    import torch

    return torch.from_numpy(np.require(array, dtype=np.float32, requirements=["C", "W"]))


def _volume(volume: Tensor, size: Shape3, coarse: int | None, smooth: Callable[[Tensor, Shape3], Tensor]) -> Tensor:
    if coarse is None:
        return smooth(volume, size)
    if size[coarse] < volume.shape[coarse]:  # the cheaper order; the results are the same
        return smooth(_nearest(volume, coarse, size[coarse]), size)
    between = tuple(volume.shape[axis] if axis == coarse else n for axis, n in enumerate(size))
    return _nearest(smooth(volume, between), coarse, size[coarse])


def _nearest(volume: Tensor, axis: int, m: int) -> Tensor:
    import torch

    index = torch.from_numpy(_nearest_index(volume.shape[axis], np.arange(m), m))
    return volume.index_select(axis, index.to(volume.device))


def _nearest_index(n: int, rows: NDArray[np.int64], m: int) -> NDArray[np.int64]:
    """Where the centres of voxels `rows` of m lie among n voxels; in integers, so that ties never waver."""
    return (2 * rows + 1) * n // (2 * m)


def _trilinear(volume: Tensor, size: Shape3) -> Tensor:
    import torch.nn.functional as F

    if tuple(volume.shape) == size:
        return volume
    return F.interpolate(volume[None, None], size=size, mode="trilinear", align_corners=False)[0, 0]


# -- labels and logits ---------------------------------------------------------------------------------


def resample_label(label: Labels, shape: Sequence[int], classes: int, coarse: int | None = None) -> Labels:
    """The class that covers most of each new voxel: trilinear per class, then the largest share.

    Ties go to the lower class; 255 (ignore) is one more class after all others. The values of the result
    are values of `label`. Each class costs the box it lies in; the lowest one costs nothing.

    Args:
        label: (z, y, x) class indices below `classes`, or 255.
        shape: (z, y, x) of the result.
        coarse: the axis along which the nearest slice is taken.

    Raises: ValueError for a value that is no class.
    """
    import torch

    size = _checked(label.shape, shape, coarse)
    values = np.flatnonzero(np.bincount(label.ravel(), minlength=256))
    if strange := [int(v) for v in values if v >= classes and v != IGNORE]:
        raise ValueError(f"label values {strange} are none of {classes} classes")
    if size == label.shape:
        return np.array(label)
    result = torch.full(size, int(values[0]), dtype=torch.uint8)
    best, rest = torch.zeros(size), torch.ones(size)
    boxes = ndimage.find_objects(label)
    for value in values[1:]:
        here, share = _share(label, int(value), boxes[value - 1], size, coarse)
        result[here].masked_fill_(share > best[here], int(value))
        torch.maximum(best[here], share, out=best[here])
        rest[here] -= share
    result.masked_fill_(rest >= best, int(values[0]))
    return _winners(result)


class _Taps(NamedTuple):
    """Output voxels `rows` of an axis mix the input voxels `near` and `far`, counted from `source.start`."""

    rows: slice
    source: slice
    near: NDArray[np.int64]
    far: NDArray[np.int64]
    weight: Floats


def _share(
    label: Labels, value: int, box: tuple[slice, ...], size: Shape3, coarse: int | None
) -> tuple[tuple[slice, ...], Tensor]:
    """The output box that `value` can reach from its box in `label`, and its share of each voxel there."""
    import torch

    taps = [
        _taps(n, m, part, axis == coarse) for axis, (n, m, part) in enumerate(zip(label.shape, size, box, strict=True))
    ]
    share = torch.from_numpy((label[tuple(tap.source for tap in taps)] == value).astype(np.float32))
    for axis, tap in enumerate(taps):
        near = share.index_select(axis, torch.from_numpy(tap.near))
        far = share.index_select(axis, torch.from_numpy(tap.far))
        view = [-1 if other == axis else 1 for other in range(3)]
        share = torch.lerp(near, far, torch.from_numpy(tap.weight).reshape(view))
    return tuple(tap.rows for tap in taps), share


def _taps(n: int, m: int, part: slice, nearest: bool) -> _Taps:
    first = max(0, math.floor((part.start - 0.5) * m / n - 0.5))
    last = min(m, math.ceil((part.stop + 0.5) * m / n - 0.5) + 1)
    rows = np.arange(first, last)
    position = np.clip((rows + 0.5) * (n / m) - 0.5, 0, n - 1)
    near = _nearest_index(n, rows, m) if nearest else position.astype(np.int64)
    far = near if nearest else np.minimum(near + 1, n - 1)
    weight = np.zeros(len(rows)) if nearest else position - near
    start, stop = int(near[0]), int(far[-1]) + 1
    source = slice(start, stop)
    return _Taps(slice(first, last), source, near - start, far - start, weight.astype(np.float32))


def resample_logits(logits: Tensor | NDArray[Any], shape: Sequence[int], coarse: int | None = None) -> Labels:
    """The class of the largest resampled logit: equal to resampling all classes, then the argmax.

    Only one resampled class and the best so far are held. Ties go to the lower class.

    Args:
        logits: (K, z, y, x), K in 1..255, float16 to float32; a tensor is resampled on its own device.
        shape: (z, y, x) of the result.
        coarse: the axis along which the nearest slice is taken.
    """
    import torch

    if logits.ndim != 4 or not 1 <= logits.shape[0] <= 255:
        raise ValueError(f"logits of shape {tuple(logits.shape)} are not (K, z, y, x) with 1 to 255 classes")
    size = _checked(logits.shape[1:], shape, coarse)
    best = _volume(_logit(logits, 0), size, coarse, _trilinear).clone()
    result = torch.zeros(size, dtype=torch.uint8, device=best.device)
    for k in range(1, logits.shape[0]):
        score = _volume(_logit(logits, k), size, coarse, _trilinear)
        result.masked_fill_(score > best, k)
        torch.maximum(best, score, out=best)
    return _winners(result)


def resample_regions(
    logits: Tensor | NDArray[Any], written: Sequence[int], shape: Sequence[int], coarse: int | None = None
) -> Labels:
    """The class `written[k]` where the resampled logit k is above 0, its sigmoid above one half; else class 0.

    Regions are written in order, the later over the earlier. Only one resampled region is held.

    Args:
        logits, shape, coarse: as in `resample_logits`; written: K class indices.
    """
    import torch

    if logits.ndim != 4 or logits.shape[0] != len(written):
        raise ValueError(f"logits of shape {tuple(logits.shape)} are not (K, z, y, x) of {len(written)} regions")
    size = _checked(logits.shape[1:], shape, coarse)
    result = torch.zeros(size, dtype=torch.uint8, device=_logit(logits, 0).device)
    for k, index in enumerate(written):
        result.masked_fill_(_volume(_logit(logits, k), size, coarse, _trilinear) > 0, index)
    return _winners(result)


def _winners(result: Tensor) -> Labels:
    classes: Labels = result.cpu().numpy()
    return classes


def _logit(logits: Tensor | NDArray[Any], k: int) -> Tensor:
    volume = logits[k]
    return _tensor(volume) if isinstance(volume, np.ndarray) else volume.detach().float()
