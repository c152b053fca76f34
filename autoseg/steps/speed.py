"""How long a training step takes."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from autoseg.records import Configuration, Question
from autoseg.steps import preprocess
from autoseg.steps.batches import Batches
from autoseg.steps.device import Precision
from autoseg.steps.learner import Learner, build
from autoseg.steps.train import learn

PROBED = 8.0  # seconds of steps, after which the speed is known well enough


@dataclass(frozen=True)
class Speed:
    """Seconds of a training step, and the share of them in which the processor was at work for all of our threads."""

    seconds: float
    share: float


def speed_of(
    configuration: Configuration,
    question: Question,
    device: torch.device,
    precision: Precision,
    steps: int = 5,
) -> Speed:
    """Of a training step on random images, after one or two to warm up: the fastest, as other work only slows.

    Slow steps are fewer: after PROBED seconds no further one is begun.
    """
    learner = build(configuration, question, 0, device, precision)
    images, labels = noise(configuration, question, device)
    found: list[Speed] = []
    began = time.perf_counter()
    while len(found) < 2 or (len(found) < steps + 2 and time.perf_counter() - began < PROBED):
        found.append(_timed(learner, images, labels))
    return min(found[min(2, len(found) - 1) :], key=lambda one: one.seconds)


def noise(configuration: Configuration, question: Question, device: torch.device) -> tuple[Tensor, Tensor]:
    """Random images (B, C, *patch) and labels (B, *patch) of a batch."""
    channels = preprocess.inputs(configuration.normalise, question, configuration.previous)
    images = torch.randn(configuration.batch, channels, *configuration.patch, device=device)
    shape = configuration.batch, *configuration.patch
    return images, torch.randint(0, len(question.classes), shape, dtype=torch.uint8, device=device)


def measure_speed(learner: Learner, batches: Batches, steps: int) -> float:
    """Median seconds of the first steps of a run, reading included, after two to warm up; the learner moves on."""
    times, began = [], time.perf_counter()
    for images, labels in batches.stream(0, steps):
        learn(learner, images, labels)
        times.append(time.perf_counter() - began)
        began = time.perf_counter()
    return sorted(times[2:])[len(times[2:]) // 2]


def _timed(learner: Learner, images: Tensor, labels: Tensor) -> Speed:
    began, worked = time.perf_counter(), time.process_time()
    learn(learner, images, labels)
    seconds = time.perf_counter() - began
    return Speed(seconds, (time.process_time() - worked) / (seconds * torch.get_num_threads()))
