"""The planning rules against the plans that nnU-Net 2.8 makes of the same fingerprints."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoseg.steps.topology import (
    Limits,
    Topology,
    coarser,
    elements,
    first_patch,
    fit,
    reduced,
    residual_elements,
    slice_axes,
    stages,
    target_spacing,
)

VOLUMES = Limits(2 * 560e6, 32, 320, 2)
SLICES = Limits(12 * 85e6, 32, 512, 2)


def three(topology: Topology) -> float:
    """Elements with three classes."""
    return elements(topology, 3)


@pytest.mark.parametrize(
    ("shape", "spacing", "cases", "classes", "patch", "batch", "depth"),
    [
        ((210, 400, 400), (2, 0.8, 0.8), 100, 3, (80, 160, 160), 2, 6),
        ((600, 512, 512), (0.8, 0.7, 0.7), 100, 3, (128, 128, 128), 2, 6),
        ((140, 171, 137), (1, 1, 1), 400, 4, (128, 128, 128), 2, 6),
        ((9, 237, 208), (10, 1.56, 1.56), 200, 4, (10, 256, 224), 7, 6),
        ((20, 320, 320), (3.6, 0.62, 0.62), 32, 3, (20, 320, 256), 2, 7),
        ((36, 50, 35), (1, 1, 1), 260, 3, (40, 56, 40), 9, 4),
        ((512, 512), (0.7, 0.7), 60_000, 3, (512, 512), 12, 8),
        ((237, 208), (1.56, 1.56), 1800, 4, (256, 224), 56, 6),
        ((171, 137), (1, 1), 56_000, 4, (192, 160), 105, 6),
        ((320, 320), (0.62, 0.62), 640, 3, (320, 320), 32, 7),
        ((50, 35), (1, 1), 9360, 3, (56, 40), 366, 4),
    ],
)
def test_the_plans_are_nnunets(shape, spacing, cases, classes, patch, batch, depth) -> None:
    limits = VOLUMES if len(shape) == 3 else SLICES
    found = fit(shape, spacing, partial(elements, classes=classes), limits, cases * float(prod(shape)))
    assert (found.patch, found.batch, len(found.strides)) == (patch, batch, depth)


def test_elements_of_the_reference_networks() -> None:
    assert elements(stages((128,) * 3, (1, 1, 1), VOLUMES), 3) == pytest.approx(453e6, rel=0.01)
    assert elements(stages((512, 512), (1, 1), SLICES), 2) == pytest.approx(82.9e6, rel=0.01)
    assert residual_elements(stages((128,) * 3, (1, 1, 1), VOLUMES), 3) == pytest.approx(557e6, rel=0.001)
    assert residual_elements(stages((512, 512), (1, 1), SLICES), 3) == pytest.approx(129.7e6, rel=0.001)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(4, 700), min_size=2, max_size=3),
    st.lists(st.floats(0.2, 12), min_size=3, max_size=3),
)
def test_reducing_shrinks_the_patch_to_a_small_one(shape: list[float], spacing: list[float]) -> None:
    limits = VOLUMES if len(shape) == 3 else SLICES
    near = spacing[: len(shape)]
    found = stages(first_patch(shape, near), near, limits)
    while (smaller := reduced(found, shape, near, limits)) is not None:
        assert prod(smaller.patch) < prod(found.patch) and min(smaller.patch) >= 1
        found = smaller
    assert prod(found.patch) < 16 ** len(shape)


def test_a_batch_covers_no_more_than_its_share() -> None:
    shape = (64, 64, 64)
    found = fit(shape, (1, 1, 1), three, Limits(1e12, 32, 320, 2, share=0.05), 100 * float(prod(shape)))
    assert found.batch == 5
    assert fit(shape, (1, 1, 1), three, Limits(1e12, 32, 320, 2, share=1.0), 100 * float(prod(shape))).batch == 100


def test_the_aimed_batch_shrinks_the_patch_not_the_batch() -> None:
    wide = Limits(12 * 20e6, 32, 512, 2)
    aimed = fit((512, 512), (1, 1), three, replace(wide, aimed_batch=12), 1e12)
    greedy = fit((512, 512), (1, 1), three, wide, 1e12)
    assert prod(aimed.patch) < prod(greedy.patch) and aimed.batch >= 12 > greedy.batch


def test_a_coarser_spacing_first_evens_out_the_axes() -> None:
    spacing = (5.0, 1.0, 1.0)
    while spacing[0] / spacing[1] > 2:
        finer, spacing = spacing, coarser(spacing)
        assert spacing[0] == finer[0] and spacing[1] == pytest.approx(1.03 * finer[1])
    assert coarser(spacing)[0] == pytest.approx(1.03 * spacing[0])


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.integers(1, 700), min_size=2, max_size=3),
    st.lists(st.floats(0.2, 12), min_size=3, max_size=3),
    st.integers(2, 105),
)
def test_every_topology_can_be_built(shape: list[int], spacing: list[float], classes: int) -> None:
    weigh = partial(elements, classes=classes)
    found = fit(shape, spacing[: len(shape)], weigh, VOLUMES if len(shape) == 3 else SLICES, 1e12)
    divisor = [prod(stride[axis] for stride in found.strides) for axis in range(len(shape))]
    assert all(p % d == 0 for p, d in zip(found.patch, divisor, strict=True))
    assert prod(p // d for p, d in zip(found.patch, divisor, strict=True)) > 1  # a norm needs more than one voxel
    assert len(found.strides) == len(found.kernels) == len(found.features)
    assert found.strides[0] == (1,) * len(shape) and found.batch >= 2


def test_a_smaller_machine_gets_a_smaller_step() -> None:
    shape, spacing = (600, 512, 512), (0.8, 0.7, 0.7)
    steps = []
    for share in (1, 1 / 2, 1 / 8, 1 / 64):
        limits = Limits(VOLUMES.elements * share, 32, 320, 2)
        found = fit(shape, spacing, three, limits, 1e12)
        steps.append(elements(found, 3) * found.batch)
        # rounding the batch may exceed the limit by half a sample
        assert steps[-1] <= limits.elements + elements(found, 3) / 2
    assert steps == sorted(steps, reverse=True)


def test_a_coarse_short_axis_takes_its_tenth_percentile() -> None:
    spacings = [(5.0, 1, 1)] * 6 + [(10.0, 1, 1)] * 14
    shapes = [(20, 300, 300)] * 20
    assert target_spacing(spacings, shapes)[0] == 5.0
    assert target_spacing(spacings, [(200, 300, 300)] * 20)[0] == 10.0  # not short
    assert target_spacing([(1.0, 2.0, 3.0)], [(50, 50, 50)]) == (1.0, 2.0, 3.0)


def test_slices_are_cut_across_the_coarsest_axis() -> None:
    assert slice_axes((5, 1, 1)) == (0, 1, 2)
    assert slice_axes((1, 1, 5)) == (2, 0, 1)
    assert slice_axes((1, 5, 1)) == (1, 0, 2)


def test_the_first_patch_has_equal_physical_edges() -> None:
    patch = np.array(first_patch((10_000, 10_000, 10_000), (4, 1, 1)))
    assert prod(patch) == pytest.approx(256**3, rel=0.02)
    assert np.allclose(patch * [4, 1, 1], patch[1], rtol=0.02)
