"""What the curve of a run promises for more time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from autoseg.arrays.metrics import mean_of

LEAST = 4  # looks at whole cases from which something can be said
LATE = 0.3  # share of the run from which on its curve counts
LASTING = 0.5  # share of the curve's slope that is not the falling learning rate's: see docs/training.md
FLAT = 0.0005  # of Dice: less is nothing


def promised(lines: Iterable[Mapping[str, Any]], steps: int, dice: float) -> float | None:
    """The mean Dice to be expected of twice the steps, where `dice` is what these gave; None where nothing is known.

    1 - Dice falls with a power of the steps (Hestness 2017): its exponent is fitted to the Dice of whole cases in the
    log, over the run's later part, and LASTING of it is taken, as within a run the falling learning rate helps too.
    """
    known = [(line["step"], mean_of(line["whole_dice"].values())) for line in lines if line.get("whole_dice")]
    late = [(step, 1 - mean) for step, mean in known if mean is not None and LATE * steps <= step <= steps and mean < 1]
    if len(late) < LEAST or dice >= 1:
        return None
    slope = float(np.polyfit(np.log([step for step, _ in late]), np.log([error for _, error in late]), 1)[0])
    gained = 1 - (1 - dice) * 2 ** (LASTING * min(0.0, slope))
    return dice if gained - dice < FLAT else gained


def sentence(dice: float, gained: float) -> str:
    """What is said of it at a run's end."""
    if gained == dice:
        return f"twice the steps promise no more than this Dice of {dice:.3f}: the curve is flat"
    return f"twice the steps promise a Dice of about {gained:.3f} (now {dice:.3f}), if the curve goes on as it did"
