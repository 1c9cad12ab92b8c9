"""Robustness over b0: the worst and best mean of a method over seeds, and the width of its range of good b0."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adaloss_lightning.tracking.reports.results import Cell, Results
from adaloss_lightning.tracking.units import Unit

_ROUNDING = 1e-9  # 0.99 - 0.98 is a little more than 0.01


@dataclass(frozen=True)
class Width:
    """An unbroken run of grid values of b0, from `low` to `high`.

    `is_open` says that nothing is known beyond one of its ends: the grid stops there, or has no runs.
    """

    low: float
    high: float
    is_open: bool

    @property
    def decades(self) -> float:
        """Factors of ten from end to end; 0 for a single value."""
        return math.log10(self.high / self.low)

    def __str__(self) -> str:
        return f"{'≥ ' if self.is_open else ''}{self.decades:.1f}"


@dataclass(frozen=True)
class Robustness:
    """One row of a report, summed up over b0.

    The width is that of the widest unbroken run of grid values around the best one whose means are all within a
    tolerance of a best mean: 1 percentage point for accuracies, 1 % of the best value for any other metric.

    A b0 at which a seed diverged counts as diverged, whatever the other seeds reached: it is the worst, never the best
    and never within. Other missing seeds leave the mean over those that there are; a b0 without any is unknown.

    Attributes:
        worst: Worst mean; None where a b0 diverged, for nothing is worse, and where there is no value.
        best: Best mean; None where there is none.
        own: Width against the row's own best mean: how little it depends on b0, also where it is bad throughout.
        overall: Width against the best mean of all rows: where it keeps up with the best; None where it nowhere does.
    """

    worst: float | None
    best: float | None
    own: Width | None
    overall: Width | None
    has_diverged: bool


def robustness(results: Results) -> dict[str, Robustness]:
    """Sums up every row of `results`."""
    grids = {method: _grid(results, method) for method in results.methods}
    fold = min if results.direction.mode == "min" else max
    bests = {method: fold(means) for method, grid in grids.items() if (means := _means(grid))}
    overall = fold(bests.values()) if bests else None
    unit, rows = results.unit(), {}
    for method, grid in grids.items():
        best, means = bests.get(method), _means(grid)
        has_diverged = any(cell.has_diverged for _, cell in grid)
        worst = (max(means) if fold is min else min(means)) if means else None
        rows[method] = Robustness(
            worst=None if has_diverged else worst,
            best=best,
            own=_width(grid, best, best, unit),
            overall=_width(grid, best, overall, unit),
            has_diverged=has_diverged,
        )
    return rows


def _grid(results: Results, method: str) -> list[tuple[float, Cell]]:
    return [(b0, cell) for b0, cell in zip(results.b0s, results.row(method), strict=True) if cell.seeds]


def _means(grid: Sequence[tuple[float, Cell]]) -> list[float]:
    return [cell.mean for _, cell in grid if cell.mean is not None and not cell.has_diverged]


def _width(grid: Sequence[tuple[float, Cell]], best: float | None, target: float | None, unit: Unit) -> Width | None:
    """The widest run within the tolerance of `target` that holds a b0 with the mean `best`."""
    if best is None or target is None:
        return None
    tolerance = unit.tolerance(target) * (1 + _ROUNDING) + _ROUNDING * abs(target)
    inside = [
        cell.mean is not None and not cell.has_diverged and abs(cell.mean - target) <= tolerance for _, cell in grid
    ]
    widths = []
    for peak in (index for index, (_, cell) in enumerate(grid) if cell.mean == best and inside[index]):
        first = last = peak
        while first > 0 and inside[first - 1]:
            first -= 1
        while last + 1 < len(grid) and inside[last + 1]:
            last += 1
        beyond = [grid[index][1] for index in (first - 1, last + 1) if 0 <= index < len(grid)]
        is_open = len(beyond) < 2 or any(cell.mean is None and not cell.has_diverged for cell in beyond)
        widths.append(Width(grid[first][0], grid[last][0], is_open))
    return max(widths, key=lambda width: width.decades, default=None)
