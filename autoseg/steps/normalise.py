"""How every channel is normalised: what its kind asks for, where its values bear it out, with a reason."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from pydantic import JsonValue

from autoseg.arrays.intensity import clipped, percentile, pool
from autoseg.records import CaseFacts, Kind, Part, Question
from autoseg.steps.evidence import (
    MOST_CLASSES,
    TAILS,
    UNITS,
    Seen,
    is_hounsfield,
    look,
    nodata,
    turn,
    units_differ,
    without,
)

MASK_SHARE = 0.75  # below this median share of the cropped box, z-score looks at non-zero voxels only
SUV = 60.0  # 99.5 % of a scan's voxels lie below; Bq/ml and counts go into the thousands
PET_CLIP = 10.0  # standard deviations: between the uptake of lesions and that of the bladder
Decided = tuple[Part, str]


def decide(question: Question, facts: Sequence[CaseFacts], because: dict[str, str]) -> tuple[Part, ...]:
    """A normaliser per channel by its kind and its values; the reasons go to `because`."""
    parts = []
    for number, channel in enumerate(question.channels):
        seen = look(channel, number, facts)
        constant = bool(seen.valid) and seen.range[0] == seen.range[1]
        part, reason = _constant(seen) if constant else KINDS[channel.kind](seen)
        because[f"normalise.{number}"] = f"{channel.name} is {channel.kind}: {reason}"
        parts.append(part)
    return tuple(parts)


def nnunet(question: Question, facts: Sequence[CaseFacts], because: dict[str, str]) -> tuple[Part, ...]:
    """A normaliser per channel as nnU-Net 2 takes it from the name alone; the reasons go to `because`."""
    parts = []
    for number, channel in enumerate(question.channels):
        part, reason = _by_name(channel.name.casefold(), look(channel, number, facts))
        because[f"normalise.{number}"] = f"nnU-Net's rule for the name {channel.name}: {reason}"
        parts.append(part)
    return tuple(parts)


def _by_name(name: str, seen: Seen) -> Decided:
    if name == "ct" and seen.foreground:
        return _hounsfield(seen)
    named: dict[str, Decided] = {
        "nonorm": (Part(name="none"), "left as it is"),
        "rescale_to_0_1": (Part(name="range"), "each image's smallest to largest value become 0 to 1"),
        "rgb_to_0_1": (Part(name="range", options={"lower": 0.0, "upper": 255.0}), "0..255 become 0 to 1"),
    }
    return named.get(name) or _zscore(seen)


# -- ways to normalise -----------------------------------------------------------------------------------


def _zscore(seen: Seen, **options: JsonValue) -> Decided:
    if seen.share < MASK_SHARE:
        empty = f"as a median {1 - seen.share:.0%} of an image is empty border"
        return Part(name="zscore", options={"masked": True, **options}), f"z-score of the non-zero voxels, {empty}"
    return Part(name="zscore", options=options), "z-score of each image"


def _hounsfield(seen: Seen) -> Decided:
    pooled = pool(seen.foreground)
    lower, upper = (percentile(pooled, tail) for tail in TAILS)
    part = _clip("ct", lower, upper, pooled.mean, pooled.sd)
    return part, f"clipped to {lower:.0f}..{upper:.0f} HU of the foreground"


def _scaled(seen: Seen) -> Decided:
    """Clipped and scaled alike in all images, to limits that hold nearly all voxels and nearly all of the foreground.

    The foreground may be small and bright. What looks like undeclared nodata counts neither there nor in mean and sd.
    """
    fill = nodata(seen)
    valid, foreground = without(seen.valid, fill), without(seen.foreground, fill)
    if not valid or units_differ(valid):
        part, reason = _zscore(seen)
        lacking = f"differ more than {UNITS:.0f}-fold and cannot be in one unit" if valid else "were not measured"
        return part, f"{reason}, as the images' values {lacking}"
    pooled = [pool(cases) for cases in (valid, foreground) if cases]
    lower = min(percentile(one, TAILS[0]) for one in pooled)
    upper = max(percentile(one, TAILS[1]) for one in pooled)
    inner = clipped(pooled[0], lower, upper)
    said = f"clipped to {lower:.4g}..{upper:.4g} and scaled alike in all images"
    if fill is not None:
        said += f"; {fill.value:g} is so frequent that it is not counted: if it is nodata, declare it in the files"
    return _clip("clip", lower, upper, inner.mean, inner.sd), said


def _clip(name: str, lower: float, upper: float, mean: float, sd: float) -> Part:
    numbers = {"lower": lower, "upper": upper, "mean": mean, "sd": sd}
    return Part(name=name, options={name: float(f"{number:.6g}") for name, number in numbers.items()})


# -- kinds -----------------------------------------------------------------------------------------------


def _constant(seen: Seen) -> Decided:
    return Part(name="zscore"), f"its one value, {seen.range[0]:g} in all images, tells nothing and becomes 0"


def _ct(seen: Seen) -> Decided:
    part, reason = _hounsfield(seen) if seen.foreground else _scaled(seen)
    doubt = "; no value lies below 0, so these may not be Hounsfield units" if seen.valid and seen.range[0] >= 0 else ""
    return part, reason + doubt


def _mr(seen: Seen) -> Decided:
    part, reason = _zscore(seen)
    doubt = f"; its values look like Hounsfield units: if it is CT, say {_naming(seen, 'ct')}"
    return part, reason + (doubt if is_hounsfield(seen) else "")


def _pet(seen: Seen) -> Decided:
    tops = [percentile(case, TAILS[1]) for case in seen.valid]
    if tops and not seen.whole and max(tops) <= SUV and seen.range[0] >= 0:
        part, reason = _scaled(seen)
        return part, f"its values are of the size of SUV, {reason}"
    part, reason = _zscore(seen, clip=PET_CLIP)
    return part, f"{reason}, clipped at {PET_CLIP:g} sd, as its values are not of the size of SUV"


def _rgb(seen: Seen) -> Decided:
    low, high = seen.range
    if not (seen.valid and seen.whole and low >= 0 and high <= 255):
        return _scaled(seen)
    pooled = pool(seen.valid)
    said = f"less {pooled.mean:.1f}, over {pooled.sd:.1f}, mean and sd of all images: a colour means the same in each"
    return _clip("clip", 0.0, 255.0, pooled.mean, pooled.sd), said


def _db(seen: Seen) -> Decided:
    part, reason = _scaled(seen)
    doubt = "; no value lies below 0: if these are powers, take their logarithm first"
    return part, reason + (doubt if seen.valid and seen.range[0] >= 0 else "")


def _categorical(seen: Seen) -> Decided:
    if seen.distinct is not None:
        said = f"a channel for each of its {len(seen.distinct)} values; one not seen here is 0 in all of them"
        return Part(name="onehot", options={"values": [*seen.distinct]}), said
    part, reason = _unknown(seen)
    lacking = f"more than {MOST_CLASSES}" if seen.whole and seen.values else "not all listed"
    return part, f"no channel per value, as the values are {lacking if seen.whole else 'not whole'}; {reason}"


def _angle(seen: Seen) -> Decided:
    period = turn(seen)
    if period is not None:
        said = f"sine and cosine, of period {period:g}, so that the two ends of its range are one direction"
        return Part(name="angle", options={"period": period}), said
    low, high = seen.range
    part, reason = _unknown(seen)
    return part, f"{low:g}..{high:g} are not all directions in degrees or radians; {reason}"


def _unknown(seen: Seen) -> Decided:
    """By the values alone."""
    if is_hounsfield(seen):
        part, reason = _hounsfield(seen)
        return part, f"its values are Hounsfield units, {reason}; if it is no CT, say {_naming(seen, 'mr')}"
    if seen.single:
        part, reason = _scaled(seen)
        return part, f"one value per image, of which a z-score would leave nothing, {reason}"
    fill = nodata(seen)
    if fill is not None and fill.value != 0:
        return _scaled(seen)
    part, reason = _zscore(seen)
    title = "3d" if seen.solid else "2d"
    other = "options.masked=false" if part.options else "name=range"
    change = f"{_naming(seen, 'KIND')} or --set configurations.{title}.normalise.{seen.number}.{other}"
    few = f", but that it has {len(seen.distinct)} values, perhaps classes" if seen.distinct else ""
    return part, f"{reason}, as nothing is known of it{few}; change this with {change}"


def _naming(seen: Seen, kind: Kind | str) -> str:
    return f"autoseg add … --channels {seen.channel.name}={kind}"


KINDS: dict[Kind, Callable[[Seen], Decided]] = {
    "ct": _ct, "mr": _mr, "us": _zscore, "pet": _pet, "rgb": _rgb, "reflectance": _scaled, "db": _db,
    "categorical": _categorical, "angle": _angle, "other": _unknown,
}  # fmt: skip
