"""What the curve of a run promises for more time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from autoseg.arrays.metrics import mean_of

LEAST = 3  # points of the curve from which something can be said
LATE = 0.3  # share of the run from which on its curve counts
LASTING = 0.75  # share of the curve's slope that is not the falling learning rate's: see docs/training.md
FLAT = 0.0005  # of Dice: less is nothing


def promised(lines: Iterable[Mapping[str, Any]], steps: int, dice: float) -> float | None:
    """The mean Dice to be expected of twice the steps, where `dice` is what these gave; None where nothing is known.

    1 - Dice falls with a power of the steps (Hestness 2017): its exponent is fitted to the pseudo-Dice in the log, over
    the run's later part, and LASTING of it is taken, as within a run the falling learning rate helps too.
    """
    known = [(line["step"], mean_of(curve.values())) for line in lines if (curve := numbers(line, "pseudo_dice"))]
    late = [(step, 1 - mean) for step, mean in known if mean is not None and LATE * steps <= step <= steps and mean < 1]
    if len(late) < LEAST or dice >= 1:
        return None
    slope = float(np.polyfit(np.log([step for step, _ in late]), np.log([error for _, error in late]), 1)[0])
    gained = 1 - (1 - dice) * 2 ** (LASTING * min(0.0, slope))
    return dice if gained - dice < FLAT else gained


def numbers(line: Mapping[str, Any], name: str) -> Mapping[str, float | None]:
    """What a line of the log says of every class; nothing where that is no such thing."""
    found = line.get(name)
    if not isinstance(found, Mapping) or not isinstance(line.get("step"), int):
        return {}
    return {key: value for key, value in found.items() if value is None or isinstance(value, int | float)}


def sentence(dice: float, gained: float) -> str:
    """What is said of it at a run's end."""
    if gained == dice:
        return f"twice the steps promise no more than this Dice of {dice:.3f}: the curve is flat"
    return f"twice the steps promise a Dice of about {gained:.3f} (now {dice:.3f}), if the curve goes on as it did"
