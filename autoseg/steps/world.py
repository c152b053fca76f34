"""Several processes that train one network together, each on its share of every batch."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from autoseg.errors import BadUsage, RunFailed

if TYPE_CHECKING:
    from torch import Tensor

BUCKET = 25_000_000  # bytes of gradients that are summed at once
GATHERING = timedelta(minutes=10)  # in which the processes have to find each other
PATIENCE = timedelta(days=1)  # for a process that works; one that ends is noticed at once
LOST = ("closed by peer", "Connection reset", "Broken pipe", "[Gloo]", "gloo/", "NCCL")  # in torch's errors


@dataclass(frozen=True)
class World:
    """One process among those that train together; one alone is a world of size 1, in which nothing is exchanged.

    `rank` is its number, 0 leads; `local` that on its machine; `counts` are the samples of a batch that each one has.
    """

    rank: int = 0
    size: int = 1
    local: int = 0
    counts: tuple[int, ...] = ()

    @property
    def share(self) -> slice:
        """Which samples of a batch are those of this process."""
        if self.size == 1:
            return slice(None)
        first = sum(self.counts[: self.rank])
        return slice(first, first + self.counts[self.rank])

    def sharing(self, batch: int) -> World:
        """This process, with its share of batches of that size. Raises: BadUsage for a batch that is too small."""
        if self.size > batch:
            raise BadUsage(
                f"{self.size} processes cannot share a batch of {batch}", expected="at most one process per sample",
                remedy=f"start {batch}, or plan a larger batch (--set CONFIGURATION.batch={self.size})",
            )  # fmt: skip
        return replace(self, counts=tuple(batch // self.size + (rank < batch % self.size) for rank in range(self.size)))

    def device(self, wish: str) -> str:
        """The device that `--device` stands for in this process. Raises: BadUsage for one that cannot be shared."""
        if self.size == 1:
            return wish
        import torch

        if wish not in ("auto", "cpu", "cuda"):
            raise BadUsage(
                f"{self.size} processes cannot train on {wish}", where="--device", expected="auto, cpu or cuda",
                remedy="cuda takes as many GPUs of a machine as it has processes",
            )  # fmt: skip
        return f"cuda:{self.local}" if wish == "cuda" or (wish == "auto" and torch.cuda.is_available()) else "cpu"

    def agreed(self) -> AbstractContextManager[None]:
        """What is inside runs out of memory in all processes where it does in one (torch.OutOfMemoryError)."""
        return contextlib.nullcontext() if self.size == 1 else self._agreed()

    @contextlib.contextmanager
    def _agreed(self) -> Iterator[None]:
        import torch

        from autoseg.steps.backward import is_out_of_memory

        failed = False
        try:
            yield
        except (RuntimeError, MemoryError) as problem:
            if not is_out_of_memory(problem):
                raise
            failed = True  # the error itself would keep what the attempt holds
        if self.any(failed):
            raise torch.OutOfMemoryError("memory ran out in one of the processes")

    def any(self, here: bool) -> bool:
        """Whether it is so in any process."""
        if self.size == 1:
            return here
        import torch
        import torch.distributed as dist

        flag = torch.tensor([here], dtype=torch.uint8)
        dist.all_reduce(flag, dist.ReduceOp.MAX)
        return bool(flag)

    def whole(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Of every tensor (n, …), n the samples of this process, the whole batch (B, …); only these have a way back.

        Raises: torch.OutOfMemoryError, in all processes.
        """
        if self.size == 1:
            return list(tensors)
        import torch
        import torch.distributed as dist

        most = max(self.counts)
        with self.agreed():
            rooms = [one.new_empty((self.size, most, *one.shape[1:])) for one in tensors]
            sent = [one.new_zeros((most, *one.shape[1:])) for one in tensors]
        for own, room, filled in zip(tensors, rooms, sent, strict=True):
            filled[: len(own)] = own.detach()
            dist.all_gather(list(room.view(torch.uint8).unbind()), filled.view(torch.uint8))  # whatever its kind
        with self.agreed():
            found = []
            for own, room in zip(tensors, rooms, strict=True):
                parts = [part[:count] for part, count in zip(room, self.counts, strict=True)]
                found.append(torch.cat([*parts[: self.rank], own, *parts[self.rank + 1 :]]))
        return found

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Gives every tensor the sum over the processes, to the last bit the same in all of them."""
        if self.size == 1:
            return
        import torch
        import torch.distributed as dist

        for bucket in _buckets(tensors):
            flat = torch.cat([one.reshape(-1) for one in bucket])
            dist.all_reduce(flat)
            for one, total in zip(bucket, torch.split(flat, [one.numel() for one in bucket]), strict=True):
                one.copy_(total.view_as(one))

    def first(self, value: Tensor) -> Tensor:
        """The value that the first process has."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        shared = value.detach().clone()
        dist.broadcast(shared, 0)
        return shared

    def send(self, content: bytes = b"") -> bytes:
        """What the first process sends, in all of them."""
        if self.size == 1:
            return content
        import torch
        import torch.distributed as dist

        length = torch.tensor([len(content)])
        dist.broadcast(length, 0)
        room = torch.zeros(int(length) + 1, dtype=torch.uint8)  # one more, as nothing cannot be sent
        if self.rank == 0:
            room = torch.frombuffer(bytearray(content + b"\0"), dtype=torch.uint8)
        dist.broadcast(room, 0)
        return room.numpy().tobytes()[:-1]

    def part(self) -> None:
        """Each process goes on alone; nothing is exchanged from here."""
        if self.size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()


ALONE = World()


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    """The tensors in order, as many at once as a bucket holds."""
    bucket: list[Tensor] = []
    held = 0
    for one in tensors:
        size = one.numel() * one.element_size()
        if bucket and held + size > BUCKET:
            yield bucket
            bucket, held = [], 0
        bucket.append(one)
        held += size
    if bucket:
        yield bucket


def told(environment: Mapping[str, str]) -> World:
    """Which process this is, by the variables that torchrun sets. Raises: BadUsage where they are incomplete."""
    names = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
    if (environment.get("WORLD_SIZE") or "1") == "1":
        return ALONE
    missing = [name for name in names if not environment.get(name)]
    numbers = [environment.get(name, "") for name in names if name != "MASTER_ADDR"]
    size, rank, local = (int(text) if text.isdecimal() else -1 for text in numbers[:3])
    if missing or not all(text.isdecimal() for text in numbers) or not 0 <= local <= rank < size:
        raise BadUsage(
            f"the environment speaks of several processes, but {' and '.join(missing) or 'its numbers'} "
            f"{'is missing' if len(missing) == 1 else 'are missing' if missing else 'contradict each other'}",
            where="WORLD_SIZE", expected=f"{', '.join(names)} as torchrun sets them",
            remedy="start with torchrun, or unset WORLD_SIZE to train with one process",
        )  # fmt: skip
    return World(rank, size, local)


@contextlib.contextmanager
def joined(environment: Mapping[str, str]) -> Iterator[World]:
    """The world of this process, which its launcher told of in the environment; a process alone imports nothing.

    Raises: BadUsage where the environment is incomplete; RunFailed where the others are not found, or lost.
    """
    world = told(environment)
    if world.size == 1:
        yield world
        return
    try:
        _join(world)
        try:
            yield world
        except BaseException as problem:
            if not _on_gpus():  # GPUs would wait for all processes to part
                world.part()
            if isinstance(problem, KeyboardInterrupt) and world.rank > 0:
                raise SystemExit(130) from None  # the first process says that all were stopped
            raise
        world.part()
    except RuntimeError as problem:
        if not any(sign in str(problem) for sign in LOST) and type(problem).__name__[:4] != "Dist":
            raise
        raise RunFailed(
            f"process {world.rank} of {world.size} has lost the others, or never found them",
            remedy="see what they say; the same command goes on from the last checkpoint",
        ) from problem


def _on_gpus() -> bool:
    import torch.distributed as dist

    return dist.is_initialized() and "nccl" in dist.get_backend_config()


def _join(world: World) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed.rendezvous import rendezvous

    backend = "gloo"
    if torch.cuda.is_available() and dist.is_nccl_available():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(world.local % torch.cuda.device_count())
    store, rank, size = next(rendezvous("env://", timeout=GATHERING))
    dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [*range(os.cpu_count() or 1)]
    name = hashlib.sha256(f"{socket.gethostname()} {cores}".encode()).digest()
    mine = torch.frombuffer(bytearray(name), dtype=torch.uint8)
    names = [torch.zeros_like(mine) for _ in range(world.size)]
    dist.all_gather(names, mine)
    sharing = sum(torch.equal(one, mine) for one in names)
    torch.set_num_threads(min(torch.get_num_threads(), max(1, len(cores) // sharing)))
