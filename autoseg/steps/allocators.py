"""How much memory an allocator holds for blocks that come and go: that of the C library, and that of torch on a GPU."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import defaultdict
from typing import Protocol

SMALL = 65_536  # bytes; what is smaller lies in the gaps
PIN = 64  # bytes of an object that stands behind a block
# behind how many blocks of one size, to a power of two, such an object still stands when they are freed: fitted to 55
# networks, most of them scripts/check_memory.py's of seeds 0 and 7 (two cores, one thread, glibc 2.36, torch 2.13.0,
# 2026-11-20). One less or more changes totals by 5 %, as they do from run to run; the mean of three is steadier
PINS = (2, 3, 4)
MEGABYTE = 2**20


class Allocator(Protocol):
    """Takes blocks by number and gives them back; `most` is the most bytes it has held from the system."""

    most: int

    def take(self, number: int, size: int) -> None: ...

    def give(self, number: int) -> None: ...


class Gaps:
    """The free pieces of a range of memory; neighbours become one."""

    def __init__(self) -> None:
        self._sizes: list[tuple[int, int]] = []
        self._from: dict[int, int] = {}
        self._to: dict[int, int] = {}

    def add(self, start: int, end: int) -> tuple[int, int]:
        """A piece that has become free; answers the piece it is part of now."""
        if start in self._to:
            start = self._drop(self._to[start])
        if end in self._from:
            end, _ = self._from[end], self._drop(end)
        insort(self._sizes, (end - start, start))
        self._from[start], self._to[end] = end, start
        return start, end

    def best(self, size: int) -> tuple[int, int] | None:
        """Takes out the smallest piece of that size or above."""
        at = bisect_left(self._sizes, (size, -1))
        if at == len(self._sizes):
            return None
        start = self._sizes[at][1]
        end = self._from[start]
        self._drop(start)
        return start, end

    def remove(self, start: int) -> int | None:
        """Takes out the piece that begins there; answers its end."""
        end = self._from.get(start)
        if end is not None:
            self._drop(start)
        return end

    def _drop(self, start: int) -> int:
        end = self._from.pop(start)
        del self._to[end]
        self._sizes.pop(bisect_left(self._sizes, (end - start, start)))
        return start


class Heap:
    """The heap of glibc where it keeps what is freed (`device.keep_memory`): best fit, neighbours merged.

    Small objects that are made meanwhile stand behind a block, and then a block of its size does not fit where it was.
    Those behind the last few blocks of each size are counted as standing.
    """

    def __init__(self, pins: int) -> None:
        self.most = self._top = 0
        self._standing = pins
        self._gaps = Gaps()
        self._taken: dict[int, tuple[int, int]] = {}
        self._pins: dict[int, list[tuple[int, int]]] = defaultdict(list)

    def take(self, number: int, size: int) -> None:
        """A block, and the object behind it."""
        if size < SMALL:
            return
        start, end = self._place(size + PIN)
        self._taken[number] = start, end - PIN
        alike = self._pins[size.bit_length()]
        alike.append((end - PIN, end))
        if len(alike) > self._standing:
            self._free(*alike.pop(0))

    def give(self, number: int) -> None:
        """The block becomes a gap."""
        if number in self._taken:
            self._free(*self._taken.pop(number))

    def _place(self, size: int) -> tuple[int, int]:
        found = self._gaps.best(size)
        if found is None:
            start, self._top = self._top, self._top + size
            self.most = max(self.most, self._top)
            return start, self._top
        start, end = found
        if end > start + size:
            self._gaps.add(start + size, end)
        return start, start + size

    def _free(self, start: int, end: int) -> None:
        start, end = self._gaps.add(start, end)
        if end == self._top:
            self._top = start
            self._gaps.remove(start)


class Segments:
    """torch's caching allocator on a GPU (c10/cuda/CUDACachingAllocator): it cuts blocks from segments that it keeps.

    Blocks are multiples of 512 bytes. Those up to 1 MiB lie in segments of 2 MiB, those below 10 MiB in segments of
    20 MiB, larger ones in segments of their own, rounded up to 2 MiB.
    """

    def __init__(self) -> None:
        self.most = 0
        self._tops = {"small": 0, "large": 2**60}
        self._gaps = {"small": Gaps(), "large": Gaps()}
        self._taken: dict[int, tuple[str, int, int]] = {}

    def take(self, number: int, size: int) -> None:
        """A block from the smallest gap that holds it, or from a new segment."""
        size = max(512, -(-size // 512) * 512)
        pool, rest = ("small", 512) if size <= MEGABYTE else ("large", MEGABYTE + 1)
        start, end = self._gaps[pool].best(size) or self._segment(pool, size)
        if end - start - size >= rest:
            self._gaps[pool].add(start + size, end)
            end = start + size
        self._taken[number] = pool, start, end

    def give(self, number: int) -> None:
        """The block becomes a gap of its segment."""
        pool, start, end = self._taken.pop(number)
        self._gaps[pool].add(start, end)

    def _segment(self, pool: str, size: int) -> tuple[int, int]:
        length = 2 * MEGABYTE if pool == "small" else 20 * MEGABYTE
        if size >= 10 * MEGABYTE:
            length = -(-size // (2 * MEGABYTE)) * 2 * MEGABYTE
        start = self._tops[pool]
        self._tops[pool] += length + 1  # so that segments do not become one
        self.most += length
        return start, start + length


def allocators(device: str) -> list[Allocator]:
    """What a device's blocks may lie in: each as likely as the others."""
    return [Heap(pins) for pins in PINS] if device == "cpu" else [Segments()]
