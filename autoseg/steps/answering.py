"""The sweep of a view: its tiles, what its networks answer to them, and where the front lies."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import torch
from torch import Tensor

from autoseg.arrays.boxes import Box
from autoseg.records import Question
from autoseg.steps.device import autocast
from autoseg.steps.restoring import needed
from autoseg.steps.sweep import Sweep
from autoseg.steps.tiling import logits_and_disagreement, mean_logits
from autoseg.steps.views import How, View


def outputs_of(question: Question, how: How) -> int:
    return len(question.outputs) + how.disagreement


def sweep_of(one: View, question: Question, how: How, axis: int, cut: Box) -> Sweep:
    """The sweep of a view along an axis of the image; `cut` is in the plan's axes."""
    source, geometry, configuration = one.prepared.source, one.prepared.geometry, one.configuration
    box = needed(source.shape, geometry.cropped, geometry.coarse, cut)
    batch = 1 if one.device.type == "cpu" else configuration.batch  # the features of one stay in a CPU's cache
    return Sweep(
        source, (1,) * (3 - configuration.dims) + configuration.patch, how.step, geometry.axes.index(axis),
        outputs_of(question, how), answer_of(one, question, how),
        box=box, batch=batch, device=one.device, kept=_where(one, question, how),
    )  # fmt: skip


def _where(one: View, question: Question, how: How) -> torch.device:
    """A GPU keeps the front where half of its free memory holds all of it, else the CPU does."""
    if one.device.type != "cuda":
        return torch.device("cpu")
    free, _ = torch.cuda.mem_get_info(one.device)
    bytes_of_all = 4 * (outputs_of(question, how) + 1) * prod(one.prepared.source.shape)
    return one.device if bytes_of_all * how.views < free / 2 else torch.device("cpu")


def answer_of(one: View, question: Question, how: How) -> Callable[[Tensor], Tensor]:
    """Tiles (B, C, z, y, x) to logits (B, K, z, y, x), and the disagreement after them where it is wanted."""
    configuration, at_once, largest = one.configuration, [how.at_once], [one.configuration.batch]

    def once(batch: Tensor) -> Tensor:
        with autocast(one.device, one.precision):
            if how.disagreement:
                regions = bool(question.regions)
                return logits_and_disagreement(one.networks, batch, one.flips, at_once[0], regions=regions)
            return mean_logits(one.networks, batch, one.flips, at_once[0])

    def halved(batch: Tensor) -> Tensor:
        """Where a GPU's memory runs out, in smaller parts from then on."""
        if len(batch) > largest[0]:
            return torch.cat([halved(part) for part in torch.split(batch, largest[0])])
        try:
            return once(batch)
        except torch.OutOfMemoryError:
            if at_once[0] == 1 and len(batch) == 1:
                raise
            torch.cuda.empty_cache()
            at_once[0], largest[0] = 1, max(1, len(batch) // 2)
            return halved(batch)

    def answer(batch: Tensor) -> Tensor:
        size = batch.shape[2:]
        found = halved(batch.reshape(*batch.shape[:2], *configuration.patch)).float()
        return found.reshape(*found.shape[:2], *size)

    return answer
