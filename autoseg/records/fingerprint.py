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


class CaseFacts(Record):
    """What was measured of one case.

    `shape`, `cropped` and `spacing` are (z, y, x), z = 1 for flat images; `cropped` is the box of the
    non-zero valid voxels. `valid_share` is the share of valid voxels. Counts are per class name.
    """

    sha256: str
    shape: Shape = ()
    cropped: Shape = ()
    spacing: Spacing = ()
    dtype: str = ""
    valid_share: float = 1.0
    valid: tuple[Intensity | None, ...] = ()
    foreground: tuple[Intensity | None, ...] = ()
    voxels: dict[str, int] = {}
    components: dict[str, int] = {}
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
