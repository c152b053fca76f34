"""What networks say of a case against its label: calibration, and the places that they doubt."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from autoseg.errors import RunFailed
from autoseg.image import IGNORE
from autoseg.records import Channel, Question
from autoseg.records.certainty import BINS
from autoseg.steps.certainty import Weighing
from autoseg.steps.pieces import Piece

QUESTION = Question(
    reader="nifti", channels=(Channel(name="a", kind="mr"),), labels={"background": 0, "liver": 1, "tumour": 2}
)


def said(labels: np.ndarray, sure: float) -> torch.Tensor:
    """Probabilities (3, *S) of the labels, all equally sure."""
    chances = np.full((3, *labels.shape), (1 - sure) / 2, np.float32)
    np.put_along_axis(chances, labels[None].astype(np.int64), sure, 0)
    return torch.from_numpy(chances)


def weighed(reference: np.ndarray, prediction: np.ndarray, sure: float = 0.9, spacing=(1.0, 1.0, 1.0)):
    found = Weighing(reference, QUESTION, spacing)
    chances = said(prediction, sure)
    for part in (slice(0, 3), slice(3, None)):  # in pieces, as a sweep gives them
        box = (part, slice(0, reference.shape[1]), slice(0, reference.shape[2]))
        found.take(Piece(box, prediction[box], None, chances[(slice(None), *box)]))
    return found.close()


def test_who_is_right_as_often_as_sure_is_calibrated() -> None:
    rng = np.random.default_rng(0)
    reference = rng.integers(0, 3, (8, 20, 20)).astype(np.uint8)
    wrong = rng.random(reference.shape) < 0.25
    found = weighed(reference, np.where(wrong, (reference + 1) % 3, reference).astype(np.uint8), 0.751)
    (bin,) = np.flatnonzero(found.counts)
    assert bin == int(0.751 * BINS) and found.counts[bin] == reference.size
    assert found.right[bin] / found.counts[bin] == pytest.approx(0.75, abs=0.02)
    assert found.sure[bin] / found.counts[bin] == pytest.approx(0.751)


def test_no_number_is_said_by_the_network_and_told() -> None:
    label = np.zeros((3, 4, 4), np.uint8)
    found = Weighing(label, QUESTION, (1.0, 1.0, 1.0))
    with pytest.raises(RunFailed, match="NaN"):
        found.take(Piece((slice(0, 3), slice(0, 4), slice(0, 4)), label, None, torch.full((3, 3, 4, 4), torch.nan)))


def test_a_label_that_is_missing_is_doubted_where_it_should_be() -> None:
    prediction = np.zeros((8, 20, 20), np.uint8)
    prediction[2:6, 3:9, 10:15], prediction[1, 1, 1] = 1, 2
    reference = np.where(prediction == 1, 0, prediction).astype(np.uint8)
    found = weighed(reference, prediction, spacing=(2.0, 1.0, 1.0))
    (doubt,) = found.doubts
    assert doubt.box == ((2, 5), (3, 8), (10, 14)) and doubt.voxels == 4 * 6 * 5
    assert (doubt.said, doubt.label) == ("liver", "background")
    assert doubt.weight == pytest.approx(120 * 2 * 0.85, rel=0.01)
    assert found.weight == doubt.weight and found.above == 121 * 2
    assert 2 <= doubt.at[0] <= 5 and 3 <= doubt.at[1] <= 8 and 10 <= doubt.at[2] <= 14


def test_a_doubt_is_between_two_classes_where_several_meet() -> None:
    reference, prediction = np.zeros((2, 8, 20, 20), np.uint8)
    prediction[3, 3, 2:6] = 1  # the label lacks four voxels, the networks three of either class
    reference[3, 3, 6:12] = [1, 1, 1, 2, 2, 2]
    (doubt,) = weighed(reference, prediction).doubts
    assert (doubt.said, doubt.label, doubt.voxels) == ("liver", "background", 10)


def test_what_is_right_unsure_or_ignored_is_not_doubted() -> None:
    reference = np.zeros((8, 10, 10), np.uint8)
    prediction = reference.copy()
    prediction[2:5, 2:5, 2:5] = 1
    assert weighed(prediction, prediction).weight == 0
    assert weighed(reference, prediction, sure=0.6).doubts == ()
    ignored = np.where(prediction == 1, IGNORE, 0).astype(np.uint8)
    found = weighed(ignored, prediction)
    assert found.doubts == () and sum(found.counts) == reference.size - 27


def test_regions_are_weighed_one_by_one() -> None:
    question = QUESTION.model_copy(update={"regions": {"whole": (1, 2), "core": (2,)}, "written": (1, 2)})
    reference = np.zeros((4, 6, 6), np.uint8)
    reference[:, 1:4, 1:4] = 1
    chances = torch.full((2, 4, 6, 6), 0.05)
    chances[0, :, 1:4, 1:4] = 0.95
    chances[1, :, 1:3, 1:3] = 0.95
    prediction = np.where(chances[1] > 0.5, 2, np.where(chances[0] > 0.5, 1, 0)).astype(np.uint8)
    found = Weighing(reference, question, (1.0, 1.0, 1.0))
    found.take(Piece((slice(0, 4), slice(0, 6), slice(0, 6)), prediction, None, chances))
    known = found.close()
    assert sum(known.counts) == 2 * reference.size and sum(known.right) == 2 * reference.size - 16
    (doubt,) = known.doubts
    assert (doubt.said, doubt.label, doubt.voxels) == ("tumour", "liver", 16)
