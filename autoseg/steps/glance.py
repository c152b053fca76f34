"""A few patches with their label and what the network makes of them at this step, as a picture."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from autoseg.image import IGNORE
from autoseg.records import Configuration, Question
from autoseg.steps import cases, sheet, words
from autoseg.steps.batches import Batches
from autoseg.steps.device import autocast

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from autoseg.steps.learner import Learner

SHOWN = {2: 4, 3: 2}  # patches
WIDE = 2.5  # of a view, in inches
COLUMNS = ("image", "label", "prediction")


@dataclass(frozen=True)
class Patch:
    """Image (C, *S), label and prediction (*S): class indices or IGNORE."""

    image: NDArray[np.float32]
    label: NDArray[np.uint8]
    prediction: NDArray[np.uint8]


def patches(learner: Learner, batches: Batches, question: Question) -> list[Patch]:
    """The last patches of the first batch, which is the same at every step, with what the network predicts now."""
    samples = batches.draw(0)[-SHOWN[len(batches.patch)] :]
    images, labels = batches.augment(samples, batches.read(samples))
    learner.network.eval()
    with torch.inference_mode(), autocast(learner.device, learner.precision):
        logits = torch.cat([learner.network(image[None])[0] for image in images])
    found = _classes(logits, question)
    found[labels == IGNORE] = IGNORE
    arrays = (tensor.cpu().numpy() for tensor in (images, labels, found))
    return [Patch(*each) for each in zip(*arrays, strict=True)]


def _classes(logits: Tensor, question: Question) -> Tensor:
    """(B, *S) uint8 class indices; of regions, each is written over those before it."""
    if not question.regions:
        return logits.argmax(1).to(torch.uint8)
    index = cases.index_of(question)
    out = torch.zeros_like(logits[:, 0], dtype=torch.uint8)
    for region, value in enumerate(question.written):
        out[logits[:, region] > 0] = index[value]
    return out


def draw(found: Sequence[Patch], title: str, question: Question, settings: Configuration) -> bytes:
    """A PNG: each view of each patch a row of the image, the label and the prediction."""
    from matplotlib.figure import Figure

    rows = [row for number, patch in enumerate(found, 1) for row in _rows(number, patch, settings)]
    width = 2 * sheet.MARGIN + len(COLUMNS) * (WIDE + sheet.GAP) - sheet.GAP
    labels = [array for patch in found for array in (patch.label, patch.prediction)]
    named = sheet.entries(labels, question.classes, width)
    head = sheet.HEAD + sheet.LINE * 1.3 * len(named)
    heights = [min(row[0].tall, sheet.TALLEST) * WIDE + 1.4 * sheet.LINE + sheet.GAP for row in rows]
    total = head + sum(heights) + sheet.MARGIN
    page = Figure((width, total), dpi=min(sheet.SHARPNESS, sheet.PIXELS / total))
    page.text(sheet.MARGIN / width, 1 - 0.38 / total, title, fontsize=11, fontweight="bold", parse_math=False)
    sheet.legend(page, named, total - sheet.HEAD)
    top = total - head
    for row, height in zip(rows, heights, strict=True):
        _row(page, row, top - 1.4 * sheet.LINE)
        top -= height
    file = io.BytesIO()
    page.savefig(file, format="png")
    return file.getvalue()


def _rows(number: int, patch: Patch, settings: Configuration) -> list[tuple[sheet.View, sheet.View]]:
    """(with the label, with the prediction) of every view."""
    axes = words.axes_of(settings)
    point = sheet.focus(patch.label)
    pairs = zip(
        sheet.views(patch.image, patch.label, axes, settings.spacing, point),
        sheet.views(patch.image, patch.prediction, axes, settings.spacing, point),
        strict=True,
    )
    return [(replace(one, name=f"patch {number} · {one.name}"), other) for one, other in pairs]


def _row(page: Figure, row: tuple[sheet.View, sheet.View], top: float) -> None:
    width, total = page.get_size_inches()
    labelled, predicted = row
    size = min(WIDE, WIDE * sheet.TALLEST / labelled.tall)
    high = size * labelled.tall
    for column, (name, view) in enumerate(zip(COLUMNS, (labelled, labelled, predicted), strict=True)):
        left = sheet.MARGIN + column * (WIDE + sheet.GAP)
        box = page.add_axes((left / width, (top - high) / total, size / width, high / total))
        sheet.show(box, view, labelled=column > 0)
        if column:
            box.set_title(name, fontsize=7.5, color="#666", loc="left", pad=2)
