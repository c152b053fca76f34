"""The loss of boundaries: edges by max-pooling, and how far they are from the target's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from autoseg.losses.targets import Loss, counted, probabilities, truth


def boundary(first: int) -> Loss:
    """Mean squared difference of the probabilities' and the target's edges, over voxels and classes (Xue 2021).

    A perfect prediction gives 0, and so does a flat one of an empty class, which has no edges. The background counts:
    it has a boundary's other side. Where every voxel is ignored, it is 0.
    """

    def loss(logits: Tensor, target: Tensor) -> Tensor:
        # no probability is below 0, so that a neighbour of 0 changes no maximum: ignored voxels are not looked at
        return edge_error(edge(probabilities(logits, target) * counted(logits, target)), target)

    return loss


def edge(maps: Tensor) -> Tensor:
    """|m − maxpool3(m)| (Xue 2021): (B, K, *S) -> same; of a mask, the rim of one voxel around it."""
    pool = F.max_pool2d if maps.ndim == 4 else F.max_pool3d
    return pool(maps, 3, stride=1, padding=1) - maps


def edge_error(edges: Tensor, target: Tensor) -> Tensor:
    """Mean squared difference of edges (B, K, *S) and those of the target, over what is not ignored; 0 if all is."""
    known = counted(edges, target)
    missed = (edges - edge(truth(edges, target).to(edges.dtype))) * known
    return missed.square().sum() / known.sum().clamp(min=1)
