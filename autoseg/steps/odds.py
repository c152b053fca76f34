"""From which share of probability on a class is written over the background.

The share of a class is its probability by the sum of that and the background's. Of the classes above the background the
most probable one alone is asked, so that a threshold of one class moves voxels between it and the background, and of no
other class.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from autoseg.errors import BadPlan
from autoseg.records import Question

if TYPE_CHECKING:
    from torch import Tensor

SHARES = tuple(n / 20 for n in range(2, 19))  # that are tried
PLAIN = SHARES.index(0.5)
Indices = NDArray[np.uint8]


def log_odds(thresholds: Mapping[str, float], question: Question) -> tuple[float, ...]:
    """Of every class above the background the log odds over it from which it is written; () where all are 0.

    Raises: BadPlan for a class that there is not, or where no class is the background.
    """
    if not thresholds:
        return ()
    if question.regions or not question.background:
        raise BadPlan("there is no background to give voxels to", where="postprocessing", remedy="without thresholds")
    if unknown := [name for name in thresholds if name not in question.foreground]:
        expected = f"one of {', '.join(question.foreground)}"
        raise BadPlan(f"there is no class {unknown[0]!r}", where="postprocessing", expected=expected)
    shares = [thresholds.get(name, 0.5) for name in question.foreground]
    return tuple(log(share / (1 - share)) for share in shares)


def classes_of(chances: Tensor, least: Sequence[float]) -> Tensor:
    """The class indices, uint8 (*S), that probabilities (K, *S) decide, the first one being the background's.

    Args:
        least: log odds, as of `log_odds`.
    """
    import torch

    if not least:
        return chances.argmax(0).to(torch.uint8)
    above, index = chances[1:].max(0)
    written = above > torch.tensor(least).exp().to(chances)[index] * chances[0]
    return torch.where(written, index + 1, 0).to(torch.uint8)


def levels_of(chances: Tensor) -> Indices:
    """(2, *S): which class is the most probable one above the background, and how many of SHARES it exceeds.

    The class is 0 where it exceeds none.
    """
    import torch

    above, index = chances[1:].max(0)
    share = above / (above + chances[0]).clamp(min=torch.finfo(chances.dtype).tiny)
    level = torch.bucketize(share.contiguous(), torch.tensor(SHARES).to(share))
    level = torch.where(above > chances[0], level.clamp(min=PLAIN + 1), level.clamp(max=PLAIN))  # as without rounding
    found: Indices = torch.stack([torch.where(level > 0, index + 1, 0), level]).to(torch.uint8).cpu().numpy()
    return found


def decided(label: Indices, levels: Indices, thresholds: Mapping[int, float]) -> Indices:
    """The label (*S) with other thresholds, of SHARES, for some classes, by index.

    Args:
        levels: (2, *S), as of `levels_of`.
    Raises: BadPlan for a share that is not one of SHARES.
    """
    if odd := [share for share in thresholds.values() if share not in SHARES]:
        raise BadPlan(f"a threshold is {odd[0]:g}", where="postprocessing", expected=f"one of {SHARES}")
    best, level = levels
    found: Indices = label.copy()
    for index, share in thresholds.items():
        mine = best == index
        found[mine] = np.where(level[mine] > SHARES.index(share), index, 0)
    return found
