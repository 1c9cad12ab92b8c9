"""Colours, marks and axes that the figures of a report share."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from adaloss_lightning.tracking.tags import COLOURS

Floats = NDArray[np.float64]

GREY = "#5f5f5f"

_MARKERS = "osD^vPX"
_TICKS = (0.0, 50.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9)
_FEWEST_TICKS = 3
_CLOSEST = 0.05  # percent points from 100, which a log axis of the error cannot show
_LOG_RATIO = 20.0  # values further apart than this are squeezed on a linear axis


def marker_of(index: int) -> str:
    """Mark of a row: rows that share a colour have another mark."""
    return _MARKERS[(index + index // COLOURS) % len(_MARKERS)]


def shade_of(index: int, count: int) -> str:
    """Colour of the b0 at `index` of `count`: dark for the smallest, as ordered as b0 is, in print and in grey too."""
    return str(to_hex(colormaps["viridis"](0.9 * index / max(1, count - 1))))


def error_axis(percent: Floats) -> Floats:
    """Position of an accuracy on a log axis of the error: it keeps 98 and 99 % apart, and shows 10 % too."""
    return -np.log10(np.maximum(100.0 - np.asarray(percent, dtype=np.float64), _CLOSEST))


def error_axis_inverse(position: Floats) -> Floats:
    """The accuracy at a position."""
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


def log_helps(values: Sequence[float] | Floats) -> bool:
    """Whether values are all positive and so far apart that a linear axis would hide the small ones."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return bool(known.size and known.min() > 0 and known.max() / known.min() > _LOG_RATIO)


def plain(text: str) -> str:
    """A user's text as matplotlib shows it letter by letter: a dollar sign would start a formula."""
    return "".join(character if character.isprintable() else "?" for character in text).replace("$", r"\$")
