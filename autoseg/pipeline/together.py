"""What one of several processes that train together does for all of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from autoseg.steps.world import World

if TYPE_CHECKING:
    from autoseg.steps.learner import Learner

T = TypeVar("T")


def led(world: World, kind: Any, job: Callable[[], T]) -> T:
    """What the job of the first process answers, a value of this kind, in all of them; the others wait for it.

    Raises: SystemExit in the others where the job fails; the first process says why.
    """
    if world.size == 1:
        return job()
    from pydantic import TypeAdapter

    known: TypeAdapter[T] = TypeAdapter(kind)
    if world.rank > 0:
        told = json.loads(world.send())
        if "failed" in told:
            raise SystemExit(told["failed"])
        return known.validate_json(told["found"])
    try:
        found = job()
    except BaseException as problem:
        world.send(json.dumps({"failed": getattr(problem, "exit_code", 1)}).encode())
        raise
    world.send(json.dumps({"found": known.dump_json(found).decode()}).encode())
    return found


def share_state(learner: Learner) -> None:
    """Gives all processes the state that the learner of the first one has."""
    world = learner.world
    if world.size == 1:
        return
    from safetensors.torch import load, save

    counts = [learner.step, learner.skipped, learner.skipped_last, learner.pieces]
    counts = json.loads(world.send(json.dumps(counts).encode()))
    content = b""
    if world.rank == 0:
        content = save({name: one.contiguous() for name, one in learner.tensors().items()})
    content = world.send(content)
    if world.rank > 0:
        learner.load(load(content), *counts)
