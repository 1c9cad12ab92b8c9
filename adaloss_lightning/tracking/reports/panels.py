"""Contents of a report's figures: lines, gaps and axes, which `figures` and `plots` draw alike."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from matplotlib import colormaps
from matplotlib.colors import to_hex

from adaloss_lightning.tracking.reports.axes import Axis, Floats, b0_axis, step_axis, value_axis
from adaloss_lightning.tracking.reports.curves import Curves
from adaloss_lightning.tracking.reports.results import Cell, Results
from adaloss_lightning.tracking.tags import colour_of
from adaloss_lightning.tracking.units import Unit

GREY = "#5f5f5f"
_ROOM = 1.3  # times the largest value on the axis: there stand the values that are beyond it


@dataclass(frozen=True)
class Line:
    """A mean over seeds with its range, against b0 or steps; NaN where there is no value.

    Attributes:
        label: The row, or the b0.
        index: Its place among all rows, or all b0.
        colour: Of the line and of the band.
        has_range: Whether any point has more than one seed.
        is_diverged: Whether it ends in a divergence.
        notes: Text of each point for people who point at it; None: its value says all.
    """

    label: str
    index: int
    colour: str
    x: Floats
    mean: Floats
    low: Floats
    high: Floats
    has_range: bool
    is_diverged: bool = False
    notes: list[str] | None = None


@dataclass(frozen=True)
class Mark:
    """A remark on one row at one b0: a gap, or a value beyond the axis."""

    row: int
    b0: float
    text: str
    is_diverged: bool = False

    @property
    def colour(self) -> str:
        """That of the row."""
        return colour_of(self.row)


@dataclass(frozen=True)
class Panel:
    """What one pair of axes shows."""

    x: Axis
    y: Axis
    lines: list[Line]
    gaps: list[Mark] = field(default_factory=list)
    beyond: list[Mark] = field(default_factory=list)

    def first(self, count: int) -> "Panel":
        """The panel with its first `count` rows alone, on the same axes."""
        gaps, beyond = ([mark for mark in marks if mark.row < count] for marks in (self.gaps, self.beyond))
        return replace(self, lines=self.lines[:count], gaps=gaps, beyond=beyond)


def against_b0(results: Results) -> Panel:
    """The metric against b0, a line for each row."""
    unit, highest = results.unit(), results.highest_on_axis()
    gaps, beyond, lines = [], [], []
    for row, method in enumerate(results.methods):
        cells = results.row(method)
        for b0, cell in zip(results.b0s, cells, strict=True):
            if cell.gaps:
                gaps.append(Mark(row, b0, _reasons(method, b0, cell), cell.has_diverged))
            if cell.mean is not None and cell.mean > highest:
                beyond.append(Mark(row, b0, unit.text(cell.mean)))
        low, mean, high = (
            np.array([unit.scale * fold(cell.values) if cell.values else np.nan for cell in cells])
            for fold in (np.min, np.mean, np.max)
        )
        notes = [_value(method, b0, cell, unit) for b0, cell in zip(results.b0s, cells, strict=True)]
        has_range = any(len(cell.values) > 1 for cell in cells)
        b0s = np.array(results.b0s)
        lines.append(Line(method, row, colour_of(row), b0s, mean, low, high, has_range, notes=notes))
    values = unit.scale * np.array(results.values_on_axis())
    if beyond:
        values = np.append(values, _ROOM * values.max())
    y = value_axis(results.metric, values, unit)
    return Panel(b0_axis(results.b0s), y, lines, gaps, beyond)


def over_steps(results: Results, curves: Curves, method: str, b0s: Sequence[float]) -> Panel:
    """The curves of one row at these b0. All rows share their axes."""
    lines = []
    for b0 in b0s:
        curve = curves.by_point.get((method, b0))
        if curve is not None and curve.steps.size:
            index = results.b0s.index(b0)
            colour = shade_of(index, len(results.b0s))
            values = (curve.steps, curve.mean, curve.low, curve.high)
            lines.append(Line(f"b0 = {b0:g}", index, colour, *values, curve.seeds > 1, curve.is_diverged))
    last = max((float(one.steps[-1]) for one in curves.by_point.values() if one.steps.size), default=0.0)
    return Panel(step_axis(last), curves.axis, lines)


def shade_of(index: int, count: int) -> str:
    """Colour of the b0 at `index` of `count`: dark for the smallest, as ordered as b0 is, in print and in grey too."""
    return str(to_hex(colormaps["viridis"](0.9 * index / max(1, count - 1))))


def spread_over(values: Sequence[float], count: int) -> list[float]:
    """At most `count` of the values, from the first to the last, evenly spread."""
    if len(values) <= count:
        return list(values)
    return [values[index] for index in np.linspace(0, len(values) - 1, count).round().astype(int)]


def _reasons(method: str, b0: float, cell: Cell) -> str:
    return "\n".join([f"{method}, b0 = {b0:g}", *(f"seed {seed} {gap}" for seed, gap in list(cell.gaps.items())[:12])])


def _value(method: str, b0: float, cell: Cell, unit: Unit) -> str:
    if cell.mean is None:
        return ""
    return f"{method}, b0 = {b0:g}\n{unit.text(cell.mean)} (mean of {len(cell.values)})"
