"""Colours, marks and axes that the figures of a report share."""

from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

Floats = NDArray[np.float64]

GREY = "#5f5f5f"

# Okabe and Ito's palette, told apart by colour-blind readers; its yellow is left out, too faint for lines on white.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
_MARKERS = "osD^vPX"
_TICKS = (0.0, 50.0, 80.0, 90.0, 95.0, 98.0, 99.0, 99.5, 99.9)
_FEWEST_TICKS = 3
_CLOSEST = 0.05  # percent points from 100, which a log axis of the error cannot show
_LOG_RATIO = 20.0  # values further apart than this are squeezed on a linear axis


def colour_of(index: int) -> str:
    """Colour of a row."""
    return _COLOURS[index % len(_COLOURS)]


def marker_of(index: int) -> str:
    """Mark of a row: rows that share a colour have another mark."""
    return _MARKERS[(index + index // len(_COLOURS)) % len(_MARKERS)]


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


def log_helps(values: Sequence[float] | Floats) -> bool:
    """Whether values are all positive and so far apart that a linear axis would hide the small ones."""
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    return bool(known.size and known.min() > 0 and known.max() / known.min() > _LOG_RATIO)


def plain(text: str) -> str:
    """A user's text as matplotlib shows it letter by letter: a dollar sign would start a formula."""
    return "".join(character if character.isprintable() else "?" for character in text).replace("$", r"\$")
