"""Every part learns: sixty steps on a synthetic problem bring the loss below half of what it was.

The whole matrix is slow: scripts/test -m slow tests/nets/test_learning.py --table FILE writes its table.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import cache
from math import isfinite
from pathlib import Path

import pytest
import torch
from torch import Tensor

from autoseg import parts
from autoseg.errors import BadPlan
from autoseg.nets.places import PLACES, parse
from autoseg.records import Channel, Configuration, Memory, Part, Question, Train
from autoseg.steps import train
from autoseg.steps.design import Variant, network_of
from autoseg.steps.learner import build
from autoseg.steps.topology import Topology

STEPS, TAIL = 60, 5
OWN = ("swin_unet", "vit_unet")  # architectures with blocks of their own
QUESTION = Question(
    reader="nifti", channels=(Channel(name="a", kind="mr"),), labels={"background": 0, "ball": 1, "core": 2}
)
Combination = tuple[int, str, str]  # axes, what is put together, as Variant arguments in text


def combinations() -> Iterator[Combination]:
    """(dims, architecture/block, inserts): each architecture × block, each insert × place."""
    for dims in (2, 3):
        for name in parts.NETWORKS:
            for block in ["plain"] if name in OWN else list(parts.BLOCKS):
                if dims == 2 or not {name, block} & {"deeplabv3p", "deformable"}:
                    yield dims, f"{name}/{'' if name in OWN else block}", ""
        for name in parts.INSERTS:
            for place in getattr(parts.INSERTS.get(name), "places", [p for p in PLACES if p != "join"]):
                yield dims, "unet/plain", f"{name}@{place}"
        for name in parts.JOINS:
            yield dims, "unet/plain", f"{name}@join"


EVERY = list(combinations())


def configuration(dims: int, network: str, inserts: str) -> Configuration:
    name, _, block = network.partition("/")
    strides = ((1,) * dims, (2,) * dims, (2,) * dims)
    found = Topology((32, 32) if dims == 2 else (16, 16, 16), strides, ((3,) * dims,) * 3, (8, 16, 32), 2)
    made = network_of(found, Variant(Part(name=name), Part(name=block) if block else None, parse(inserts)))
    patch = tuple(-(-edge // d) * d for edge, d in zip(found.patch, made.divisor, strict=True))
    return Configuration(
        spacing=(1.0,) * dims, patch=patch, batch=2, normalise=(Part(name="zscore"),), resample=Part(name="spline"),
        network=made, memory=Memory(bytes=0, method=""),
        train=Train(loss="dice+ce", augment=(), steps=STEPS, schedule=Part(name="poly"), foreground=0.3,
                    optimiser=Part(name="adamw", options={"rate": 1e-2})),
    )  # fmt: skip


@cache
def balls(patch: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Four noisy images of a bright ball with a brighter core (4, 1, *patch), and their labels."""
    generator = torch.Generator().manual_seed(0)
    grid = torch.stack(torch.meshgrid(*(torch.arange(n) / n for n in patch), indexing="ij"))
    centres = 0.35 + 0.3 * torch.rand((4, len(patch)) + (1,) * len(patch), generator=generator)
    distance = ((grid[None] - centres) ** 2).sum(1).sqrt()
    labels = (distance < 0.3).to(torch.uint8) + (distance < 0.15)
    return labels[:, None] + 0.3 * torch.randn((4, 1, *patch), generator=generator), labels


def learned(combination: Combination) -> tuple[float, float]:
    """The loss of the first step, and the mean of the last few."""
    made = configuration(*combination)
    learner = build(made, QUESTION, 0, torch.device("cpu"), "float32")
    images, labels = balls(made.patch)
    found = []
    for step in range(STEPS):
        rows = slice(0, 2) if step % 2 else slice(2, 4)
        found.append(train.learn(learner, images[rows], labels[rows]))
    assert all(map(isfinite, found))
    return found[0], sum(found[-TAIL:]) / TAIL


def told(combination: Combination) -> str:
    return " ".join(filter(None, (f"{combination[0]}d", *combination[1:])))


SHUT = (3, "unet/plain", "cbam@head")  # its gate shut everywhere in the first steps when started after He


@pytest.mark.parametrize("combination", [*random.Random(3).sample(EVERY, 4), SHUT], ids=told)
def test_a_sample_learns(combination: Combination) -> None:
    first, last = learned(combination)
    assert last < first / 2


@pytest.fixture(scope="module")
def table(pytestconfig: pytest.Config) -> Iterator[dict[Combination, tuple[float, float]]]:
    """What the matrix found, written to --table as Markdown when it is done."""
    rows: dict[Combination, tuple[float, float]] = {}
    yield rows
    file: Path | None = pytestconfig.getoption("table")
    if file is not None:
        lines = [
            f"| {dims}D | `{network}` | `{inserts}` | {first:.3f} | {last:.3f} | {last / first:.2f} |"
            for (dims, network, inserts), (first, last) in rows.items()
        ]
        head = ["| | network/block | inserts | first loss | last loss | ratio |", "|---|---|---|---|---|---|"]
        file.write_text("\n".join([*head, *lines]) + "\n", encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("combination", EVERY, ids=told)
def test_the_whole_matrix_learns(combination: Combination, table: dict[Combination, tuple[float, float]]) -> None:
    first, last = table[combination] = learned(combination)
    assert last < first / 2


def test_the_matrix_holds_what_there_is() -> None:
    assert {name.partition("/")[0] for _, name, _ in EVERY} == set(parts.NETWORKS)
    assert {name.partition("/")[2] for _, name, _ in EVERY} - {""} == set(parts.BLOCKS)
    assert {text.partition("@")[0] for _, _, text in EVERY} - {""} == {*parts.INSERTS, *parts.JOINS}
    with pytest.raises(BadPlan):
        configuration(3, "deeplabv3p/plain", "")
