"""Whose label it is: a vector per rater."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Rater(nn.Module):
    """One vector per rater is added to the features; where no rater is given, the mean of the vectors is.

    A leaky ReLU follows, as a constant alone would vanish in the next instance norm. The vectors begin with 0, and the
    optimiser's weight decay keeps them small. `raters` is how many there are; `slope` is that below 0.
    """

    def __init__(self, dims: int, channels: int, raters: int = 2, slope: float = 0.01) -> None:
        super().__init__()
        if raters < 1:
            raise ValueError(f"raters is {raters}, not at least 1")
        self.vectors = nn.Parameter(torch.zeros(raters, channels))
        self.slope, self.axes = slope, (1,) * dims
        self.given: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, *S) -> same."""
        vector = self.vectors.mean(0, keepdim=True) if self.given is None else self.vectors[self.given]
        return F.leaky_relu(x + vector.reshape(*vector.shape, *self.axes).to(x.dtype), self.slope)


def listen(network: nn.Module, channels: int) -> None:
    """Where the network has vectors of raters: takes the rater's number from a channel after the image's `channels`.

    Without that channel, as in prediction, no rater is given.
    """
    sites = [module for module in network.modules() if isinstance(module, Rater)]
    if not sites:
        return

    def split(_: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        images = given[0]
        rated = images.shape[1] == channels + 1
        for site in sites:
            site.given = images[:, -1].flatten(1)[:, 0].long() if rated else None
        return (images[:, :channels],)

    network.register_forward_pre_hook(split)
