"""Elastic deformation: a cubic B-spline through few control points, which never folds the image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.augment import Drawn, between, probable
from autoseg.augment.spatial import Matrix

FOLD = 0.4  # of the distance of two control points: the bound below which a cubic B-spline stays injective in 3D


class Elastic:
    """Bends the patch: control points, `cells` of them per edge, move by up to `strength` of each edge.

    Random displacements on a coarse grid (Simard 2003; Ronneberger 2015), interpolated by a cubic B-spline
    (Rueckert 1999). Strength and cells are drawn within their ranges; a strength that could fold the image over
    itself (Choi and Lee 2000) is refused. `planar` moves every slice of a volume alike, within its plane.
    """

    def __init__(
        self,
        dims: int,
        probability: float = 0.2,
        strength: Sequence[float] = (0.0, 0.08),
        cells: Sequence[int] = (2, 5),
        planar: bool = False,
    ) -> None:
        self.dims, self.planar, self.probability = dims, planar and dims == 3, probable(probability)
        self.strength = between("strength", strength, 0, FOLD)
        least, most = between("cells", cells, 1, 32)
        self.cells = int(least), int(most)
        if self.strength[1] * most > FOLD + 1e-9:
            raise ValueError(
                f"a strength of {self.strength[1]} with {most} cells may fold the image over itself: "
                f"their product is at most {FOLD}"
            )

    def matrix(self, rng: np.random.Generator, patch: Sequence[int]) -> Matrix:
        """The identity, without a draw."""
        return np.eye(self.dims)

    def field(self, rng: np.random.Generator, patch: Sequence[int]) -> Drawn | None:
        """Per axis the cells (0: alike all along) and the largest displacement in voxels; the control points' seed."""
        if rng.random() >= self.probability:
            return None
        strength = float(rng.uniform(*self.strength))
        cells = int(rng.integers(self.cells[0], self.cells[1] + 1))
        still = [self.planar and axis == 0 for axis in range(self.dims)]
        return {
            "cells": [0 if rigid else cells for rigid in still],
            "reach": [0.0 if rigid else strength * size for rigid, size in zip(still, patch, strict=True)],
            "seed": int(rng.integers(2**31)),
        }


def displacement(field: Drawn, patch: Sequence[int], device: torch.device) -> Tensor:
    """(*patch, dims) float32: voxels by which each place moves, at most `reach` along each axis."""
    cells, reach = field["cells"], np.asarray(field["reach"])
    count = [1 if n == 0 else n + 3 for n in cells]
    # drawn by numpy: the same on every device
    points = np.random.default_rng(field["seed"]).uniform(-1, 1, (*count, len(patch))) * reach
    out = torch.as_tensor(points, dtype=torch.float32, device=device)
    for axis, (size, n) in enumerate(zip(patch, cells, strict=True)):
        weights = torch.as_tensor(basis(size, n), dtype=torch.float32, device=device)
        out = torch.tensordot(weights, out, dims=([1], [axis])).movedim(0, axis)
    return out


def basis(size: int, cells: int) -> NDArray[np.float64]:
    """(size, cells + 3): the weights of the control points at every voxel, not negative, 1 in sum; (size, 1) of 1 for
    no cells. The uniform cubic B-spline."""
    if cells == 0:
        return np.ones((size, 1))
    places = (np.arange(size) + 0.5) / size * cells + 1
    away = np.abs(places[:, None] - np.arange(cells + 3))
    near, far = 2 / 3 - away**2 + away**3 / 2, (2 - away).clip(0) ** 3 / 6
    return np.where(away < 1, near, far)
