"""Measures of the leaderboard, computed from the runs' results alone.

The one rule of choice: of a method's values that with the best mean over seeds on validation data; of equal ones that
with the lower validation loss. A value that diverged with any seed is chosen only where all did. What is reported of
the value is measured on test data.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from recipes.leaderboard.records import Record, TaskResults
from recipes.leaderboard.tasks import MARGINS, Measure
from recipes.shared.claims import SEEDS, Verdict, t_interval

Outcome = Literal["win", "tie", "loss"]
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Cell:
    """A method at one value: results on test data by seed, None where the run diverged."""

    value: float | None
    by_seed: Mapping[int, float | None]

    @property
    def has_diverged(self) -> bool:
        """Whether any seed did."""
        return None in self.by_seed.values()

    @property
    def mean(self) -> float | None:
        """Mean over the seeds; None where one diverged."""
        finite = [result for result in self.by_seed.values() if result is not None]
        return statistics.fmean(finite) if finite and not self.has_diverged else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds."""
        finite = [result for result in self.by_seed.values() if result is not None]
        return statistics.stdev(finite) if len(finite) > 1 and not self.has_diverged else None


@dataclass(frozen=True)
class Difference:
    """How much better one cell is than another, seed by seed; positive is better whichever way the measure goes.

    Attributes:
        mean: Mean over the seeds that both have; infinite where only one of them diverged, 0 where both did.
        low: Lower end of the interval, `mean - t * s / sqrt(n)` with Student's t for n - 1 degrees of freedom and the
            sample standard deviation s of the differences.
        high: Upper end.
        margin: Up to which they count as the same.
        seeds: Pairs.
    """

    mean: float
    low: float
    high: float
    margin: float
    seeds: int

    @property
    def outcome(self) -> Outcome:
        """By the mean and the margin alone, for the tables."""
        if abs(self.mean) <= self.margin + _ROUNDING:
            return "tie"
        return "win" if self.mean > 0 else "loss"

    @property
    def is_clear(self) -> bool:
        """Whether the interval leaves out 0."""
        return self.low > 0 or self.high < 0

    @property
    def not_worse(self) -> Verdict:
        """Whether ours is at most the margin behind, by the interval."""
        if self.seeds < SEEDS or self.low < -self.margin - _ROUNDING <= self.high:
            return "not tested"
        return "holds" if self.low >= -self.margin - _ROUNDING else "does not hold"


@dataclass(frozen=True)
class Row:
    """A method on a task.

    Attributes:
        method: Its name.
        default: At its authors' value.
        best: At the value that validation data choose.
        worst: At the value that is worst on test data; one that diverged is.
        decades: Values, one a decade, whose mean is within the margin of the best tuned of all methods.
        values: Values tried.
        diverged: Share of all runs.
        step_seconds: Median over the runs.
        batches: Steps of one run, with a probe.
        batches_in_all: Steps of all values with one seed: what the tuned result costs.
    """

    method: str
    default: Cell
    best: Cell
    worst: Cell
    decades: int
    values: int
    diverged: float
    step_seconds: float | None
    batches: float
    batches_in_all: float


@dataclass(frozen=True)
class Table:
    """All methods on a task.

    Attributes:
        results: What it is made from.
        rows: By the name of the method.
        reference: Mean on test data of the tuned method that is the best on validation data.
        margin: Up to which two results count as the same, in the unit of the measure.
    """

    results: TaskResults
    rows: dict[str, Row]
    reference: float | None
    margin: float

    @property
    def sign(self) -> int:
        """1 where large values are good, -1 where small ones are."""
        return _sign(self.results.measure)

    def difference(self, ours: Cell, theirs: Cell) -> Difference:
        """How much better `ours` is."""
        return difference(ours, theirs, self.sign, self.margin)

    def first(self, cells: Iterable[tuple[str, Cell]]) -> tuple[str, Cell] | None:
        """The cell that validation data put first, and the name of its method; None where there is none."""
        found = list(cells)
        order = sorted(found, key=lambda pair: _rank(self.results.records, pair[0], pair[1], self.sign))
        return order[0] if order else None


def table_of(results: TaskResults) -> Table:
    """Computes all measures of a task."""
    sign = _sign(results.measure)
    methods = list(dict.fromkeys(record.method for record in results.records))
    cells = {method: _cells(results.records, method) for method in methods}
    best = {
        method: min(cells[method], key=lambda cell: _rank(results.records, method, cell, sign)) for method in methods
    }
    order = sorted(best, key=lambda method: _rank(results.records, method, best[method], sign))
    reference = best[order[0]].mean if order else None
    margin = MARGINS[cast(Measure, results.measure)]
    if results.measure != "acc":
        margin *= abs(reference or 0.0)
    rows = {}
    for method in methods:
        own = [record for record in results.records if record.method == method]
        within = [
            cell for cell in cells[method]
            if cell.mean is not None and reference is not None and sign * (cell.mean - reference) >= -margin - _ROUNDING
        ]  # fmt: skip
        default = results.defaults.get(method)
        steps = [record.step_seconds for record in own if record.step_seconds is not None]
        at_default = [record.batches for record in own if record.value == default]
        rows[method] = Row(
            method,
            default=next((cell for cell in cells[method] if cell.value == default), Cell(default, {})),
            best=best[method],
            worst=min(cells[method], key=lambda cell: -math.inf if cell.mean is None else sign * cell.mean),
            decades=len(within),
            values=len(cells[method]),
            diverged=sum(record.test is None for record in own) / len(own),
            step_seconds=statistics.median(steps) if steps else None,
            batches=statistics.fmean(at_default) if at_default else math.nan,
            batches_in_all=sum(record.batches for record in own) / len({record.seed for record in own}),
        )
    return Table(results, rows, reference, margin)


def difference(ours: Cell, theirs: Cell, sign: int, margin: float) -> Difference:
    """How much better `ours` is, paired by seed; `sign` is 1 where large values are good, else -1."""
    lost, won = ours.has_diverged, theirs.has_diverged
    pairs = [(ours.by_seed[seed], theirs.by_seed[seed]) for seed in ours.by_seed if seed in theirs.by_seed]
    if lost or won:
        mean = 0.0 if lost and won else (-math.inf if lost else math.inf)
        return Difference(mean, mean, mean, margin, len(pairs))
    # Rounded: 0.9 - 0.8 must not be more than 0.8 - 0.7.
    differences = [round(sign * (a - b), 12) for a, b in pairs if a is not None and b is not None]
    if not differences:
        return Difference(math.nan, math.nan, math.nan, margin, 0)
    return Difference(*t_interval(differences), margin, len(differences))


def _sign(measure: str) -> int:
    return -1 if measure in ("loss", "rmse") else 1


def _cells(records: Sequence[Record], method: str) -> list[Cell]:
    by_value: dict[float | None, dict[int, float | None]] = {}
    for record in records:
        if record.method == method:
            by_value.setdefault(record.value, {})[record.seed] = record.test
    return [Cell(value, by_seed) for value, by_seed in by_value.items()]


def _rank(records: Sequence[Record], method: str, cell: Cell, sign: int) -> tuple[bool, float, float]:
    """Sorts cells by the rule of choice, the best first."""
    own = [record for record in records if record.method == method and record.value == cell.value]
    val = [record.val for record in own if record.val is not None]
    losses = [record.val_loss for record in own if record.val_loss is not None]
    has_diverged = len(val) < len(own) or not val
    return (
        has_diverged,
        -sign * statistics.fmean(val) if val else math.inf,
        statistics.fmean(losses) if losses else 0.0,
    )
