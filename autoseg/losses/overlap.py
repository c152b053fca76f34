"""Losses of overlap: what is predicted of a class and what is true of it, as soft sets.

All are means over the classes from `first` on. Where every voxel is ignored, all are 0.
"""

from __future__ import annotations

from torch import Tensor

from autoseg.losses.targets import Loss, counted, probabilities, truth

OVER: dict[str, tuple[int, ...]] = {"batch": (0,), "sample": ()}  # what is summed beside the spatial axes
STEEP = 1e-6  # below this shortfall a power under 1 goes on as a line: its slope would have no bound


def soft_dice(first: int, smooth: float = 1e-5, over: str = "batch", background: bool = False) -> Loss:
    """1 − the mean soft Dice (Milletari 2016, Drozdzal 2016).

    A perfect prediction gives 0. Of an empty class of which P voxels are predicted, the Dice is smooth / (P + smooth):
    it costs nearly 1 until nothing is predicted of it, then 0.
    Args:
        smooth: voxels added above and below, above 0.
        over: what is summed before the ratio is taken. `batch`: all samples, so that a class absent from one does not
            pull its Dice to 0; `sample`: each by itself.
        background: whether the classes before the first count too.
    """
    return tversky(first, 0.5, 0.5, smooth / 2, over, background)


def tversky(
    first: int,
    alpha: float = 0.3,
    beta: float = 0.7,
    smooth: float = 1e-5,
    over: str = "batch",
    background: bool = False,
) -> Loss:
    """1 − the mean of TP / (TP + alpha · FP + beta · FN) (Salehi 2017); with two halves, soft Dice.

    A perfect prediction gives 0; an empty class costs nearly 1 until nothing is predicted of it, then 0.
    """
    return focal_tversky(first, alpha, beta, 1.0, smooth, over, background)


def focal_tversky(
    first: int,
    alpha: float = 0.3,
    beta: float = 0.7,
    gamma: float = 4 / 3,
    smooth: float = 1e-5,
    over: str = "batch",
    background: bool = False,
) -> Loss:
    """Mean of (1 − Tversky index)^(1/gamma) (Abraham 2019); here, too, alpha weighs the FP and beta the FN.

    A perfect prediction gives 0; an empty class costs nearly 1 until nothing is predicted of it, then 0.
    """
    if over not in OVER or background not in (True, False):
        raise ValueError(f"over is {over!r} and background {background!r}, expected batch or sample and true or false")
    if not (smooth > 0 and gamma > 0):
        raise ValueError("smooth and gamma want numbers above 0")
    if not (alpha >= 0 and beta >= 0 and alpha + beta > 0):
        raise ValueError(f"alpha is {alpha} and beta {beta}, expected 0 or more, not both 0")
    start = 0 if background else first

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        both, predicted, true = _sums(logits, target, start, over)
        weighed = both + alpha * (predicted - both) + beta * (true - both)
        shortfall = 1 - (both + smooth) / (weighed + smooth)
        return (shortfall * shortfall.clamp(min=STEEP) ** (1 / gamma - 1)).mean()

    return loss


def _sums(logits: Tensor, target: Tensor, start: int, over: str) -> tuple[Tensor, Tensor, Tensor]:
    """TP, what is predicted and what is true, in voxels, per class from `start` on: (K,) or (B, K)."""
    axes = (*OVER[over], *range(2, logits.ndim))
    likely = probabilities(logits, target)[:, start:] * counted(logits, target)[:, start:]
    true = truth(logits, target)[:, start:]
    return (likely * true).sum(axes), likely.sum(axes), true.sum(axes)
