"""Spread of a method's results over b0, seed by seed."""

import math
from dataclasses import dataclass

from adaloss_lightning.tracking.reports.results import Cell, Results


@dataclass(frozen=True)
class Spread:
    """One method with one seed: a value for each b0. Large values are good."""

    values: list[float]

    @property
    def best(self) -> float:
        """The largest value."""
        return max(self.values)

    @property
    def width(self) -> float:
        """Best less worst value; infinite where a run diverged."""
        return self.best - min(self.values) if math.isfinite(self.best) else math.inf


def seed_spreads(results: Results, method: str, diverged: float = -math.inf) -> dict[str, Spread]:
    """Spreads of the seeds that have a value, or diverged, at every one of two b0 or more.

    Args:
        results: Of several seeds.
        method: A row of them.
        diverged: What a run that diverged counts as.
    """
    if method not in results.methods or len(results.b0s) < 2:
        return {}
    cells = [_by_seed(results, cell, diverged) for cell in results.row(method)]
    return {
        seed: Spread([cell[seed] for cell in cells]) for seed in results.seeds if all(seed in cell for cell in cells)
    }


def _by_seed(results: Results, cell: Cell, diverged: float) -> dict[str, float]:
    if cell.seeds < len(results.seeds):
        return {}  # another sweep's grid: values are not known by seed
    having = [seed for seed in results.seeds if seed not in cell.gaps]
    without = {seed: diverged for seed, gap in cell.gaps.items() if gap == "diverged"}
    return dict(zip(having, cell.values, strict=True)) | without
