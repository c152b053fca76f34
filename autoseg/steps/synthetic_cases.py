"""One synthetic volume, one synthetic aerial tile: functions of a random generator."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

Floats = NDArray[np.float32]
Bytes = NDArray[np.uint8]
Doubles = NDArray[np.float64]
Bools = NDArray[np.bool_]
Generator = np.random.Generator
Point = tuple[float, ...]
Roof = tuple[Point, Point, float]  # centre, half sizes, turn
Crown = tuple[Point, float]  # centre, radius

ORGAN, LESION, VESSEL = 1, 2, 3
ROAD, ROOF = 1, 2
ROOF_COLOURS = ((165, 85, 65), (125, 120, 118), (110, 80, 62), (205, 200, 192), (92, 98, 112))


# -- one volume ----------------------------------------------------------------------------------------


def medical_case(rng: Generator) -> tuple[Floats, Bytes, tuple[float, float, float]]:
    """(image (1, z, y, x), label (z, y, x), spacing in mm).

    No threshold finds the classes: the lesion is as dark as a bowel without label, a gland without label as bright
    as the organ, a spine as bright as the vessel; scale, shift and shading vary by case.
    """
    plane = rng.uniform(0.9, 1.1)
    spacing = (rng.uniform(2.6, 3.4), plane, plane)
    shape = (int(rng.integers(18, 23)), int(rng.integers(58, 71)), int(rng.integers(58, 71)))
    grid = _grid(shape, spacing)
    signal, label = _anatomy(rng, grid, shape)
    signal = gaussian_filter(signal, (0.3, *[rng.uniform(0.4, 0.8)] * 2))
    shading = np.exp(0.2 * _smooth(rng, shape, (6, 16, 16)))
    noise = rng.normal(0, rng.uniform(0.02, 0.05), shape)
    scale = 10 ** rng.uniform(-1, 3)
    image = scale * (signal * shading + noise + rng.uniform(-2, 2))
    return image[None].astype(np.float32), label, spacing


def _anatomy(rng: Generator, grid: list[Floats], shape: tuple[int, ...]) -> tuple[Floats, Bytes]:
    z, y, x = grid
    half_y, half_x = float(y.max()), float(x.max())
    signal = np.zeros(shape, np.float32)
    label = np.zeros(shape, np.uint8)
    body = (y / (0.92 * half_y)) ** 2 + (x / (0.95 * half_x)) ** 2 + 0 * z < 1
    signal[body] = 0.45 + 0.04 * _smooth(rng, shape, (1.5, 3, 3))[body]
    centre = (rng.uniform(-5, 5), rng.uniform(-7, 3), rng.uniform(-13, -8))
    radii = (rng.uniform(16, 22), rng.uniform(12, 16), rng.uniform(11, 14))
    wobble = 0.12 * _smooth(rng, shape, (3, 8, 8))
    organ = _ellipsoid(grid, centre, radii, rng.uniform(-0.5, 0.5)) < 1 + wobble
    gland_at = (rng.uniform(-15, 15), rng.uniform(-6, 6), rng.uniform(15, 20))
    gland = _ellipsoid(grid, gland_at, (rng.uniform(6, 9), *rng.uniform(4, 6, 2)), 0) < 1
    signal[organ | gland] = 0.9 + 0.04 * _smooth(rng, shape, (1.5, 3, 3))[organ | gland]
    label[organ] = ORGAN
    spine = np.hypot(y - 0.62 * half_y, x - rng.uniform(-2, 2)) + 0 * z < rng.uniform(4, 5.5)
    signal[spine] = 1.25
    bowel_at = (rng.uniform(-15, 15), rng.uniform(9, 13), rng.uniform(11, 15))
    signal[_ellipsoid(grid, bowel_at, tuple(rng.uniform(4, 7, 3)), 0) < 1] = 0.22
    if rng.random() < 0.75:
        way = rng.normal(size=3)
        way *= rng.uniform(0.1, 0.5) / np.linalg.norm(way)
        at = tuple(c + w * r for c, w, r in zip(centre, way, radii, strict=True))
        lesion = _ellipsoid(grid, at, tuple(rng.uniform(6, 8.5) * rng.uniform(0.9, 1.1, 3)), 0) < 1
        signal[lesion], label[lesion] = 0.22, LESION
    vessel = _distance(grid, _vessel_line(rng, float(z.max()))) < rng.uniform(3.2, 4.2)
    signal[vessel], label[vessel] = 1.25, VESSEL
    return signal, label


def _vessel_line(rng: Generator, half_z: float) -> list[Point]:
    phase, sway = rng.uniform(0, 2 * np.pi), rng.uniform(4, 8)
    y, x = rng.uniform(-14, -8), rng.uniform(3, 8)
    turns = np.linspace(-0.8, 0.8, 60) * np.pi
    return [(half_z * t / 2.3, y + 0.6 * sway * np.cos(t + phase), x + sway * np.sin(t + phase)) for t in turns]


def _ellipsoid(grid: list[Floats], centre: Point, radii: Point, turn: float) -> Floats:
    """Distance from the centre in radii, 1 on the surface; turned in the plane of the slices."""
    z, y, x = (axis - c for axis, c in zip(grid, centre, strict=True))
    y, x = y * np.cos(turn) - x * np.sin(turn), y * np.sin(turn) + x * np.cos(turn)
    result: Floats = np.sqrt((z / radii[0]) ** 2 + (y / radii[1]) ** 2 + (x / radii[2]) ** 2)
    return result


# -- one tile ------------------------------------------------------------------------------------------


def aerial_case(rng: Generator) -> tuple[Bytes, Bytes]:
    """(image (3, y, x), label (y, x)).

    No colour tells the classes: bare soil looks like the roads, some roofs are as grey, shadows fall on both.
    """
    shape = (int(rng.integers(184, 201)), int(rng.integers(184, 201)))
    grid = _grid(shape, (1.0, 1.0))
    grey = rng.uniform(105, 150) + np.array([rng.uniform(0, 12), 0, rng.uniform(-12, 4)])
    image = _ground(rng, shape, grey)
    road, margin = _roads(rng, grid, shape)
    image[:, road] = (grey[:, None, None] + 5 * _smooth(rng, shape, (1.5, 1.5)))[:, road]
    roofs, blocked = _place_roofs(rng, grid, margin < 4)
    crowns = _place_trees(rng, grid, blocked | (margin < 1))
    sun = rng.uniform(0, 2 * np.pi)
    image *= np.where(_shadow(grid, sun, roofs, crowns), 0.58, 1.0)
    label = np.where(road, ROAD, 0).astype(np.uint8)
    for roof in roofs:
        _paint_roof(rng, grid, roof, image, label)
    for crown in crowns:
        _paint_tree(rng, grid, crown, image)
    image = gaussian_filter(image, (0, 0.6, 0.6)) * rng.uniform(0.92, 1.08, (3, 1, 1))
    image += rng.normal(0, 4, image.shape)
    return image.clip(0, 255).astype(np.uint8), label


def _paint_roof(rng: Generator, grid: list[Floats], roof: Roof, image: Doubles, label: Bytes) -> None:
    centre, sizes, turn = roof
    along, across = _turned(grid, centre, turn)
    inside = (abs(along) < sizes[0]) & (abs(across) < sizes[1])
    colour = np.array(ROOF_COLOURS[rng.integers(len(ROOF_COLOURS))]) + rng.normal(0, 8, 3)
    side = np.where(across > 0, 1 + rng.uniform(0.04, 0.15), 1 - rng.uniform(0.04, 0.15))
    image[:, inside] = (colour[:, None, None] * side)[:, inside]
    label[inside] = ROOF


def _paint_tree(rng: Generator, grid: list[Floats], crown: Crown, image: Doubles) -> None:
    centre, radius = crown
    shape = image.shape[1:]
    canopy = np.hypot(*_turned(grid, centre, 0.0)) < radius * (1 + 0.12 * _smooth(rng, shape, (2, 2)))
    green = np.array([52, 82, 42])[:, None, None] + rng.normal(0, 6) + 14 * _smooth(rng, shape, (1, 1))
    image[:, canopy] = green[:, canopy]


def _ground(rng: Generator, shape: tuple[int, ...], soil: Doubles) -> Doubles:
    dry = 1 / (1 + np.exp(-2 * _smooth(rng, shape, (14, 14))))
    grass, hay = np.array([88, 118, 62])[:, None, None], np.array([142, 136, 84])[:, None, None]
    ground = grass + (hay - grass) * dry + 7 * _smooth(rng, shape, (1, 1)) + 5 * _smooth(rng, shape, (4, 4))
    bare = _smooth(rng, shape, (9, 9)) > 1.35
    ground[:, bare] = (soil[:, None, None] + 8 * _smooth(rng, shape, (2, 2)))[:, bare]
    return np.asarray(ground, np.float64)


def _roads(rng: Generator, grid: list[Floats], shape: tuple[int, ...]) -> tuple[Bools, Floats]:
    """(road, distance to the edge of the nearest road, negative inside)."""
    margin = np.full(shape, np.inf, np.float32)
    for _ in range(int(rng.integers(1, 4))):
        turn = rng.uniform(0, np.pi)
        offset, bend = rng.uniform(-55, 55), rng.choice([0.0, rng.uniform(-0.6, 0.6)])
        steps = np.linspace(-150, 150, 100)
        across = offset + bend * steps**2 / 150
        rows = steps * np.sin(turn) + across * np.cos(turn)
        columns = steps * np.cos(turn) - across * np.sin(turn)
        points = zip(rows, columns, strict=True)
        margin = np.minimum(margin, _distance(grid, points) - np.float32(rng.uniform(4.5, 7.5)))
    return margin < 0, margin


def _place_roofs(rng: Generator, grid: list[Floats], taken: Bools) -> tuple[list[Roof], Bools]:
    """Roofs that touch no road and no other roof, and what is taken then."""
    taken, roofs = taken.copy(), list[Roof]()
    for _ in range(40):
        centre, turn = _somewhere(rng, grid), rng.uniform(0, np.pi)
        sizes = (rng.uniform(9, 19), rng.uniform(7, 12))
        along, across = _turned(grid, centre, turn)
        near = (abs(along) < sizes[0] + 3) & (abs(across) < sizes[1] + 3)
        if len(roofs) < 9 and not (near & taken).any():
            roofs.append((centre, sizes, turn))
            taken |= near
    return roofs, taken


def _place_trees(rng: Generator, grid: list[Floats], taken: Bools) -> list[Crown]:
    crowns = list[Crown]()
    for _ in range(int(rng.integers(15, 60))):
        centre, radius = _somewhere(rng, grid), rng.uniform(3, 8)
        if not (taken & (np.hypot(*_turned(grid, centre, 0.0)) < radius)).any():
            crowns.append((centre, radius))
    return crowns


def _somewhere(rng: Generator, grid: list[Floats]) -> Point:
    return tuple(rng.uniform(axis.min(), axis.max()) for axis in grid)


def _shadow(grid: list[Floats], sun: float, roofs: list[Roof], crowns: list[Crown]) -> Bools:
    dark = np.zeros([axis.size for axis in grid], np.bool_)
    for centre, sizes, turn in roofs:
        along, across = _turned(grid, (centre[0] + 5 * np.sin(sun), centre[1] + 5 * np.cos(sun)), turn)
        dark |= (abs(along) < sizes[0]) & (abs(across) < sizes[1])
    for centre, radius in crowns:
        fall = (centre[0] + 1.3 * radius * np.sin(sun), centre[1] + 1.3 * radius * np.cos(sun))
        dark |= np.hypot(*_turned(grid, fall, 0.0)) < radius
    return dark


def _turned(grid: list[Floats], centre: Point, turn: float) -> tuple[Floats, Floats]:
    y, x = grid[0] - centre[0], grid[1] - centre[1]
    return x * np.cos(turn) + y * np.sin(turn), y * np.cos(turn) - x * np.sin(turn)


# -- geometry ------------------------------------------------------------------------------------------


def _grid(shape: Sequence[int], spacing: Sequence[float]) -> list[Floats]:
    """Broadcastable coordinates of the voxels' centres, 0 in the middle."""
    axes = [((np.arange(n) - (n - 1) / 2) * step).astype(np.float32) for n, step in zip(shape, spacing, strict=True)]
    return list(np.meshgrid(*axes, indexing="ij", sparse=True))


def _distance(grid: list[Floats], points: Iterable[Point]) -> Floats:
    """Distance of every voxel to the nearest of the points."""
    nearest = np.full([axis.size for axis in grid], np.inf, np.float32)
    for point in points:
        squares = [np.square(axis - np.float32(p)) for axis, p in zip(grid, point, strict=True)]
        np.minimum(nearest, np.add(sum(squares[:-1]), squares[-1]), out=nearest)
    return np.sqrt(nearest)


def _smooth(rng: Generator, shape: Sequence[int], sigma: Sequence[float]) -> Floats:
    """Gaussian noise blurred by sigma voxels, mean 0 and standard deviation 1."""
    noise = gaussian_filter(rng.standard_normal(tuple(shape), np.float32), sigma)
    result: Floats = (noise - noise.mean()) / noise.std()
    return result
