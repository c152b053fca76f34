"""Forward and back: a batch at once or, where the memory does not hold it, in pieces with the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn

from autoseg.nets.ggnet import Edged
from autoseg.steps.stages import Stages
from autoseg.steps.world import ALONE, World

Cost = Callable[[Sequence[Tensor]], Tensor]
Context = Callable[[], AbstractContextManager[object]]
Forward = Callable[..., list[Tensor]]  # of images (B, C, *S) and the number of their piece
SIGNS = ("allocate memory", "could not create a primitive")  # of torch's allocator on a CPU, of oneDNN
APART = 24  # bits between the seeds of pieces, more than there are steps


def backward(
    network: nn.Module,
    images: Tensor,
    cost: Cost,
    seed: int,
    context: Context,
    pieces: int = 1,
    stages: Stages | None = None,
    world: World = ALONE,
) -> Tensor:
    """The loss of a batch; its slopes are added to the gradients of the weights.

    In pieces, the network runs twice: first without a way back, for the logits of the whole batch and the loss's slopes
    at them, then piece by piece from these slopes (Gao 2021). That gives the gradients of the batch at once whatever
    the loss is, but for norms over the batch, which see a piece.

    Where several processes train together, each runs the network on its share of the batch and gets the outputs of the
    others, computes the loss of the whole batch, and goes back through its share; the gradients are added up.

    Args:
        images: (B, C, *S), or a process's share; cost: from the network's outputs, a list of (B, K, *S), to the loss;
        seed: of what the network draws; context: in which it runs, such as autocast; pieces: 1 to B;
        stages: where the seconds of forward, loss and backward are added; world: the processes, if there are several.
    Raises: torch.OutOfMemoryError in all processes where memory runs out in one.
    """
    stages = stages or Stages()

    def forward(images: Tensor, number: int = 0) -> list[Tensor]:
        return _run(network, images, seed + ((world.rank * pieces + number) << APART), context)

    if pieces == 1:
        loss = _at_once(forward, images, cost, stages, world)
    else:
        loss = _in_pieces(forward, images.chunk(pieces), cost, stages, world)
    world.add_up([weight.grad for weight in network.parameters() if weight.grad is not None])
    return world.first(loss)


def _at_once(forward: Forward, images: Tensor, cost: Cost, stages: Stages, world: World) -> Tensor:
    with world.agreed(), stages("forward"):
        outputs = forward(images)
    if world.size > 1:
        outputs = _whole(outputs, world)
    with world.agreed():
        with stages("loss"):
            loss = cost(outputs)
        del outputs  # else they stay in memory while the gradients are computed
        with stages("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
    return loss


def _in_pieces(forward: Forward, parts: Sequence[Tensor], cost: Cost, stages: Stages, world: World) -> Tensor:
    with world.agreed():
        with stages("forward"), torch.no_grad():
            answers = [forward(part, number) for number, part in enumerate(parts)]
        own = [torch.cat(maps).requires_grad_() for maps in zip(*map(_flat, answers), strict=True)]
    heads, sizes = len(answers[0]), [len(part) for part in parts]
    whole = _whole(Edged(own[:heads], own[heads:]), world)
    with world.agreed():
        with stages("loss"):
            loss = cost(whole)
        with stages("backward"):
            loss.backward()  # type: ignore[no-untyped-call]
        for number, part in enumerate(parts):
            with stages("forward"):
                again = _flat(forward(part, number))
            slopes = [
                (a, torch.split(o.grad, sizes)[number]) for a, o in zip(again, own, strict=True) if o.grad is not None
            ]
            with stages("backward"):
                torch.autograd.backward([a for a, _ in slopes], [slope.to(a.dtype) for a, slope in slopes])
    return loss


def _whole(outputs: list[Tensor], world: World) -> Edged:
    """The outputs of the whole batch, of which these are the share of this process."""
    maps = world.whole(_flat(outputs))
    return Edged(maps[: len(outputs)], maps[len(outputs) :])


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
