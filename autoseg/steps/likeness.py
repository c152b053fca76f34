"""What is seen only where the cases of a task are compared: copies, shifted labels, cases unlike the others."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from math import asinh, log

import numpy as np
from numpy.typing import NDArray

from autoseg.arrays.statistics import alike, outlyingness
from autoseg.readers.colours import remedy
from autoseg.records import CaseFacts, CaseFiles, Fault, Question

MISSING_CLASS = "missing class"
NEAR = 32  # of the 256 bits of two thumbs: copies differ in up to 20, images of the real sets in 52 and more
NAMED = 3
SEVERAL = 5  # cases with a shift that can be told, from which on they are compared
AGREE, CLEAR = 0.6, 2 / 3  # share of the cases whose shifts agree: to say it of all, to say it of those that do not
FAR, BETTER, MUCH_BETTER = 2, 1.0, 2.0  # voxels, and gains
MANY = 10  # cases from which on there is a usual
UNUSUAL = 8.0  # robust standard deviations
RARE = 0.02  # share of the cases beyond that; where there are more, the figure is that varied in this task
FLOOR = 0.05  # of a figure's scale (logarithms: five percent): less than that is no difference


def compare(facts: Mapping[str, CaseFacts], files: Sequence[CaseFiles], question: Question) -> tuple[Fault, ...]:
    """What is told by comparing the cases; nothing of it is fatal but colours without names, which their cases tell."""
    usable = {id: found for id, found in facts.items() if found.usable}
    groups = {case.id: case.group for case in files}
    return (
        *_missing(usable, question),
        *_colours(facts),
        *_copies(facts),
        *_near_copies(facts, groups),
        *_shifted(usable),
        *_unlike(usable, question),
    )


def _missing(usable: Mapping[str, CaseFacts], question: Question) -> Iterator[Fault]:
    """Classes that nothing can be learnt of."""
    for name in question.classes[question.background :] if usable else ():
        if not any(found.voxels.get(name) for found in usable.values()):
            seen = "" if all(found.sampled == 1 for found in usable.values()) else " that was looked at"
            detail = f"{name} is in no label of {len(usable)} cases{seen}: nothing can be learnt of it"
            yield Fault(case="", fault=MISSING_CLASS, detail=detail, fatal=False)


def groups(files: Sequence[CaseFiles]) -> dict[str, tuple[str, ...]]:
    """The cases of every group of several."""
    members: dict[str, list[str]] = defaultdict(list)
    for case in files:
        if case.group is not None:
            members[case.group].append(case.id)
    return {group: tuple(ids) for group, ids in members.items() if len(ids) > 1}


def _colours(facts: Mapping[str, CaseFacts]) -> Iterator[Fault]:
    """All colours of the task's labels together, and the map that reads them."""
    coloured = [found.colours for found in facts.values() if found.colours]
    if len(coloured) > 1:
        total: dict[str, int] = defaultdict(int)
        for colours in coloured:
            for colour, pixels in colours.items():
                total[colour] += pixels
        ordered = dict(sorted(total.items(), key=lambda item: -item[1]))
        detail = f"{len(coloured)} labels are coded by {len(ordered)} colours together; {remedy(ordered)}"
        yield Fault(case="", fault="coloured labels", detail=detail, fatal=False)


def _copies(facts: Mapping[str, CaseFacts]) -> Iterator[Fault]:
    first: dict[str, str] = {}
    for id, found in facts.items():
        other = first.setdefault(found.pixels, id) if found.pixels else id
        if other != id:
            differ = ", with another label" if found.objects != facts[other].objects else ""
            detail = f"the same image as {other}{differ}; remove one of them"
            yield Fault(case=id, fault="duplicate", detail=detail, fatal=False)


def _near_copies(facts: Mapping[str, CaseFacts], groups: Mapping[str, str | None]) -> Iterator[Fault]:
    """Cases that look the same, unless they share a group, which no fold parts, or all values."""
    ids = [id for id, found in facts.items() if found.thumb]
    if not ids:
        return
    thumbs = np.array([[*bytes.fromhex(facts[id].thumb)] for id in ids], np.uint8)
    met: dict[str, list[str]] = defaultdict(list)
    for first, second in alike(thumbs, NEAR):
        one, other = ids[first], ids[second]
        grouped = groups[one] is not None and groups[one] == groups[other]
        if not grouped and facts[one].pixels != facts[other].pixels:
            met[other].append(one)
    for id, others in met.items():
        shown = ", ".join(others[:NAMED]) + (f" and {len(others) - NAMED} more" if len(others) > NAMED else "")
        detail = f"looks nearly the same as {shown}; give them one group, so that no fold parts them"
        yield Fault(case=id, fault="near duplicate", detail=detail, fatal=False)


def _shifted(facts: Mapping[str, CaseFacts]) -> Iterator[Fault]:
    """Labels that fit their images better elsewhere, where the cases of the task agree enough for that to mean much."""
    ids = [id for id, found in facts.items() if found.shift]
    if len(ids) < max(SEVERAL, len(facts) / 2):
        return
    shifts = np.array([facts[id].shift for id in ids])
    gains = np.array([facts[id].gain for id in ids])
    middle = np.round(np.median(shifts, axis=0)).astype(int)
    away = np.abs(shifts - middle).max(axis=1)
    agreeing = float((away <= 1).mean())
    if agreeing >= AGREE and np.abs(middle).max() >= FAR and np.median(gains) >= BETTER:
        detail = (
            f"the labels of {int((away <= 1).sum())} of {len(ids)} cases fit their images better when they are moved "
            f"by about {_way(middle)}; check how they were exported"
        )
        yield Fault(case="", fault="shifted labels", detail=detail, fatal=False)
    elif agreeing >= CLEAR:
        for place in np.flatnonzero((away > FAR) & (np.abs(shifts).max(axis=1) >= FAR) & (gains >= MUCH_BETTER)):
            detail = f"the label fits the image better when it is moved by about {_way(shifts[place])}; look at it"
            yield Fault(case=ids[place], fault="shifted label", detail=detail, fatal=False)


def _way(shift: NDArray[np.int64]) -> str:
    named = (f"{step:+d} along {axis}" for axis, step in zip("zyx", shift.tolist(), strict=True) if step)
    return ", ".join(named) + " (voxels)"


def _unlike(facts: Mapping[str, CaseFacts], question: Question) -> Iterator[Fault]:
    """Cases far from the median of all in some figure, which is the most extreme one of the case."""
    if len(facts) < MANY:
        return
    worst: dict[str, tuple[float, str]] = {}
    measured = {id: _figures(found, question) for id, found in facts.items()}
    for name in dict.fromkeys(name for figures in measured.values() for name in figures):
        ids = [id for id, figures in measured.items() if name in figures]
        if len(ids) < MANY:
            continue
        values = np.array([measured[id][name] for id in ids])
        scores = outlyingness(values, FLOOR)
        beyond = np.flatnonzero(np.abs(scores) > UNUSUAL)
        if len(beyond) > max(1, RARE * len(ids)):
            continue
        middle = float(np.median(values))
        for place in beyond:
            score = abs(float(scores[place]))
            if score > worst.get(ids[place], (0.0, ""))[0]:
                worst[ids[place]] = score, _told(name, values[place] - middle, score)
    for id, (_, detail) in worst.items():
        yield Fault(case=id, fault="unlike the others", detail=detail, fatal=False)


def _told(name: str, difference: float, score: float) -> str:
    above = "above" if difference > 0 else "below"
    return f"{name} lies {min(score, 999):.0f} robust standard deviations {above} the median of all cases"


def _figures(facts: CaseFacts, question: Question) -> dict[str, float]:
    """What cases are compared by, on scales where a factor is a difference."""
    figures = {f"the size along {axis}": log(size) for axis, size in zip("zyx", facts.cropped, strict=True)}
    figures |= {f"the spacing along {axis}": log(size) for axis, size in zip("zyx", facts.spacing, strict=True)}
    for channel, intensity in zip(question.channels, facts.valid, strict=True):
        if intensity is not None:
            figures[f"the mean of {channel.name}"] = asinh(intensity.mean)
            figures[f"the standard deviation of {channel.name}"] = asinh(intensity.sd)
    voxel = float(np.prod(facts.spacing))
    for name in question.classes[question.background :]:
        if count := facts.voxels.get(name):
            figures[f"the size of {name}"] = log(count * voxel)
    return figures
