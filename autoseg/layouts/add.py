"""A dataset from globs of images and labels that lie where they are: nothing is copied."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from autoseg.errors import BadData, BadUsage
from autoseg.image import Image
from autoseg.layouts import labels_map as naming
from autoseg.layouts.columns import column_of
from autoseg.layouts.common import kinds_of, match_all, one_reader, orphan
from autoseg.layouts.pairing import cases_of, names_of, pair
from autoseg.parts import READERS
from autoseg.readers import Reader, ending_of, endings, is_litter
from autoseg.readers import colours as colouring
from autoseg.readers.colours import ColourCoded
from autoseg.readers.raster import Raster
from autoseg.records import REFERENCE, CaseFiles, Channel, Dataset, Fault, Kind, parse

LABELS_READ = 200
CLASSES = 32
RATER = re.compile(r"\w[\w. -]*")
UNMARK = "gdal_edit.py -colorinterp_4 undefined FILE"


def from_globs(
    name: str,
    images: Sequence[str],
    labels: Sequence[str],
    *,
    channels: str | None = None,
    labels_map: str | None = None,
    group: str | None = None,
    site: str | None = None,
    groups: str | None = None,
    sites: str | None = None,
) -> tuple[Dataset, tuple[Fault, ...]]:
    """The dataset of the files that the globs (or folders) name, with absolute paths, and its orphans.

    Args:
        channels: 'R,G,B' or 'VV=db,elevation=other'; by default what the first image's bands suggest.
        labels_map: '255=road,0=background'; the first value of a name is the class, further ones are merged
            into it, `ignore` is left out. '0=background,1=whole,2=whole+core': regions that overlap, by the
            values that lie in them. '128..255=road', '#3c1098=road', '60/16/152=road': ranges and colours. By
            default the values that are found in the labels.
        group, site: regexes on the case's name; the first group, or the whole match.
        groups, sites: columns of CSV files in their place, see `column_of`.

    Raises: BadUsage for globs, options and labels that cannot be used.
    """
    drawn = {rater: _files(patterns, "--labels") for rater, patterns in _by_rater(labels).items()}
    image_files = sorted(set(_files(images, "--images")).difference(*drawn.values()))
    if not image_files:
        raise BadUsage("all images are labels too", where="--images", remedy="give globs that differ")
    cases, faults = _cases(image_files, drawn)
    ids = [case.id for case in cases]
    found = zip(_found("group", group, groups, ids), _found("site", site, sites, ids), strict=True)
    cases = [
        case.model_copy(update={"group": of_group, "site": of_site})
        for case, (of_group, of_site) in zip(cases, found, strict=True)
    ]
    fields: dict[str, Any] = {"name": name, "reader": one_reader(cases, "--images, --labels", BadUsage)}
    reader: Reader = READERS.build(fields["reader"])
    first, image = _first_readable(reader, cases)
    faults += _alpha(image, first)
    fields["channels"] = [channel.model_dump() for channel in _channels(channels, image)]
    fields |= naming.fields_of(labels_map) if labels_map is not None else _met(reader, cases, faults)
    fields["cases"] = [case.model_dump() for case in cases]
    return parse(Dataset, json.dumps(fields), "autoseg add", BadUsage), tuple(faults)


def _by_rater(patterns: Sequence[str]) -> dict[str, list[str]]:
    """The globs by rater: NAME=GLOB is one's, unless there are such files; all others are the reference."""
    found: dict[str, list[str]] = {}
    for pattern in patterns:
        rater, equals, own = pattern.partition("=")
        named = equals and RATER.fullmatch(rater) and not glob.glob(pattern)  # noqa: PTH207 - refuses absolute patterns
        found.setdefault(rater if named else REFERENCE, []).append(own if named else pattern)
    return found


def _cases(images: Sequence[Path], drawn: Mapping[str, Sequence[Path]]) -> tuple[list[CaseFiles], list[Fault]]:
    """The images with their raters' labels by name, and those of either that are left over."""
    grouped = cases_of(images, max(map(len, drawn.values())))
    labels: dict[str, dict[str, str]] = {}
    faults = []
    for rater, files in drawn.items():
        by_name = dict(zip(names_of(files), files, strict=True))
        pairs = pair(list(grouped), list(by_name))
        for id, label in pairs.items():
            labels.setdefault(id, {})[rater] = by_name[label].as_posix()
        faults += [orphan("label", str(by_name[id]), id) for id in sorted(set(by_name) - set(pairs.values()))]
    cases = [
        CaseFiles(id=id, images=tuple(file.as_posix() for file in grouped[id]), labels=labels[id])
        for id in sorted(labels)
    ]
    return cases, [orphan("image", str(grouped[id][0]), id) for id in sorted(set(grouped) - set(labels))] + faults


def _files(patterns: Sequence[str], option: str) -> list[Path]:
    """The absolute paths of the images that globs, file names and folders name, sorted, each once."""
    met: set[Path] = set()
    for pattern in patterns:
        path = Path(os.path.expanduser(pattern))  # noqa: PTH111 - an unknown ~user stays, and is not found
        if path.is_dir():
            names = [str(file) for file in path.iterdir()]
        else:
            # Path.glob refuses absolute patterns
            names = [str(path)] if path.is_file() else glob.glob(str(path), recursive=True)  # noqa: PTH207
        files = {Path(os.path.normpath(Path(file).absolute())) for file in names if Path(file).is_file()}
        if not files:
            raise BadUsage(f"no file matches {pattern!r}", where=option, remedy="check the path, quote the glob")
        met |= files
    known = [file for file in met if ending_of(file.name) and not is_litter(file.name)]
    if not known:
        expected = f"one of {' '.join(endings())}"
        raise BadUsage(f"no reader for {min(met).name}", where=option, expected=expected)
    return sorted(known)


def _found(what: str, pattern: str | None, column: str | None, ids: Sequence[str]) -> list[str | None]:
    """The group or the site of every case, by a regex on its name or the column of a table."""
    if pattern is not None and column is not None:
        raise BadUsage(f"the {what} is asked for twice", where=f"--{what}, --{what}s", remedy="give one of them")
    if column is not None:
        return column_of(column, ids, f"--{what}s")
    return [None] * len(ids) if pattern is None else match_all(pattern, ids, f"--{what}", BadUsage)


def _first_readable(reader: Reader, cases: Sequence[CaseFiles]) -> tuple[CaseFiles, Image]:
    """The first case whose image can be read, and that image: `check` names those that cannot."""
    for case in cases[:-1]:
        with contextlib.suppress(BadData):
            return case, _glimpse(reader, case)
    return cases[-1], _glimpse(reader, cases[-1])


def _glimpse(reader: Reader, case: CaseFiles) -> Image:
    """The image of a case, or where that is too large to be held, a window of it."""
    files = [Path(file) for file in case.images]
    if not isinstance(reader, Raster):
        return reader.read(files)
    with reader.open_windows(files) as image:
        return image.read(image.some()[0])


def _alpha(image: Image, case: CaseFiles) -> list[Fault]:
    """The remark that a band is taken as a mask: GDAL marks the fourth of four bands so by default."""
    if not image.placement.get("alpha"):
        return []
    detail = f"a band of {case.images[0]} is marked as alpha: it is a mask and no channel"
    return [Fault(case=case.id, fault="alpha band", detail=detail, fatal=False)]


def _channels(text: str | None, image: Image) -> list[Channel]:
    """The named channels, else one per band of the first case's image."""
    if text is None:
        if image.channels == 3 and image.array.dtype == np.uint8:
            return [Channel(name=name, kind="rgb") for name in "RGB"]
        return [Channel(name=f"channel{number}", kind="other") for number in range(image.channels)]
    entries = [entry.strip().partition("=") for entry in text.split(",")]
    names = [name.strip() for name, _, _ in entries]
    if not all(names) or len(names) != image.channels:
        raise BadUsage(
            f"{len(names)} channels in {text!r}",
            where="--channels",
            expected=f"{image.channels} names, one for each band of the first image",
            remedy=f"if its band marked as alpha is a channel: {UNMARK}" if image.placement.get("alpha") else "",
        )
    known: tuple[Kind, ...] = get_args(Kind)
    channels = []
    for name, guess, (_, _, kind_name) in zip(names, kinds_of(names), entries, strict=True):
        given = kind_name.strip()
        if given and given not in known:
            raise BadUsage(f"kind {given!r} of {name!r}", where="--channels", expected=f"one of {', '.join(known)}")
        kinds: dict[str, Kind] = {kind: kind for kind in known}
        channels.append(Channel(name=name, kind=kinds.get(given, guess)))
    return channels


def _met(reader: Reader, cases: Sequence[CaseFiles], faults: list[Fault]) -> dict[str, Any]:
    """The field `labels` by the values in the label files; a remark is added when not all were read."""
    files = [Path(path) for case in cases for path in case.labels.values()]
    chosen = files
    if len(files) > LABELS_READ:
        steps = np.linspace(0, len(files) - 1, LABELS_READ).round().astype(int)
        chosen = [files[step] for step in steps]
        detail = f"the classes are the values met in {LABELS_READ} of {len(files)} labels"
        faults.append(Fault(case="", fault="labels sampled", detail=detail, fatal=False))
    values: set[float] = set()
    for file in chosen:
        try:
            values |= _values(reader, file)
        except ColourCoded:
            raise _coloured(chosen) from None
        _require_classes(values, file)
    numbers = sorted(int(value) for value in values)
    labels = {"background" if value == 0 else f"class_{value}": value for value in numbers}
    if len(labels) < 2:
        raise BadUsage(f"the only value in all labels is {numbers[0]}", where="--labels", expected="two classes")
    return {"labels": labels}


def _values(reader: Reader, file: Path) -> set[float]:
    """The values in a label; of one too large to be held, those in windows spread over it."""
    if not isinstance(reader, Raster):
        return set(np.unique(reader.read_label(file).array).tolist())
    with reader.open_label(file) as label:
        return {value for window in label.some() for value in np.unique(label.read(window).array).tolist()}


def _coloured(files: Sequence[Path]) -> BadUsage:
    """What to do about labels that are coded by colours: all of theirs are named."""
    counts: Counter[str] = Counter()
    for file in files:
        with contextlib.suppress(BadData):
            counts.update(Raster().colours(file))
    colours = dict(counts.most_common())
    what = f"the labels are coded by {len(colours)} colours"
    return BadUsage(what, where="--labels", expected="a name for each", remedy=colouring.remedy(colours))


def _require_classes(values: set[float], file: Path) -> None:
    """Raises: BadUsage when the values cannot be classes."""
    remedy = "name the values that count, e.g. --labels-map 0..127=background,128..255=road"
    odd = sorted(value for value in values if not float(value).is_integer())
    if odd or len(values) > CLASSES:
        what = f"{len(values)} distinct values by {file.name}"
        what += f", {odd[0]:g} among them" if odd else " (soft or anti-aliased borders, or no label at all?)"
        raise BadUsage(what, where="--labels", expected=f"at most {CLASSES} whole numbers", remedy=remedy)
    if min(values) < 0:
        remedy = f"name the values, e.g. --labels-map {min(values):.0f}=ignore,0=background,1=object"
        raise BadUsage(f"{file.name} holds the value {min(values):.0f}", where="--labels", remedy=remedy)
