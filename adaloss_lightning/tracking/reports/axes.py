"""Axes of a report's figures: scale, limits and ticks, the same for every renderer."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from adaloss_lightning.tracking.units import PLAIN, Unit

Floats = NDArray[np.float64]

_TICKS = (0.0, 50.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9)
_FEWEST_TICKS = 3
_MOST_B0S = 12  # more ticks run into each other: then the axis shows powers of ten
_CLOSEST = 0.05  # percent points from 100: an error of 0 has no place on a log axis
_LOG_RATIO = 20.0  # values further apart than this are squeezed on a linear axis
_ROOM = 0.06  # share of an axis of values that stays free at each end


@dataclass(frozen=True)
class Axis:
    """An axis. The scale "error" is for percent: a log axis of the error, which keeps 98 and 99 % apart.

    Attributes:
        title: What it shows, without the scale.
        scale: How values are placed.
        limits: Lowest and highest value.
        ticks: Values and labels, a power as `10<sup>3</sup>`; None leaves them to the renderer.
    """

    title: str
    scale: Literal["linear", "log", "error"]
    limits: tuple[float, float]
    ticks: dict[float, str] | None = None

    @property
    def scale_text(self) -> str:
        """The scale, to be put behind a title; empty for a linear one."""
        return {"linear": "", "log": ", log axis", "error": ", log axis of the error"}[self.scale]


def b0_axis(b0s: Sequence[float]) -> Axis:
    """A log axis on which every b0 has room, with a value or without."""
    first, last = b0s[0], b0s[-1]
    room = (last / first) ** 0.03 if last > first else 2.0
    ticks = {b0: f"{b0:g}" for b0 in b0s} if len(b0s) <= _MOST_B0S else log_ticks(first, last, 8)
    return Axis("b0", "log", (first / room, last * room), ticks)


def step_axis(last: float) -> Axis:
    """An axis of steps from 0 to the last one."""
    return Axis("step", "linear", (-0.02 * last, 1.02 * last or 1.0))


def value_axis(metric: str, values: Sequence[float] | Floats, unit: Unit = PLAIN) -> Axis:
    """An axis with room for the finite ones of `values`, which are as the unit shows them."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if unit.is_percent:
        low, high = error_axis([known.min(), known.max()] if known.size else [0.0, 99.0])
        room = _ROOM * (high - low) or 0.1
        below, above = error_axis_inverse([low - room, high + room])
        ticks = {tick: f"{tick:g}" for tick in accuracy_ticks(below, above)}
        return Axis(f"{metric}{unit.suffix}", "error", (float(below), float(above)), ticks)
    if not known.size:
        return Axis(metric, "linear", (0.0, 1.0))
    low, high = float(known.min()), float(known.max())
    if log_helps(known):
        ratio = (high / low) ** _ROOM
        limits = (low / ratio, high * ratio)
        return Axis(metric, "log", limits, log_ticks(*limits))
    room = _ROOM * (high - low) or 0.1 * abs(high) or 0.1
    return Axis(metric, "linear", (low - room, high + room))


def error_axis(percent: Sequence[float] | Floats) -> Floats:
    """Position of a percentage on a log axis of the error."""
    return -np.log10(error_of(percent))


def error_of(percent: Sequence[float] | Floats) -> Floats:
    """Distance of a percentage from 100, as far as a log axis has a place for it."""
    return np.maximum(100.0 - np.asarray(percent, dtype=np.float64), _CLOSEST)


def error_axis_inverse(position: Sequence[float] | Floats) -> Floats:
    """The percentage at a position."""
    return 100.0 - 10.0 ** -np.asarray(position, dtype=np.float64)


def accuracy_ticks(low: float, high: float) -> list[float]:
    """Ticks in percent for a log axis of the error from `low` to `high`, even ones where that is a narrow range."""
    ticks = [tick for tick in _TICKS if low <= tick <= high]
    if len(ticks) >= _FEWEST_TICKS:
        return list(_TICKS)
    return [float(tick) for tick in MaxNLocator(5).tick_values(low, min(high, 100.0)) if tick < 100.0]


def log_ticks(low: float, high: float, most: int = 5) -> dict[float, str]:
    """At most `most` ticks for a log axis from `low` to `high`, with their labels: so few never touch in a panel.

    They are 1, 2 and 5 times powers of ten where these are few enough, else powers of ten, evenly spread.
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in (1, 2, 5)]
    if sum(low <= tick <= high for tick in ticks) < _FEWEST_TICKS:  # less than a decade
        ticks = [float(tick) for tick in MaxNLocator(most - 1).tick_values(low, high)]
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) <= most:
        return {tick: f"{tick:g}" for tick in inside}
    powers = [power for power in range(first, last + 1) if low <= 10.0**power <= high]
    powers = [power for power in powers if power % math.ceil(len(powers) / most) == 0]
    is_short = all(-3 <= power <= 4 for power in powers)
    return {10.0**power: f"{10.0**power:g}" if is_short else f"10<sup>{power}</sup>" for power in powers}


def log_helps(known: Floats) -> bool:
    """Whether values are all positive and so far apart that a linear axis would hide the small ones."""
    return bool(known.min() > 0 and known.max() / known.min() > _LOG_RATIO)
