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
        bits: of the range in use: 12 for whole numbers from 0 to 4095, stored in however many; 0 for a constant.
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
    the objects that touch the image's edge.
    """

    count: int
    sizes: tuple[float, ...]
    border: float
    edge: float


class CaseFacts(Record):
    """What was measured of one case.

    `shape`, `cropped` and `spacing` are (z, y, x), z = 1 for flat images; `cropped` is the box of the
    non-zero valid voxels. `valid_share` is the share of valid voxels; `sampled` the share of the voxels that was looked
    at: counts are scaled up to all. Counts and objects are per class name, `valid`, `foreground` and `values` per
    channel. `orientation` is that of the file ("RAS"; "" where it has none); `thumb` 64 bits in hexadecimal that
    near-duplicates share but for a few.
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
    thumb: str = ""
    faults: tuple[Fault, ...] = ()

    @property
    def usable(self) -> bool:
        """Whether the case can be trained on."""
        return not any(fault.fatal for fault in self.faults)


class Fingerprint(Record):
    """What was measured of a task."""

    question: str
    flat: bool
    cases: dict[str, CaseFacts]
    faults: tuple[Fault, ...] = ()

    @property
    def usable(self) -> dict[str, CaseFacts]:
        """The cases that can be trained on."""
        return {id: facts for id, facts in self.cases.items() if facts.usable}

    @property
    def all_faults(self) -> tuple[Fault, ...]:
        """Faults of single cases and of the folder (orphans), fatal ones first."""
        faults = [fault for facts in self.cases.values() for fault in facts.faults] + list(self.faults)
        return tuple(sorted(faults, key=lambda fault: (not fault.fatal, fault.case)))
