"""Rotation, scaling, quarter turns and mirroring as one matrix per sample, applied by one `grid_sample`."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from autoseg.augment import Pair, between
from autoseg.image import IGNORE

Matrix = NDArray[np.float64]


class Affine:
    """Rotation by up to `degrees` per axis and scaling within `scale` (above 1: objects shrink).

    Each happens with its own probability (ranges of nnU-Net); `planar` turns only within the last two axes.
    """

    def __init__(
        self,
        dims: int,
        degrees: float = 30.0,
        scale: Sequence[float] = (0.7, 1.4),
        rotate: float = 0.2,
        resize: float = 0.2,
        planar: bool = False,
    ) -> None:
        self.dims, self.degrees, self.scale = dims, degrees, between("scale", scale, 0, math.inf)
        self.rotate, self.resize, self.planar = rotate, resize, planar

    def matrix(self, rng: np.random.Generator, patch: Sequence[int]) -> Matrix:
        """A rotation times a scale; the identity in about (1 − rotate)(1 − resize) of the draws."""
        out = np.eye(self.dims)
        planes = [(1, 2), (0, 2), (0, 1)] if self.dims == 3 else [(0, 1)]
        angles = rng.uniform(-self.degrees, self.degrees, len(planes))
        low, high = self.scale
        factor = rng.uniform(low, 1) if rng.random() < 0.5 else rng.uniform(1, high)
        turned, resized = rng.random() < self.rotate, rng.random() < self.resize
        if turned:
            for (a, b), angle in list(zip(planes, np.deg2rad(angles), strict=True))[: 1 if self.planar else None]:
                turn = np.eye(self.dims)
                turn[[a, b, a, b], [a, b, b, a]] = [
                    math.cos(angle),
                    math.cos(angle),
                    -math.sin(angle),
                    math.sin(angle),
                ]
                out = turn @ out
        if resized:
            axes = range(1, 3) if self.planar and self.dims == 3 else range(self.dims)
            out = out @ np.diag([factor if axis in axes else 1.0 for axis in range(self.dims)])
        return out


class Turns:
    """Quarter turns in the plane of the last two axes; half turns only where the patch is not square."""

    def __init__(self, dims: int) -> None:
        self.dims = dims

    def matrix(self, rng: np.random.Generator, patch: Sequence[int]) -> Matrix:
        """A signed permutation of the last two axes."""
        quarters = int(rng.integers(4))
        if patch[-1] != patch[-2]:
            quarters -= quarters % 2
        out = np.eye(self.dims)
        turn = np.array([[0.0, -1.0], [1.0, 0.0]])
        out[-2:, -2:] = np.linalg.matrix_power(turn, quarters)
        return out


class Mirror:
    """Flips every axis of `axes` (all when None) with probability 1/2. Prediction averages over the same flips.

    A flip along `swap_axis` exchanges the two class indices of each pair of `swap`: left and right.
    """

    def __init__(
        self,
        dims: int,
        axes: Sequence[int] | None = None,
        swap: Sequence[Sequence[int]] = (),
        swap_axis: int | None = None,
    ) -> None:
        self.axes = tuple(range(dims)) if axes is None else tuple(axes)
        self.dims = dims
        if bad := [axis for axis in self.axes if not 0 <= axis < dims]:
            raise ValueError(f"axes {bad} are not among the {dims} axes of the patch")
        if bool(swap) != (swap_axis is not None):
            raise ValueError("swap, pairs of classes, and swap_axis, the axis that exchanges them, go together")
        if swap_axis is not None and swap_axis not in self.axes:
            raise ValueError(f"swap_axis {swap_axis} is not among the mirrored axes {list(self.axes)}")
        self.swap, self.swap_axis = pairs(swap), swap_axis

    def matrix(self, rng: np.random.Generator, patch: Sequence[int]) -> Matrix:
        """A diagonal of 1 and −1."""
        flips = rng.random(self.dims) < 0.5
        return np.diag([-1.0 if flips[axis] and axis in self.axes else 1.0 for axis in range(self.dims)])

    def exchanged(self, matrix: Matrix) -> Sequence[Pair]:
        """The pairs, where the matrix flips their axis."""
        return self.swap if self.swap_axis is not None and matrix[self.swap_axis, self.swap_axis] < 0 else ()


def pairs(swap: Sequence[Sequence[int]]) -> tuple[Pair, ...]:
    """Raises: ValueError unless these are pairs of class indices and no class stands in two of them."""
    flat = [index for pair in swap for index in pair]
    if any(len(pair) != 2 for pair in swap) or len(set(flat)) < len(flat):
        raise ValueError(f"swap is {[list(pair) for pair in swap]}, not pairs of classes of which none occurs twice")
    if bad := [index for index in flat if not 0 <= index < IGNORE]:
        raise ValueError(f"swap names {bad}, which no class can have as its index")
    return tuple((first, second) for first, second in swap)


def exchange(label: Tensor, pair: Pair) -> Tensor:
    """The label with the two class indices in each other's place."""
    first, second = (label == index for index in pair)
    return label.masked_fill(first, pair[1]).masked_fill(second, pair[0])


def is_exact(matrix: Matrix) -> bool:
    """Whether the matrix only permutes and flips axes, so that no value needs interpolation."""
    size = np.abs(matrix)
    return bool(np.all((size == 0) | (size == 1)) and np.all(size.sum(0) == 1) and np.all(size.sum(1) == 1))


def source_shape(matrix: Matrix, patch: Sequence[int], reach: Sequence[float] | None = None) -> tuple[int, ...]:
    """Size of the box around the patch's centre that holds every voxel the matrix reaches.

    Args:
        reach: how far a field moves voxels along each patch axis before the matrix does; None for no field.
    """
    wide = np.asarray(patch, float) if reach is None else np.add(patch, 2 * np.asarray(reach))
    edges = np.abs(matrix) @ wide
    if reach is None and is_exact(matrix):
        return tuple(round(float(size)) for size in edges)
    # one voxel on either side for interpolation; the parity of the patch keeps the centres together
    whole = [math.ceil(size) + 2 for size in edges]
    return tuple(edge + (edge - p) % 2 for edge, p in zip(whole, patch, strict=True))


def rearrange(array: NDArray[Any], matrix: Matrix) -> NDArray[Any]:
    """Applies an exact matrix to the trailing axes of an array whose shape is `source_shape`'s."""
    dims = len(matrix)
    lead = array.ndim - dims
    order = np.abs(matrix).argmax(0)  # output axis j is source axis order[j]
    flipped = np.flip(array, tuple(lead + i for i in range(dims) if matrix[i].sum() < 0))
    return np.transpose(flipped, [*range(lead), *(lead + order)])


def warp(
    images: Tensor,
    labels: Tensor,
    sizes: Sequence[Sequence[int]],
    matrices: Sequence[Matrix],
    patch: Sequence[int],
    fill: int,
    fields: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Samples every source along its matrix into a patch: linear for images, nearest for labels.

    Args:
        images: (n, C, *M), every source in the leading corner of a common shape M, zeros behind it.
        labels: (n, *M).
        sizes: the shape of each source within M.
        fill: label of what lies outside a source; images get 0.
        fields: (n, *patch, dims), voxels by which every place of the patch is moved before its matrix; None for none.
    Returns: images (n, C, *patch) and labels (n, *patch).
    """
    dims = len(patch)
    axes = [torch.arange(size, dtype=torch.float32, device=images.device) - (size - 1) / 2 for size in patch]
    offsets = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)  # (*patch, dims)
    turns = torch.as_tensor(np.stack(matrices), dtype=torch.float32, device=images.device)
    shape = (len(matrices), *(1,) * dims, dims)
    extent = torch.as_tensor(sizes, dtype=torch.float32, device=images.device)
    positions = torch.einsum("nij,...j->n...i", turns, offsets) + ((extent - 1) / 2).reshape(shape)
    if fields is not None:
        positions = positions + torch.einsum("nij,n...j->n...i", turns, fields)
    common = torch.tensor(images.shape[2:], dtype=torch.float32, device=images.device)
    grid = ((2 * positions + 1) / common - 1).flip(-1)  # grid_sample wants x first, in −1..1 of voxel borders
    moved = F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    # labels are shifted by one so that the zeros outside can be told from class 0
    shifted = F.grid_sample(
        (labels[:, None] + 1).float(), grid, mode="nearest", padding_mode="zeros", align_corners=False
    )[:, 0].round()
    outside = shifted == 0
    return moved, torch.where(outside, fill, shifted - 1).to(labels.dtype)
