"""Spacing, patch, stages and batch: the planning rules of nnU-Net (Isensee 2021; v2.8) as functions of numbers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np

ANISOTROPY = 3.0
SMALLEST = 4  # edge of the coarsest feature map
BLOCKS = (1, 3, 4, 6)  # of the residual encoder per stage, the last for all that follow
LOWER = 1.03


@dataclass(frozen=True)
class Limits:
    """What a machine allows.

    Attributes:
        elements: feature-map elements of a training step (all samples of the batch).
        base, cap: features of the first stage, and of the widest.
        least_batch: smallest batch size.
        aimed_batch: batch size down to which the patch is kept as large as it is; then the patch shrinks.
        share: of the data set's voxels, that one batch may cover.
    """

    elements: float
    base: int
    cap: int
    least_batch: int
    aimed_batch: int = 0
    share: float = 0.05


@dataclass(frozen=True)
class Topology:
    """Patch and stages. `strides` and `kernels` have one entry per stage, finest first."""

    patch: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    batch: int = 1


Weigh = Callable[[Topology], float]  # feature-map elements of one sample


def target_spacing(spacings: Sequence[Sequence[float]], shapes: Sequence[Sequence[int]]) -> tuple[float, ...]:
    """Median per axis; where one axis is much coarser and shorter than the others, its 10th percentile.

    Args:
        spacings, shapes: one entry (z, y, x) per case, shapes after cropping.
    """
    median, size = np.median(spacings, 0), np.median(shapes, 0)
    worst = int(median.argmax())
    others = [axis for axis in range(len(median)) if axis != worst]
    coarse = median[worst] > ANISOTROPY * median[others].max()
    if coarse and ANISOTROPY * size[worst] < size[others].min():
        finer = float(np.percentile([s[worst] for s in spacings], 10))
        floor = float(median[others].max())
        median[worst] = finer if finer >= floor else floor + 1e-5
    return tuple(float(value) for value in median)


def slice_axes(spacing: Sequence[float]) -> tuple[int, int, int]:
    """The axis of the largest spacing first, the other two in their order."""
    worst = int(np.argmax(spacing))
    first, second = (axis for axis in range(3) if axis != worst)
    return worst, first, second


def first_patch(shape: Sequence[float], spacing: Sequence[float]) -> list[float]:
    """A patch of equal physical edges with the volume of 256³ (2048² in 2D), cut to the median shape.

    Its last two axes have at least 4 voxels: norms need more than one.
    """
    edge = {2: 2048, 3: 256}[len(shape)]
    aspect = [1 / s for s in spacing]
    scale = (edge ** len(shape) / prod(aspect)) ** (1 / len(shape))
    patch = [max(1, min(size, round(a * scale))) for size, a in zip(shape, aspect, strict=True)]
    return [*patch[:-2], *(max(SMALLEST, size) for size in patch[-2:])]


def stages(patch: Sequence[float], spacing: Sequence[float], limits: Limits) -> Topology:
    """Halves the axes that are long and fine enough until none is; pads the patch to what that needs."""
    size, now = list(patch), [float(s) for s in spacing]
    kernel = [1] * len(patch)
    strides: list[tuple[int, ...]] = [(1,) * len(patch)]
    kernels: list[tuple[int, ...]] = []
    while True:
        finest = min(now)
        kernel = [3 if k == 3 or s / finest < 2 else 1 for k, s in zip(kernel, now, strict=True)]
        kernels.append(tuple(kernel))
        axes = _halved(size, now)
        if not axes:
            break
        strides.append(tuple(2 if axis in axes else 1 for axis in range(len(size))))
        size = [ceil(s / 2) if axis in axes else s for axis, s in enumerate(size)]
        now = [s * 2 if axis in axes else s for axis, s in enumerate(now)]
    kernels[-1] = (3,) * len(patch)
    divisor = [prod(stride[axis] for stride in strides) for axis in range(len(patch))]
    padded = tuple(ceil(p / d) * d for p, d in zip(patch, divisor, strict=True))
    features = tuple(min(limits.cap, limits.base * 2**i) for i in range(len(strides)))
    return Topology(padded, tuple(strides), tuple(kernels), features)


def _halved(size: Sequence[float], spacing: Sequence[float]) -> list[int]:
    long = [axis for axis, s in enumerate(size) if s >= 2 * SMALLEST]
    if not long:
        return []
    finest = min(spacing[axis] for axis in long)
    fine = [axis for axis in long if spacing[axis] / finest < 2]
    if len(fine) == 1 and size[fine[0]] < 3 * SMALLEST:
        return []
    return fine


def elements(topology: Topology, classes: int) -> float:
    """Feature-map elements of one sample of the plain U-Net: outputs of all convolutions and of the finest head."""
    volumes = _volumes(topology)
    encoder = sum(2 * f * v for f, v in zip(topology.features, volumes, strict=True))
    return encoder + _decoder(topology, volumes, convs=2) + classes * volumes[0]


def residual_elements(topology: Topology, classes: int) -> float:
    """As `elements`, of nnU-Net's residual encoder U-Net: 1, 3, 4, 6, 6 … blocks of two convolutions, and a stem."""
    volumes = _volumes(topology)
    stem = topology.features[0] * volumes[0]
    depths = [BLOCKS[min(stage, len(BLOCKS) - 1)] for stage in range(len(volumes))]
    skips = [int(stage > 0) for stage in range(len(volumes))]
    stages = zip(depths, skips, topology.features, volumes, strict=True)
    encoder = sum((2 * depth + skip) * f * v for depth, skip, f, v in stages)
    return stem + encoder + _decoder(topology, volumes, convs=1) + classes * volumes[0]


def _volumes(topology: Topology) -> list[float]:
    size, volumes = topology.patch, []
    for stride in topology.strides:
        size = tuple(-(-edge // s) for edge, s in zip(size, stride, strict=True))
        volumes.append(float(prod(size)))
    return volumes


def _decoder(topology: Topology, volumes: Sequence[float], convs: int) -> float:
    return sum((convs + 1) * f * v for f, v in zip(topology.features[:-1], volumes[:-1], strict=True))


def fit(
    shape: Sequence[float], spacing: Sequence[float], weigh: Weigh, limits: Limits, dataset_voxels: float
) -> Topology:
    """The largest patch, then the largest batch, that stay within the limits.

    The patch is reduced along the axis where it is largest against the median shape until the aimed batch
    fits; the batch is then what fits, at most a share of the data set's voxels.

    Args:
        weigh: feature-map elements of one sample.
    """
    topology = stages(first_patch(shape, spacing), spacing, limits)
    while weigh(topology) * (limits.aimed_batch or limits.least_batch) > limits.elements:
        smaller = reduced(topology, shape, spacing, limits)
        if smaller is None:
            break
        topology = smaller
    fitting = round(limits.elements / weigh(topology))
    share = round(dataset_voxels * limits.share / prod(topology.patch))
    return replace(topology, batch=max(limits.least_batch, min(fitting, share)))


def reduced(topology: Topology, shape: Sequence[float], spacing: Sequence[float], limits: Limits) -> Topology | None:
    """The patch less one step along the axis where it is largest against the shape; None when no axis can shrink.

    The step is what the axis is divided by after it has shrunk, so that no size is left out.
    """
    divisor = _divisor(topology)
    ratio = [p / s for p, s in zip(topology.patch, shape, strict=True)]
    for axis in sorted(range(len(shape)), key=lambda a: (-ratio[a], -a)):
        patch: list[float] = list(topology.patch)
        patch[axis] = max(1, patch[axis] - divisor[axis])
        step = _divisor(stages(patch, spacing, limits))[axis]
        patch[axis] = topology.patch[axis] - step
        if patch[axis] >= SMALLEST:
            made = stages(patch, spacing, limits)
            if prod(made.patch) < prod(topology.patch):
                return made
    return None


def _divisor(topology: Topology) -> list[int]:
    return [prod(stride[axis] for stride in topology.strides) for axis in range(len(topology.patch))]


def coarser(spacing: Sequence[float]) -> tuple[float, ...]:
    """The spacing of the next try for a configuration of low resolution.

    3 % coarser along the axes that are more than twice as fine as the coarsest, along all where none is.
    """
    worst = max(spacing)
    fine = [worst / s > 2 for s in spacing]
    return tuple(s * LOWER if f or not any(fine) else s for s, f in zip(spacing, fine, strict=True))
