import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from scipy import ndimage
from skimage.transform import resize

from autoseg.arrays import splines
from autoseg.arrays.resample import (
    Linear,
    Spline,
    coarse_axis,
    resample_label,
    resample_logits,
    resample_regions,
)

few = settings(max_examples=25, deadline=None)
sizes = st.tuples(*[st.integers(1, 9)] * 3)
coarses = st.sampled_from([None, 0, 1, 2])
values = st.floats(-100, 100, width=32)
labels = sizes.flatmap(lambda s: arrays.arrays(np.uint8, s, elements=st.sampled_from([0, 1, 2, 5, 255])))


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def zoomed(volume, shape, order=3):
    factors = np.array(shape) / volume.shape
    return ndimage.zoom(volume.astype(float), factors, order=order, mode="nearest", grid_mode=True)


def interpolated(volumes, shape):
    volumes = torch.from_numpy(np.asarray(volumes, np.float32))[None]
    return F.interpolate(volumes, size=shape, mode="trilinear", align_corners=False)[0].numpy()


def nearest(volume, axis, m):
    """Voxel whose area holds the new centre, by exact fractions of the side."""
    n = volume.shape[axis]
    return np.take(volume, [int((i + 0.5) * n / m + 1e-9) for i in range(m)], axis)


@few
@given(sizes, sizes, values, st.sampled_from([Spline(), Linear()]), coarses)
def test_a_constant_stays_constant(old, new, value, resampler, coarse):
    result = resampler(np.full((2, *old), value, np.float32), new, coarse=coarse)
    assert result.shape == (2, *new)
    assert result.dtype == np.float32
    assert np.allclose(result, value, rtol=1e-5, atol=1e-6)


@few
@given(sizes, st.sampled_from([Spline(), Linear()]), coarses)
def test_the_same_shape_gives_a_copy(shape, resampler, coarse):
    array = noise(2, *shape)
    result = resampler(array, shape, coarse=coarse)
    assert np.array_equal(result, array)
    assert not np.shares_memory(result, array)


@few
@given(sizes, sizes)
def test_spline_equals_scipy_edges_included(old, new):
    array = noise(1, *old)
    assert np.allclose(Spline()(array, new)[0], zoomed(array[0], new), atol=2e-5)


@few
@given(sizes, sizes)
def test_linear_equals_torch(old, new):
    array = noise(2, *old)
    assert np.array_equal(Linear()(array, new), interpolated(array, new))


@few
@given(sizes, sizes, st.sampled_from([0, 1, 2]))
def test_the_coarse_axis_takes_the_nearest_slice(old, new, axis):
    array = noise(1, *old)
    plane = tuple(old[axis] if a == axis else n for a, n in enumerate(new))
    for resampler in (Spline(), Linear()):
        expected = nearest(resampler(array, plane)[0], axis, new[axis])
        assert np.allclose(resampler(array, new, coarse=axis)[0], expected, atol=2e-5)


@pytest.mark.parametrize(("n", "m"), [(300, 411), (411, 150), (700, 90), (1500, 1400), (3000, 2), (2, 1100)])
def test_long_sides_are_exact_across_the_bands(n, m):
    array = noise(1, 1, 3, n)
    for axes in ((0, 1, 2, 3), (0, 1, 3, 2), (0, 3, 2, 1)):
        turned = array.transpose(axes)
        shape = tuple(m if size == n else size for size in turned.shape[1:])
        assert np.allclose(Spline()(turned, shape)[0], zoomed(turned[0], shape), atol=2e-5)


def test_spline_equals_skimage_inside():
    smooth = ndimage.gaussian_filter(noise(20, 22, 24), 1).astype(np.float32)
    ours = Spline()(smooth[None], (16, 30, 24))[0]
    theirs = resize(smooth, (16, 30, 24), order=3, mode="edge", anti_aliasing=False)
    assert np.allclose(ours[4:-4, 4:-4, 4:-4], theirs[4:-4, 4:-4, 4:-4], atol=1e-5)


def test_read_only_integers_and_views_are_taken():
    array = np.arange(2 * 4 * 6 * 8, dtype=np.int16).reshape(2, 4, 6, 8)[:, ::-1]
    array.flags.writeable = False
    before = array.copy()
    for resampler in (Spline(), Linear()):
        expected = resampler(array.astype(np.float32), (3, 9, 8))
        assert np.array_equal(resampler(array, (3, 9, 8)), expected)
    assert np.array_equal(array, before)


def test_the_matrices_kept_are_few():
    splines.bands.cache_clear()
    for m in range(2, 60):
        Spline()(noise(1, 1, 1, 10), (1, 1, m))
    assert splines.bands.cache_info().currsize <= 32


def test_bad_shapes_and_options_are_refused():
    with pytest.raises(ValueError, match="C, z, y, x"):
        Spline()(noise(3, 3, 3), (2, 2, 2))
    with pytest.raises(ValueError, match="at least one voxel"):
        Linear()(noise(1, 3, 3, 3), (2, 0, 2))
    with pytest.raises(ValueError, match="coarse"):
        Linear()(noise(1, 3, 3, 3), (2, 2, 2), coarse=3)
    with pytest.raises(ValueError, match="anisotropy"):
        Spline(anisotropy=0.5)


@pytest.mark.parametrize(
    ("old", "new", "limit", "axis"),
    [
        ((5, 1, 1), (1, 1, 1), 3.0, 0),
        ((3, 1, 1), (1, 1, 1), 3.0, None),
        ((1, 1, 1), (1, 1, 4), 3.0, 2),
        ((5, 5, 1), (1, 1, 4), 3.0, None),
        ((5, 1, 1), (1, 1, 1), None, None),
    ],
)
def test_coarse_axis(old, new, limit, axis):
    assert coarse_axis(old, new, limit) == axis


# -- labels --------------------------------------------------------------------------------------------


def shares(label, shape, coarse):
    """Every value's share of every new voxel, by torch and `nearest`: (values, classes, *shape)."""
    present = np.unique(label)
    result = interpolated(np.stack([label == v for v in present]), shape)
    if coarse is not None:
        plane = tuple(label.shape[a] if a == coarse else n for a, n in enumerate(shape))
        flat = interpolated(np.stack([label == v for v in present]), plane)
        result = nearest(flat, coarse + 1, shape[coarse])
    return present, result


@few
@given(labels, sizes, coarses)
def test_label_is_the_largest_share(label, shape, coarse):
    result = resample_label(label, shape, 6, coarse)
    present, share = shares(label, shape, coarse)
    assert result.dtype == np.uint8
    assert set(np.unique(result)) <= set(present)
    taken = np.take_along_axis(share, np.searchsorted(present, result)[None], 0)[0]
    assert np.allclose(taken, share.max(axis=0), atol=1e-5)
    clear = np.sort(share, axis=0)
    clear = clear[-1] - clear[-2] > 1e-5 if len(present) > 1 else np.ones(shape, bool)
    assert np.array_equal(result[clear], present[share.argmax(axis=0)][clear])


@few
@given(labels)
def test_the_same_shape_gives_the_label(label):
    assert np.array_equal(resample_label(label, label.shape, 6), label)


def test_ties_go_to_the_lower_class_and_ignore_comes_last():
    halves = np.array([[[2, 1]]], np.uint8)
    assert resample_label(halves, (1, 1, 1), 3).item() == 1
    assert resample_label(np.array([[[255, 2]]], np.uint8), (1, 1, 1), 3).item() == 2
    thirds = np.array([[[0, 1], [1, 2]]], np.uint8)
    assert resample_label(thirds, (1, 1, 1), 3).item() == 1


def test_there_and_back_by_two_keeps_big_blobs():
    z, y, x = np.ogrid[:24, :24, :24]
    label = ((z - 12) ** 2 + (y - 12) ** 2 + (x - 12) ** 2 < 81).astype(np.uint8)
    label[2:6, 2:20, 2:8] = 2
    for shape in ((48, 48, 48), (12, 12, 12)):
        back = resample_label(resample_label(label, shape, 3), label.shape, 3)
        for k in (1, 2):
            overlap = 2 * ((back == k) & (label == k)).sum() / ((back == k).sum() + (label == k).sum())
            assert overlap > 0.93


def test_a_flat_label_and_a_strange_value():
    flat = np.array([[[0, 0, 1, 1]]], np.uint8)
    assert resample_label(flat, (1, 1, 8), 2).tolist() == [[[0, 0, 0, 0, 1, 1, 1, 1]]]
    with pytest.raises(ValueError, match=r"\[1\] are none of 1"):
        resample_label(flat, (1, 1, 8), 1)


# -- logits --------------------------------------------------------------------------------------------


@few
@given(st.integers(1, 5), sizes, sizes, coarses, st.sampled_from([np.float16, np.float32]))
def test_logits_equal_all_classes_resampled_then_argmax(classes, old, new, coarse, dtype):
    logits = noise(classes, *old).astype(dtype)
    expected = Linear()(logits.astype(np.float32), new, coarse=coarse).argmax(axis=0)
    before = logits.copy()
    assert np.array_equal(resample_logits(logits, new, coarse), expected)
    assert np.array_equal(resample_logits(torch.from_numpy(logits), new, coarse), expected)
    assert np.array_equal(logits, before)


def test_logits_ties_go_to_the_lower_class():
    result = resample_logits(np.zeros((3, 2, 2, 2), np.float32), (3, 3, 3))
    assert result.dtype == np.uint8
    assert not result.any()


@few
@given(sizes, sizes, coarses, st.permutations([3, 1, 2, 0]), st.sampled_from([np.float16, np.float32]))
def test_regions_are_written_in_order_where_they_are_likelier_than_not(old, new, coarse, written, dtype):
    logits = noise(len(written), *old).astype(dtype)
    resampled = torch.from_numpy(Linear()(logits.astype(np.float32), new, coarse=coarse))
    expected = np.zeros(new, np.uint8)
    for likely, index in zip(resampled.sigmoid() > 0.5, written, strict=True):
        expected = np.where(likely, index, expected)
    assert np.array_equal(resample_regions(logits, written, new, coarse), expected)
    assert np.array_equal(resample_regions(torch.from_numpy(logits), written, new, coarse), expected)


def test_logits_of_other_regions_are_refused():
    with pytest.raises(ValueError, match="of 1 regions"):
        resample_regions(np.zeros((2, 2, 2, 2), np.float32), [1], (3, 3, 3))


def test_logits_without_classes_are_refused():
    with pytest.raises(ValueError, match="K, z, y, x"):
        resample_logits(np.zeros((0, 2, 2, 2), np.float32), (3, 3, 3))
