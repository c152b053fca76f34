"""Forward and back: a batch at once or, where the memory does not hold it, in pieces with the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from autoseg.nets.ggnet import Edged

Cost = Callable[[Sequence[Tensor]], Tensor]
Context = Callable[[], AbstractContextManager[object]]
SIGNS = ("allocate memory", "could not create a primitive")  # of torch's allocator on a CPU, of oneDNN
APART = 24  # bits between the seeds of pieces, more than there are steps


def backward(network: nn.Module, images: Tensor, cost: Cost, seed: int, context: Context, pieces: int = 1) -> Tensor:
    """The loss of a batch; its slopes are added to the gradients of the weights.

    In pieces, the network runs twice: first without a way back, for the logits of the whole batch and the loss's slopes
    at them, then piece by piece from these slopes (Gao 2021). That gives the gradients of the batch at once whatever
    the loss is, but for norms over the batch, which see a piece.

    Args:
        images: (B, C, *S); cost: from the network's outputs, a list of (B, K, *S), to the loss;
        seed: of what the network draws; context: in which it runs, such as autocast; pieces: 1 to B.
    """
    if pieces == 1:
        loss = cost(_run(network, images, seed, context))
        loss.backward()  # type: ignore[no-untyped-call]
        return loss
    parts = images.chunk(pieces)
    seeds = [seed + (number << APART) for number in range(len(parts))]
    with torch.no_grad():
        answers = [_run(network, part, its, context) for part, its in zip(parts, seeds, strict=True)]
    whole = [torch.cat(maps).requires_grad_() for maps in zip(*map(_flat, answers), strict=True)]
    heads = len(answers[0])
    loss = cost(Edged(whole[:heads], whole[heads:]))
    loss.backward()  # type: ignore[no-untyped-call]
    for number, (part, its) in enumerate(zip(parts, seeds, strict=True)):
        again = _flat(_run(network, part, its, context))
        sloped = [(a, w.grad.chunk(pieces)[number]) for a, w in zip(again, whole, strict=True) if w.grad is not None]
        torch.autograd.backward([a for a, _ in sloped], [slope.to(a.dtype) for a, slope in sloped])
    return loss


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an error says that there is no memory left, on whatever device."""
    return isinstance(problem, torch.OutOfMemoryError | MemoryError) or any(sign in str(problem) for sign in SIGNS)


def _run(network: nn.Module, images: Tensor, seed: int, context: Context) -> list[Tensor]:
    torch.manual_seed(seed % 2**63)
    with context():
        outputs: list[Tensor] = network(images)
    return outputs


def _flat(outputs: list[Tensor]) -> list[Tensor]:
    return [*outputs, *getattr(outputs, "edges", ())]
