"""How sure networks were of cases that they had not seen, and where they doubt the label."""

from __future__ import annotations

from autoseg.records.base import Record

BINS = 20  # of confidence, of equal width from 0 to 1


class Doubt(Record):
    """A place where networks are sure of another class than the label has.

    `said` and `label` are the classes that they and the label name at most of its voxels. `box` is its first and last
    voxel along every axis of the image in memory, `at` one of its voxels; `voxels` how many they are and `weight` the
    sum over them of how much surer the networks are of their class than of the label's, times the size of a voxel.
    """

    box: tuple[tuple[int, int], ...]
    at: tuple[int, ...]
    said: str
    label: str
    voxels: int
    weight: float


class CaseCertainty(Record):
    """Of a case: per bin of confidence how many voxels there are, how sure they are together, and how many are right.

    `weight` is that of all its doubts, `above` the size of what is labelled or predicted above the background.
    """

    counts: tuple[int, ...]
    sure: tuple[float, ...]
    right: tuple[int, ...]
    weight: float
    above: float
    doubts: tuple[Doubt, ...] = ()


class Certainty(Record):
    """Of a run: its validation cases."""

    cases: dict[str, CaseCertainty] = {}
