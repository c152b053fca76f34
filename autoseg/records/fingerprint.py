"""What was measured of a task."""

from __future__ import annotations

from autoseg.records.base import Record, Shape, Spacing


class Fault(Record):
    """Something wrong with a case. `fatal`: the case cannot be used."""

    case: str
    fault: str
    detail: str
    fatal: bool


class Intensity(Record):
    """Distribution of one channel over some voxels of one case; `quantiles` at `intensity.LEVELS`."""

    mean: float
    sd: float
    quantiles: tuple[float, ...]


class Values(Record):
    """What kind of numbers one channel of one case holds, over its valid voxels.

    Attributes:
        whole: whether all are whole numbers.
        bits: of the range in use: 12 for whole numbers from 0 to 4095, stored in however many; 0 for a constant; of the
            dtype where there are fractions.
        saturated: share of the voxels that have the largest value.
        distinct: the values themselves, ascending, when there are at most 64 of them and all are whole.
    """

    whole: bool
    bits: int
    saturated: float
    distinct: tuple[int, ...] | None = None


class Objects(Record):
    """The objects (connected components) of one class in one case.

    `sizes` are the smallest, the 25th, 50th and 75th percentile and the largest in mm³ (volumes) or m² (rasters; pixels
    where there are no coordinates), `border` the area in mm² or length in m of the class's border, `edge` the share of
    the objects that touch the image's edge, `distance` in mm or m that of the class from the nearest edge. Of an image
    that was looked at by windows, `sizes` are of the objects that no window's edge cuts, where there are any; `count`
    and `border` are scaled up; `distance` is None, as it is where the class does not occur.
    """

    count: int
    sizes: tuple[float, ...]
    border: float
    edge: float
    distance: float | None = None


class CaseFacts(Record):
    """What was measured of one case.

    `shape`, `cropped` and `spacing` are (z, y, x), z = 1 for flat images; `cropped` is the box of the
    non-zero valid voxels. `valid_share` is the share of valid voxels; `sampled` the share of the voxels that was looked
    at: counts are scaled up to all. Counts and objects are per class name, `valid`, `foreground` and `values` per
    channel. `orientation` is that of the file ("RAS"; "" where it has none); `pixels` a hash of the image's values,
    whatever the file's name and format; `thumb` 256 bits in hexadecimal that near-duplicates share but for a few.
    `shift` is how far (z, y, x) the label's borders would have to move to fit the image's edges best, () where that
    cannot be said, and `gain` how much better they would fit, in standard deviations. `colours` are the pixels of every
    colour of a label that cannot be read because its colours have no names.
    """

    sha256: str
    shape: Shape = ()
    cropped: Shape = ()
    spacing: Spacing = ()
    dtype: str = ""
    orientation: str = ""
    nodata: float | None = None
    sampled: float = 1.0
    valid_share: float = 1.0
    valid: tuple[Intensity | None, ...] = ()
    foreground: tuple[Intensity | None, ...] = ()
    values: tuple[Values | None, ...] = ()
    voxels: dict[str, int] = {}
    components: dict[str, int] = {}
    objects: dict[str, Objects] = {}
    pixels: str = ""
    thumb: str = ""
    shift: tuple[int, ...] = ()
    gain: float = 0.0
    colours: dict[str, int] = {}
    faults: tuple[Fault, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the case can be trained on."""
        return not any(fault.fatal for fault in self.faults)


class Fingerprint(Record):
    """What was measured of a task.

    `version` is that of the code that measured: facts of another are not used again. `groups` are the cases of every
    group of several; `faults` what is wrong with the folder, and what is seen only where cases are compared.
    """

    version: int = 0
    question: str
    flat: bool
    cases: dict[str, CaseFacts]
    groups: dict[str, tuple[str, ...]] = {}
    faults: tuple[Fault, ...] = ()

    @property
    def usable(self) -> dict[str, CaseFacts]:
        """The cases that can be trained on."""
        return {id: facts for id, facts in self.cases.items() if facts.usable}

    @property
    def frequencies(self) -> dict[str, float]:
        """The share of the voxels, over all cases that can be used, that every class has."""
        names = dict.fromkeys(name for facts in self.usable.values() for name in facts.voxels)
        counts = {name: sum(facts.voxels.get(name, 0) for facts in self.usable.values()) for name in names}
        total = sum(counts.values())
        return {name: count / total if total else 0.0 for name, count in counts.items()}

    @property
    def together(self) -> dict[str, dict[str, int]]:
        """In how many cases every two classes occur both; a class with itself: in how many it occurs."""
        names = self.frequencies
        met = [{name for name, count in facts.voxels.items() if count} for facts in self.usable.values()]
        return {one: {other: sum({one, other} <= classes for classes in met) for other in names} for one in names}

    @property
    def all_faults(self) -> tuple[Fault, ...]:
        """Faults of single cases and of the folder (orphans), fatal ones first."""
        faults = [fault for facts in self.cases.values() for fault in facts.faults] + list(self.faults)
        return tuple(sorted(faults, key=lambda fault: (not fault.fatal, fault.case)))
