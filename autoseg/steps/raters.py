"""Tasks whose cases have the labels of several raters."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from autoseg.records import Configuration, Insert, Part, Question
from autoseg.steps.design import Variant

NAME = "rater"


def asked(variant: Variant, question: Question, because: dict[str, str]) -> Variant:
    """The variant, with a vector per rater before the heads where there are several raters and none was asked for."""
    if not question.raters or any(insert.part.name == NAME for insert in variant.inserts):
        return variant
    because["question.raters"] = f"{', '.join(question.raters)}: one vector each before the heads, prediction the mean"
    insert = Insert(part=Part(name=NAME, options={"raters": len(question.raters)}), place="head")
    return replace(variant, inserts=(*variant.inserts, insert))


def are_told_apart(configuration: Configuration) -> bool:
    """Whether the network wants to know whose label it is given."""
    return any(insert.part.name == NAME for insert in configuration.network.inserts)


def channel_of(images: Tensor, raters: list[int]) -> Tensor:
    """(B, 1, *S): the number of each sample's rater, everywhere."""
    numbers = torch.tensor(raters, dtype=images.dtype, device=images.device)
    return numbers.reshape(-1, 1, *[1] * (images.ndim - 2)).expand(-1, 1, *images.shape[2:])
