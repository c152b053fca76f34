"""Where an insert stands: the text form, the sites a network offers, and the modules that stand there."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from torch import Tensor, nn

from autoseg.errors import BadPlan, nearest
from autoseg.nets.stages import expecting
from autoseg.parts import INSERTS, JOINS
from autoseg.records import Insert, Network, Part, Place
from autoseg.spelling import spelled, terms

PLACES: tuple[Place, ...] = get_args(Place)
WRITTEN = re.compile(r"(.+)@\s*([a-z]+)\s*(?:\[\s*((?:-?\d+)?)\s*(:?)\s*((?:-?\d+)?)\s*\])?\s*", re.DOTALL)


@dataclass(frozen=True)
class Site:
    """A feature map where something may stand; `stage` 0 is the finest of its place.

    `key` tells sites of one place and stage apart.
    """

    place: Place
    stage: int
    channels: int
    size: tuple[int, ...]
    key: str = ""

    @property
    def name(self) -> str:
        """The name of its modules."""
        return self.key or f"{self.place}_{self.stage}"

    def __str__(self) -> str:
        size = "×".join(map(str, self.size))
        return f"{self.place} stage {self.stage} ({self.channels} channels, {size})"


def parse(text: str) -> tuple[Insert, ...]:
    """The inserts of a text such as `cbam@skip[0:2]+coord(reduction=8)@encoder`.

    Raises: BadPlan for an unknown part or place, and for what is written otherwise.
    """
    return tuple(_one(piece) for piece in terms(text)) if text.strip() else ()


def _one(text: str) -> Insert:
    found = WRITTEN.fullmatch(text)
    if found is None:
        raise BadPlan(f"{text!r} is no insert", where="--insert", expected="PART@PLACE or PART@PLACE[0:2]")
    part, place = spelled(found[1], "--insert"), found[2]
    if place not in PLACES:
        what = f"unknown place {place!r}{nearest(place, PLACES)}"
        raise BadPlan(what, where=text, expected=f"one of {', '.join(PLACES)}")
    table, other = (JOINS, INSERTS) if place == "join" else (INSERTS, JOINS)
    if part.name in other and part.name not in table:
        raise BadPlan(
            f"{part.name} does not stand at {place}", where=text,
            expected="join" if other is JOINS else f"one of {', '.join(p for p in PLACES if p != 'join')}",
        )  # fmt: skip
    table.get(part.name)
    return Insert(part=part, place=place, stages=_stages(found, text))


def _stages(found: re.Match[str], text: str) -> tuple[int | None, int | None]:
    first, colon, last = found[3], found[4], found[5]
    if first is None:
        return None, None
    if colon:
        return (int(first) if first else None), (int(last) if last else None)
    if not first or last:
        raise BadPlan(f"{text!r} names no stages", where="--insert", expected="[1] or [0:2]")
    return int(first), (int(first) + 1) or None


class Inserts(nn.Module):
    """The inserts and fusions of a network, each at its sites.

    Args:
        sites: what the network offers. A place without a site takes no insert.
        encoder: (channels, size) of every encoder stage, for inserts that look at all of them.
    Raises: BadPlan for an insert at a place that the network or the insert does not allow, naming it.
    """

    def __init__(
        self,
        network: Network,
        sites: Iterable[Site],
        encoder: Sequence[tuple[int, tuple[int, ...]]] = (),
    ) -> None:
        super().__init__()
        self.at = nn.ModuleDict()
        self.names: dict[str, list[str]] = {}  # of what stands at a site, without the plain concatenations
        self.guided: set[str] = set()  # "site.index" of those that look at the features of the encoder
        self._encoder = tuple(encoder)
        offered = list(sites)
        for insert in network.inserts:
            for site in _meant(insert, offered, network.architecture.name):
                self._stand(insert, site, network)
                self.names.setdefault(site.name, []).append(insert.part.name)
        for site in offered:
            if site.place == "join" and site.name not in self.at:
                self.at[site.name] = _fusion(Part(name="concat"), site, network)

    def _stand(self, insert: Insert, site: Site, network: Network) -> None:
        if site.place == "join":
            if site.name in self.at:
                raise BadPlan("two fusions at one join", where=insert.text, remedy="name other stages: join[0:1]")
            self.at[site.name] = _fusion(insert.part, site, network)
            return
        module: nn.Module = INSERTS.build(
            insert.part, dims=network.dims, channels=site.channels, size=site.size, norm=network.norm,
            encoder=self._encoder, where=f"{insert.part.name} at {site}",
        )  # fmt: skip
        if site.name not in self.at:
            self.at[site.name] = nn.ModuleList()
        line = self.at[site.name]
        assert isinstance(line, nn.ModuleList)
        line.append(expecting(module, f"insert {insert.part.name} at {site}", site.channels))
        if "encoder" in inspect.signature(INSERTS.get(insert.part.name)).parameters:
            self.guided.add(f"{site.name}.{len(line) - 1}")

    def forward(self, name: str, x: Tensor, features: Sequence[Tensor] = ()) -> Tensor:
        """The feature map of a site after the inserts that stand there; `features` are those of the encoder."""
        if name in self.at:
            line = self.at[name]
            assert isinstance(line, nn.ModuleList)
            for index, module in enumerate(line):
                x = module(x, features) if f"{name}.{index}" in self.guided else module(x)
        return x

    def join(self, name: str, skip: Tensor, up: Tensor) -> Tensor:
        """Skip and decoder feature of a join as one."""
        joined: Tensor = self.at[name](skip, up)
        return joined

    def joined(self, name: str) -> int:
        """The channels that a join answers."""
        channels = self.at[name].channels_out
        assert isinstance(channels, int)
        return channels


def _fusion(part: Part, site: Site, network: Network) -> nn.Module:
    module: Any = JOINS.build(
        part, dims=network.dims, channels=site.channels, size=site.size, norm=network.norm,
        where=f"{part.name} at {site}",
    )  # fmt: skip
    if not isinstance(getattr(module, "channels_out", None), int):
        raise BadPlan(f"fusion {part.name!r} does not say its channels_out", expected="an attribute of the module")
    made: nn.Module = expecting(module, f"fusion {part.name} at {site}", module.channels_out)
    return made


def _meant(insert: Insert, sites: Sequence[Site], architecture: str) -> list[Site]:
    """The sites that an insert names."""
    table = JOINS if insert.place == "join" else INSERTS
    allowed = getattr(table.get(insert.part.name), "places", PLACES)
    if insert.place not in allowed:
        raise BadPlan(
            f"{insert.part.name} does not stand at {insert.place}", where=insert.text,
            expected=f"one of {', '.join(allowed)}",
        )  # fmt: skip
    here = [site for site in sites if site.place == insert.place]
    if not here:
        places = [place for place in PLACES if any(site.place == place for site in sites)]
        expected = f"one of {', '.join(places)}" if places else "no insert at all"
        raise BadPlan(f"{architecture} has no place {insert.place}", where=insert.text, expected=expected)
    stages = sorted({site.stage for site in here})
    chosen = stages[slice(*insert.stages)]
    if not chosen:
        raise BadPlan(f"no stage of {insert.place} is meant", where=insert.text, expected=f"0 to {len(stages) - 1}")
    return [site for site in here if site.stage in chosen]
