"""Spacing, patch, stages and batch: the planning rules of nnU-Net (Isensee 2021; v2.8) as functions of numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil, prod

import numpy as np

ANISOTROPY = 3.0
SMALLEST = 4  # edge of the coarsest feature map
BYTES_PER_ELEMENT = 8.0  # 8 GB at nnU-Net's 560 M feature-map elements and batch 2, rounded up


@dataclass(frozen=True)
class Limits:
    """What a machine allows.

    Attributes:
        elements: feature-map elements of a training step (all samples of the batch).
        ceiling: those that the memory holds, where `elements` are fewer for the sake of speed.
        base, cap: features of the first stage, and of the widest.
        least_batch: smallest batch size.
    """

    elements: float
    base: int
    cap: int
    least_batch: int
    ceiling: float = 0.0


@dataclass(frozen=True)
class Topology:
    """Patch and stages. `strides` and `kernels` have one entry per stage, finest first."""

    patch: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    features: tuple[int, ...]
    batch: int = 1


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
    return tuple(round(float(value), 6) for value in median)


def slice_axes(spacing: Sequence[float]) -> tuple[int, int, int]:
    """The axis of the largest spacing first, the other two in their order."""
    worst = int(np.argmax(spacing))
    first, second = (axis for axis in range(3) if axis != worst)
    return worst, first, second


def first_patch(shape: Sequence[int], spacing: Sequence[float]) -> list[int]:
    """A patch of equal physical edges with the volume of 256³ (2048² in 2D), cut to the median shape.

    Its last two axes have at least 4 voxels: norms need more than one.
    """
    edge = {2: 2048, 3: 256}[len(shape)]
    aspect = 1 / np.asarray(spacing, float)
    scale = (edge ** len(shape) / prod(aspect)) ** (1 / len(shape))
    patch = [max(1, min(int(size), round(float(a * scale)))) for size, a in zip(shape, aspect, strict=True)]
    return [*patch[:-2], *(max(SMALLEST, size) for size in patch[-2:])]


def stages(patch: Sequence[int], spacing: Sequence[float], limits: Limits) -> Topology:
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


def _halved(size: Sequence[int], spacing: Sequence[float]) -> list[int]:
    long = [axis for axis, s in enumerate(size) if s >= 2 * SMALLEST]
    if not long:
        return []
    finest = min(spacing[axis] for axis in long)
    fine = [axis for axis in long if spacing[axis] / finest < 2]
    if len(fine) == 1 and size[fine[0]] < 3 * SMALLEST:
        return []
    return fine


def elements(topology: Topology, classes: int, convs: tuple[int, int] = (2, 2)) -> float:
    """Feature-map elements of one sample: outputs of all convolutions, of the upsampling and of the finest head."""
    size = np.array(topology.patch, float)
    volumes = []
    for stride in topology.strides:
        size = np.ceil(size / stride)
        volumes.append(float(size.prod()))
    encoder = sum(convs[0] * f * v for f, v in zip(topology.features, volumes, strict=True))
    decoder = sum((convs[1] + 1) * f * v for f, v in zip(topology.features[:-1], volumes[:-1], strict=True))
    return encoder + decoder + classes * volumes[0]


def fit(
    shape: Sequence[int], spacing: Sequence[float], classes: int, limits: Limits, dataset_voxels: float
) -> Topology:
    """The largest patch, then the largest batch, that stay within the limits.

    The patch is reduced along the axis where it is largest against the median shape until the least batch
    fits; the batch is then what fits, at most 5 % of the data set's voxels.
    """
    patch = first_patch(shape, spacing)
    topology = stages(patch, spacing, limits)
    while elements(topology, classes) * limits.least_batch > limits.elements:
        smaller = _reduced(topology, shape, spacing, limits)
        if smaller is None:
            break
        topology = smaller
    fitting = round(limits.elements / elements(topology, classes))
    share = round(dataset_voxels * 0.05 / prod(topology.patch))
    return replace(topology, batch=max(limits.least_batch, min(fitting, share)))


def _reduced(topology: Topology, shape: Sequence[int], spacing: Sequence[float], limits: Limits) -> Topology | None:
    """The patch less one divisor along its relatively longest axis; None when no axis can shrink."""
    divisor = [prod(stride[axis] for stride in topology.strides) for axis in range(len(shape))]
    ratio = [p / s for p, s in zip(topology.patch, shape, strict=True)]
    for axis in sorted(range(len(shape)), key=lambda a: (-ratio[a], -a)):
        patch = list(topology.patch)
        step = max(divisor[axis] // 2, 1) if patch[axis] <= divisor[axis] else divisor[axis]
        patch[axis] -= step
        if patch[axis] >= SMALLEST:
            made = stages(patch, spacing, limits)
            if prod(made.patch) < prod(topology.patch):
                return made
    return None
