"""The picture of a few patches: always the same ones, with what the network predicts now."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage.io import imread

from autoseg.image import IGNORE
from autoseg.records import Channel, Question
from autoseg.steps import glance
from autoseg.steps.batches import Batches
from tests.steps.test_batches import cases, configuration
from tests.steps.test_train import Fixed, learner

CHANNELS = (Channel(name="a", kind="other"),)
CLASSES = Question(reader="nifti", channels=CHANNELS, labels={"background": 0, "a": 1, "b": 2})
REGIONS = CLASSES.model_copy(update={"regions": {"both": (1, 2), "b": (2,)}, "written": (1, 2)})


def looked_at(question: Question, logits: torch.Tensor, patch: tuple[int, ...] = (8, 8)) -> list[glance.Patch]:
    one = learner()
    one.network = Fixed(logits)
    return glance.patches(one, Batches(cases(), configuration(patch), 1, 0, one.device), question)


def test_the_prediction_is_the_class_of_the_greatest_logit_where_there_is_a_label() -> None:
    logits = torch.randn(1, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    found = looked_at(CLASSES, logits, (48, 48))  # larger than the case: its rim is ignored
    assert len(found) == 4
    for one in found:
        assert (one.label == IGNORE).any() and (one.label != IGNORE).any()
        assert np.array_equal(one.prediction, np.where(one.label == IGNORE, IGNORE, logits[0].argmax(0).numpy()))


def test_of_regions_the_later_is_written_over_the_earlier() -> None:
    logits = torch.randn(1, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    both, inner = (logits[0] > 0).numpy()
    for one in looked_at(REGIONS, logits):
        expected = np.where(inner, 2, np.where(both, 1, 0))
        assert np.array_equal(one.prediction, np.where(one.label == IGNORE, IGNORE, expected))


def test_the_patches_are_the_same_at_every_step_and_hold_foreground() -> None:
    first, second = (looked_at(CLASSES, torch.full((1, 3, 8, 8), float(n))) for n in range(2))
    assert all(np.array_equal(a.image, b.image) for a, b in zip(first, second, strict=True))
    assert (first[-1].label == 1).any()  # the last samples of a batch are centred on foreground


@pytest.mark.parametrize(("patch", "rows"), [((8, 8), 4), ((8, 8, 8), 6)])
def test_every_view_is_a_row_of_image_label_and_prediction(patch: tuple[int, ...], rows: int) -> None:
    found = looked_at(CLASSES, torch.zeros(1, 3, *patch), patch)
    white = [replace(one, image=np.ones_like(one.image), label=np.zeros_like(one.label)) for one in found]
    page = imread(io.BytesIO(glance.draw(white, "step 7", CLASSES, configuration(patch))))
    dark = (page[..., :3] < 10).all(-1)  # an image of one value is shown black
    columns = np.flatnonzero(np.diff(dark.mean(0) > 0.5, prepend=False, append=False))
    lines = np.flatnonzero(np.diff(dark.mean(1) > 0.5, prepend=False, append=False))
    assert len(columns) == 2 * 3 and len(lines) == 2 * rows
