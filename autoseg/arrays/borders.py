"""Measures of surfaces: how far two of them lie apart, how much of them agrees, how their skeletons and rims do."""

from __future__ import annotations

import math
import warnings

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from autoseg.arrays.pairs import Measure, Pair, zero
from autoseg.image import Mask

RIM = 0.02  # of the image's diagonal


def hausdorff(percentile: float = 100) -> Measure:
    """Percentile of the distances between two surfaces, the larger of both directions; 100 is Hausdorff's distance.

    Of voxels, not of area, with linear interpolation, as MONAI's. One side empty: the image's diagonal.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile is {percentile}: want above 0 and at most 100")

    def of(pair: Pair) -> float:
        return max(float(np.percentile(side, percentile)) for side in pair.distances)

    said = "largest" if percentile == 100 else f"{percentile:g}th percentile"
    return Measure(of, _diagonal, f"{said} of the distances of both surfaces", "lower", "spacing")


def hausdorff_95() -> Measure:
    """The 95th percentile of the distances between two surfaces: `hausdorff(percentile=95)`."""
    return hausdorff(95)


def surface_distance() -> Measure:
    """Average symmetric surface distance: the mean over the surface voxels of both. One side empty: the diagonal."""

    def of(pair: Pair) -> float:
        return float(np.concatenate(pair.distances).mean())

    return Measure(of, _diagonal, "mean distance of both surfaces", "lower", "spacing")


def normalised_surface_dice(voxel: float, tolerance: float | None = None) -> Measure:
    """Share of the voxels of both surfaces that lie within a tolerance of the other (Nikolov et al., 2021).

    Args:
        voxel: the longest side of a voxel of these cases: the tolerance where none is given.
        tolerance: in the unit of the spacing. What two experts differ by is a good one.
    """
    near = voxel if tolerance is None else tolerance
    _require_length(near, "tolerance")

    def of(pair: Pair) -> float:
        # 4 * 0.7 - 3 * 0.7 is more than 0.7 in floating point
        return float(np.mean(np.concatenate(pair.distances) <= near * (1 + 1e-6)))

    return Measure(of, zero, f"share of both surfaces within {near:g} of the other")


def surface_dice(voxel: float, tolerance: float | None = None) -> Measure:
    """`nsd` of areas in place of voxels, as the Medical Segmentation Decathlon does: MONAI's, ten times slower.

    Args: as of `nsd`.
    """
    near = voxel if tolerance is None else tolerance
    _require_length(near, "tolerance")

    def of(pair: Pair) -> float:
        import torch
        from monai.metrics import compute_surface_dice

        masks = (torch.from_numpy(np.pad(mask, 1))[None, None] for mask in (pair.prediction, pair.reference))
        spacing = list(pair.spacing)
        with warnings.catch_warnings():  # MONAI 1.6 calls itself in a way that it calls deprecated
            warnings.simplefilter("ignore", FutureWarning)
            return float(compute_surface_dice(*masks, [near], True, spacing=spacing, use_subvoxels=True))

    return Measure(of, zero, f"share of both surfaces' area within {near:g} of the other")


def boundary_iou(width: float | None = None) -> Measure:
    """IoU of the voxels within so many of a mask's edge (Cheng et al., 2021).

    Args:
        width: in voxels, along rows, columns and diagonals alike; 2 % of the image's diagonal by default, as there.
    """
    if width is not None and not width >= 1:
        raise ValueError(f"width is {width}: want 1 or more")

    def of(pair: Pair) -> float:
        wide = width if width is not None else max(1, round(RIM * math.hypot(*pair.shape)))
        ours, theirs = (_rim(mask, wide, pair) for mask in (pair.prediction, pair.reference))
        return float(np.count_nonzero(ours & theirs) / np.count_nonzero(ours | theirs))

    said = "2 % of the diagonal" if width is None else f"{width:g} voxels"
    return Measure(of, zero, f"IoU of the voxels within {said} of the edge")


def centreline_dice() -> Measure:
    """clDice: of the skeleton of either, how much lies in the other; their harmonic mean (Shit et al., 2021)."""

    def of(pair: Pair) -> float:
        precision = _within(pair.prediction, pair.reference)
        recall = _within(pair.reference, pair.prediction)
        return 2 * precision * recall / (precision + recall) if precision + recall else 0.0

    return Measure(of, zero, "Dice of centrelines: of each, how much lies in the other mask")


def _within(mask: Mask, other: Mask) -> float:
    """How much of a mask's skeleton lies in the other mask."""
    from skimage.morphology import skeletonize

    thin = [axis for axis, size in enumerate(mask.shape) if size == 1]
    flat = mask.ndim == 3 and len(thin) == 1  # one slice is a picture
    skeleton = skeletonize(mask.squeeze(thin[0]) if flat else mask).reshape(mask.shape)
    return float(np.count_nonzero(skeleton & other)) / max(1, int(np.count_nonzero(skeleton)))


def _rim(mask: Mask, width: float, pair: Pair) -> Mask:
    """The voxels of a mask at most so many from its edge; beyond the image nothing is in it."""
    around = [(int(axis in pair.axes),) * 2 for axis in range(mask.ndim)]
    deep: NDArray[np.int32] = ndimage.distance_transform_cdt(np.pad(mask, around), "chessboard")
    inner = tuple(slice(before, -before or None) for before, _ in around)
    rim: Mask = mask & (deep[inner] <= width)
    return rim


def _diagonal(pair: Pair) -> float:
    return pair.diagonal


def _require_length(value: float, name: str) -> None:
    if not (value >= 0 and math.isfinite(value)):
        raise ValueError(f"{name} is {value}: want a length of 0 or more")
