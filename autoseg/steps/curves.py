"""The curves of a run so far, as an SVG that is readable on light and on dark pages."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from autoseg.nets.drawing import opened, text_at
from autoseg.steps.promise import numbers

POINTS, SPOTS = 500, 6000  # of a curve; of all Dice curves together
SIGMA = 0.025  # of the smoothing, as a share of the curve
LEFT, RIGHT, TOP, WIDE = 66, 170, 84, 564  # margins and the width of the axes, in pixels
LOSS, DICE, RATE, GAP = 210, 190, 90, 46  # heights, and what lies between
LINE = 15  # least distance of two names
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito, 2008
DASHES = ("", "6 3", "2 3")  # where there are more classes than colours
STYLE = (
    "<style>svg{color:#222}.page{fill:#fff}.grid{stroke:currentColor;opacity:.15}polyline{fill:none;"
    "stroke-linejoin:round;stroke-linecap:round}.raw{stroke:#0072b2;opacity:.5}.smooth{stroke:#0072b2;stroke-width:2.4}"
    "@media(prefers-color-scheme:dark){svg{color:#ddd}.page{fill:#16181c}.raw,.smooth{stroke:#56b4e9}}</style>"
)
Points = list[tuple[float, float | None]]


@dataclass(frozen=True)
class Curve:
    """Points over the step, None where nothing is known; drawn with these attributes, as a line that is named at its
    end, or as dots of this colour."""

    points: Points
    look: str
    name: str = ""
    dots: str = ""


@dataclass(frozen=True)
class Axes:
    """A box on the page, `top` to `top + high`, that shows steps up to `last` and values `low` to `upper`."""

    top: float
    high: float
    last: float
    low: float
    upper: float

    def at(self, step: float, value: float) -> tuple[float, float]:
        """The place on the page."""
        y = self.top + self.high * (1 - (value - self.low) / (self.upper - self.low))
        return LEFT + WIDE * step / self.last, y


def curves(lines: Iterable[Mapping[str, Any]], title: str) -> str:
    """The loss, the Dice of every class, of patches and of whole cases, and the learning rate over the steps of a run.

    Args:
        lines: the entries of the run's log (see `train.as_log`), in order.
    """
    losses: Points = []
    rates: Points = []
    dice: dict[str, Points] = {}
    whole: dict[str, Points] = {}
    seconds = 0.0
    for line in lines:
        if "loss" not in line or not all(isinstance(line.get(key), int | float) for key in ("step", "rate", "seconds")):
            continue  # no line of this program's: a picture must not stop a run
        losses.append((line["step"], line["loss"]))
        rates.append((line["step"], line["rate"]))
        seconds += line["seconds"]
        for name, value in numbers(line, "pseudo_dice").items():
            dice.setdefault(name, []).append((line["step"], value))
        for name, value in numbers(line, "whole_dice").items():
            whole.setdefault(name, []).append((line["step"], value))
    last = losses[-1][0] if losses else 1
    raw = thinned(losses)
    smooth = smoothed(raw)
    both = [Curve(raw, 'class="raw"'), Curve(smooth, 'class="smooth"', "smoothed")]
    panels: list[Panel] = [("loss", LOSS, both, None)]
    if dice:
        spots = max(20, min(POINTS, SPOTS // len(dice)))
        named = [Curve(thinned(points, spots), _look(n), name) for n, (name, points) in enumerate(dice.items())]
        dots = [Curve(whole.get(name, []), "", dots=_colour(n)) for n, name in enumerate(dice)]
        heading = "pseudo-Dice (lines), Dice of whole cases (dots)" if whole else "pseudo-Dice"
        panels.append((heading, max(DICE, LINE * len(dice)), named + dots, (0.0, 1.0)))
    rate = Curve(thinned(rates), 'stroke="currentColor" stroke-width="1.8"')
    panels.append(("learning rate", RATE, [rate], None))
    known = [value for _, value in smooth if value is not None]
    now = f", smoothed loss {_number(known[-1])}" if known else ""
    return _page(title, f"{last:,} steps, {seconds / 60:,.1f} minutes{now}", panels, last)


def thinned(points: Points, most: int = POINTS) -> Points:
    """At most so many points: means of equally many that follow each other, without those that are not known."""
    size = math.ceil(len(points) / most)
    return [_mean(points[start : start + size]) for start in range(0, len(points), max(1, size))]


def _mean(points: Points) -> tuple[float, float | None]:
    known = [value for _, value in points if value is not None]
    return math.fsum(step for step, _ in points) / len(points), math.fsum(known) / len(known) if known else None


def smoothed(points: Points) -> Points:
    """Means of what is known around every point, weighted by a Gaussian; None stays None."""
    values = np.array([math.nan if value is None else value for _, value in points])
    known = np.flatnonzero(~np.isnan(values))
    if not len(known):
        return points
    near = np.exp(-0.5 * ((known[:, None] - known) / max(0.5, SIGMA * len(points))) ** 2)
    values[known] = near @ values[known] / near.sum(1)
    found = [None if math.isnan(value) else value for value in values.tolist()]
    return [(step, value) for (step, _), value in zip(points, found, strict=True)]


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _look(number: int) -> str:
    dash = DASHES[number // len(COLOURS) % len(DASHES)]
    dashed = f' stroke-dasharray="{dash}"' if dash else ""
    return f'stroke="{_colour(number)}" stroke-width="1.8"{dashed}'


# -- what is drawn -------------------------------------------------------------------------------------

Panel = tuple[str, int, list[Curve], tuple[float, float] | None]


def _page(title: str, told: str, panels: Sequence[Panel], last: float) -> str:
    height = TOP + sum(high + GAP for _, high, _, _ in panels) + 10
    width = LEFT + WIDE + RIGHT
    parts = [
        opened(width, height),
        STYLE,
        f'<rect class="page" width="{width}" height="{height}"/>',
        text_at(LEFT, 30, title, 17, "currentColor", weight="bold"),
        text_at(LEFT, 52, told, 12, "currentColor"),
    ]
    top = TOP
    for name, high, drawn, limits in panels:
        low, upper = limits or _limits(drawn, zero=name == "learning rate")
        parts += _panel(Axes(top, high, last, low, upper), name, drawn)
        top += high + GAP
    parts += [text_at(LEFT + WIDE / 2, height - 8, "step", 12, "currentColor", anchor="middle"), "</svg>"]
    return "\n".join(parts) + "\n"


def _limits(drawn: Sequence[Curve], zero: bool) -> tuple[float, float]:
    """What the axis shows: all that is known, from 0 where that is wanted, and never nothing."""
    known = [value for curve in drawn for _, value in curve.points if value is not None] or [0.0, 1.0]
    low, upper = 0.0 if zero else min(known), max(known)
    room = (upper - low) * 0.04 or abs(upper) * 0.1 or 1.0
    return low if zero else low - room, upper + room


def _panel(axes: Axes, name: str, drawn: Sequence[Curve]) -> Iterator[str]:
    yield text_at(LEFT, axes.top - 9, name, 13, "currentColor", weight="bold")
    for value in ticks(axes.low, axes.upper, max(2, min(5, axes.high // 28))):
        _, y = axes.at(0, value)
        yield f'<path class="grid" d="M{LEFT} {y:.1f}h{WIDE}"/>'
        yield text_at(LEFT - 8, round(y + 4, 1), _number(value), 11, "currentColor", anchor="end")
    for step in ticks(0, axes.last, 6):
        x, _ = axes.at(step, axes.low)
        yield f'<path class="grid" d="M{x:.1f} {axes.top}v{axes.high}"/>'
        yield text_at(round(x, 1), axes.top + axes.high + 16, f"{step:,.0f}", 11, "currentColor", anchor="middle")
    for curve in drawn:
        yield from _dots(curve, axes) if curve.dots else _lines(curve, axes)
    yield from _names([curve for curve in drawn if curve.name], axes)


def ticks(low: float, upper: float, about: float) -> list[float]:
    """Round numbers within a range: multiples of 1, 2 or 5 times a power of ten, about so many."""
    rough = (upper - low) / about
    power = 10 ** math.floor(math.log10(rough))
    size = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / size - 1e-9), math.floor(upper / size + 1e-9)
    return [float(f"{number * size:.10g}") for number in range(first, last + 1)]


def _dots(curve: Curve, axes: Axes) -> Iterator[str]:
    for step, value in curve.points:
        if value is not None:
            x, y = axes.at(step, value)
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.6" fill="{curve.dots}" stroke="currentColor"/>'


def _lines(curve: Curve, axes: Axes) -> Iterator[str]:
    """The curve, broken where nothing is known; a point alone is a dash."""
    run: list[str] = []
    end = ""
    for step, value in [*curve.points, (0.0, None)]:
        if value is not None:
            x, y = axes.at(step, value)
            run.append(f"{x:.1f},{y:.1f}")
            end = f"{x - 5:.1f},{y:.1f}"
        elif run:
            run += [end] if len(run) == 1 else []
            yield f'<polyline {curve.look} points="{" ".join(run)}"/>'
            run = []


def _names(drawn: Sequence[Curve], axes: Axes) -> Iterator[str]:
    """The name and last value of every curve beside its end, moved apart where they would touch."""
    ends = [(value, curve) for curve in drawn if (value := _last(curve)) is not None]
    ends.sort(key=lambda end: -end[0])
    below = axes.top + axes.high - LINE * (len(ends) - 1)
    y = -math.inf
    for value, curve in ends:
        y = max(y + LINE, min(axes.at(0, value)[1], below))
        below += LINE
        yield f'<polyline {curve.look} points="{LEFT + WIDE + 8},{y:.1f} {LEFT + WIDE + 28},{y:.1f}"/>'
        name = curve.name if len(curve.name) <= 14 else f"{curve.name[:13]}…"
        yield text_at(LEFT + WIDE + 34, round(y + 4, 1), f"{name} {_number(round(value, 3))}", 11, "currentColor")


def _last(curve: Curve) -> float | None:
    return next((value for _, value in reversed(curve.points) if value is not None), None)


def _number(value: float) -> str:
    return f"{value:.4g}".replace("-", "−")
