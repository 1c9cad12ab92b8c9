"""Results of experiments: one number a row, b0 and seed, and the reason where it is missing."""

import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, TypeVar

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.metrics import (
    DEFAULT_METRICS,
    Direction,
    Mode,
    by_name,
    direction_of,
    has_diverged,
    metric_of,
    names_of,
    unseen_of,
)
from adaloss_lightning.tracking.reports.stored_sweep import PointKey, StoredSweep, read_sweep
from adaloss_lightning.tracking.runs import MlflowClient, Run
from adaloss_lightning.tracking.tags import METRIC_TAG, MODE_TAG, TESTED_TAG
from adaloss_lightning.tracking.units import Unit, unit_of

if TYPE_CHECKING:
    from adaloss_lightning.tracking.reports.histories import Histories, History

_WILD = 100.0
_Told = TypeVar("_Told", bound=str)
Gap = Literal["diverged", "failed", "killed", "running", "no value", "no run"]


@dataclass
class Cell:
    """One row at one b0: a value, or the reason there is none, for each seed. Empty where no sweep asked for it."""

    values: list[float] = field(default_factory=list)
    gaps: dict[str, Gap] = field(default_factory=dict)

    @property
    def mean(self) -> float | None:
        """Mean over the seeds that have a value."""
        return statistics.fmean(self.values) if self.values else None

    @property
    def deviation(self) -> float | None:
        """Sample standard deviation over the seeds; None for fewer than two values."""
        return statistics.stdev(self.values) if len(self.values) > 1 else None

    @property
    def seeds(self) -> int:
        """Number of seeds that were asked for."""
        return len(self.values) + len(self.gaps)

    @property
    def has_diverged(self) -> bool:
        """Whether a seed diverged."""
        return "diverged" in self.gaps.values()

    @property
    def is_diverged(self) -> bool:
        """Whether no seed has a value, and divergence is a reason."""
        return not self.values and self.has_diverged


@dataclass(frozen=True)
class Results:
    """All cells of one or several experiments.

    Attributes:
        experiment: Name; of several, all names.
        metric: What is compared.
        methods: Labels of the rows: the method, then the options of a larger grid (`adam, lr=0.1`); the experiment
            before it where there are several.
        b0s: Every b0 of any row, ascending.
        seeds: Every seed of any row.
        cells: By row and b0.
        parent_id: The sweep; None for runs that no sweep started, and for several experiments.
        runs: By row, b0 and seed: the run that counts, with a value or without.
        client: Where the histories of `runs` are read; None for results that are not from a store.
        histories: By metric and run, those that were read; None where none were yet.
        given_direction: Whether small values are good; None goes by the name of the metric.
    """

    experiment: str
    metric: str
    methods: list[str]
    b0s: list[float]
    seeds: list[str]
    cells: dict[tuple[str, float], Cell]
    parent_id: str | None
    runs: dict[PointKey, Run] = field(default_factory=dict)
    client: MlflowClient | None = None
    histories: "Histories | None" = None
    given_direction: Direction | None = None

    @property
    def direction(self) -> Direction:
        """Whether small values are good, and who says so."""
        return self.given_direction or by_name(self.metric)

    def unit(self) -> Unit:
        """The unit of the metric, which all values decide together."""
        return unit_of(self.metric, (value for cell in self.cells.values() for value in cell.values))

    def add(self, point: PointKey, run: Run | None) -> None:
        """Takes the run that counts for a point, or that there is none."""
        row, b0, seed = point
        if run is not None:
            self.runs[point] = run
        gap = gap_of(run, self.metric)
        if run is None or gap is not None:
            self.cells[row, b0].gaps[seed] = gap or "no run"
        else:
            self.cells[row, b0].values.append(run.data.metrics[self.metric])

    def history(self, metric: str, run: Run) -> "History | None":
        """Values of a metric by step; None where none were read."""
        return (self.histories or {}).get(metric, {}).get(run.info.run_id)

    def origin(self) -> str:
        """Of which epoch the values are, as one sentence."""
        if not self.metric.startswith("test"):
            return "Each value is the last that its run logged, not the best."
        tested = {run.data.tags.get(TESTED_TAG) for run in self.runs.values() if gap_of(run, self.metric) is None}
        epoch = {"best": "the best epoch, the one that its checkpoints keep", "last": "the last epoch"}
        if len(tested) == 1 and (said := tested.pop()) in epoch:
            return f"Each value is of its run's test with the weights of {epoch[said]}."
        return "Each value is of its run's test; of the best or of the last epoch, as the run has tested it."

    def highest_on_axis(self) -> float:
        """The largest mean that sets the scale of an axis; infinite where all do.

        Where small is good, means above a hundred times the median, of runs that diverged without a NaN, leave it.
        """
        means = [cell.mean for cell in self.cells.values() if cell.mean is not None]
        limit = _WILD * statistics.median(means) if means else 0.0
        if self.direction.mode == "max" or limit <= 0 or max(means) <= limit:
            return math.inf
        return max(mean for mean in means if mean <= limit)

    def values_on_axis(self) -> list[float]:
        """The values, of all seeds, that set the scale of an axis."""
        highest = self.highest_on_axis()
        cells = [cell for cell in self.cells.values() if cell.mean is not None and cell.mean <= highest]
        return [value for cell in cells for value in cell.values]

    def row(self, method: str) -> list[Cell]:
        """Cells of one row, b0 by b0."""
        return [self.cells[method, b0] for b0 in self.b0s]

    def gaps(self) -> list[str]:
        """One sentence for each row and b0 that has fewer values than seeds."""
        return [
            f"{method}, b0 = {b0:g}: " + ", ".join(f"seed {seed} {gap}" for seed, gap in cell.gaps.items())
            for (method, b0), cell in self.cells.items()
            if cell.gaps
        ]

    def spread_text(self) -> str:
        """Over how many seeds a mean is taken: "5 seeds", "2 to 5 seeds", "one seed"."""
        counts = {cell.seeds for cell in self.cells.values() if cell.seeds} or {len(self.seeds)}
        low, high = min(counts), max(counts)
        return "one seed" if high == 1 else f"{high} seeds" if low == high else f"{low} to {high} seeds"


def gap_of(run: Run | None, metric: str | None) -> Gap | None:
    """Why a point has no value; None where it has one."""
    if run is None:
        return "no run"
    if has_diverged(run, metric):
        return "diverged"
    gaps: dict[str, Gap] = {"FAILED": "failed", "KILLED": "killed", "RUNNING": "running", "SCHEDULED": "running"}
    if run.info.status in gaps:
        return gaps[run.info.status]
    return None if metric in run.data.metrics else "no value"


def collect(
    client: MlflowClient,
    experiment: str,
    metric: str | None = None,
    parent_id: str | None = None,
    mode: Mode | None = None,
) -> Results:
    """Reads a sweep of `experiment`, or all its runs where there is no sweep.

    Args:
        client: Client of the store.
        experiment: Name of the experiment.
        metric: Metric to compare; None takes the one that the sweep was told to compare, else what `metric_of` finds.
        parent_id: Identifier of the sweep's own run; None takes the newest sweep.
        mode: "min" where small values are good, "max" where large ones are; None asks the sweep and its runs.

    Raises:
        SweepError: No such experiment or sweep, no runs with a method and a b0, or no such metric.
    """
    return _compare([read_sweep(client, experiment, parent_id)], client, metric, mode)


def collect_all(
    client: MlflowClient, experiments: Sequence[str], metric: str | None = None, mode: Mode | None = None
) -> Results:
    """Reads the newest sweeps of several experiments into one table.

    Each has its own grid: what it was not asked for stays an empty cell.

    Raises:
        SweepError: As `collect`.
    """
    names = list(dict.fromkeys(experiments))
    sweeps = [read_sweep(client, name, prefix=f"{name}: " if len(names) > 1 else "") for name in names]
    return _compare(sweeps, client, metric, mode)


def _compare(sweeps: Sequence[StoredSweep], client: MlflowClient, metric: str | None, mode: Mode | None) -> Results:
    names = [sweep.experiment for sweep in sweeps]
    runs = [run for sweep in sweeps for run in sweep.points.values()]
    parent = sweeps[0].parent if len(sweeps) == 1 else None
    metric, mode = _asked(sweeps, metric, mode)
    chosen = _chosen(metric, names, runs)
    methods = [row for sweep in sweeps for row in sweep.rows]
    b0s = sorted({b0 for sweep in sweeps for b0 in sweep.b0s})
    results = Results(
        experiment=", ".join(names),
        metric=chosen,
        methods=methods,
        b0s=b0s,
        seeds=list(dict.fromkeys(seed for sweep in sweeps for seed in sweep.seeds)),
        cells={(row, b0): Cell() for row in methods for b0 in b0s},
        parent_id=parent.info.run_id if parent else None,
        client=client,
        given_direction=direction_of(chosen, runs, mode),
    )
    for sweep in sweeps:
        for point in itertools.product(sweep.rows, sweep.b0s, sweep.seeds):
            results.add(point, sweep.points.get(point))
    return results


def _asked(sweeps: Sequence[StoredSweep], metric: str | None, mode: Mode | None) -> tuple[str | None, Mode | None]:
    """Metric and mode that the user names now, else those that the sweeps were told, where these agree.

    The mode of a sweep is that of its metric, and says nothing about another one.

    Raises:
        SweepError: Sweeps were told to compare different metrics, or the same one in different directions.
    """
    tags = {sweep.experiment: sweep.parent.data.tags for sweep in sweeps if sweep.parent is not None}
    if metric is None:
        told = {name: one[METRIC_TAG] for name, one in tags.items() if METRIC_TAG in one}
        metric = _agreed("metric", told, "--metric")
    modes: dict[str, Mode] = {}
    for name, one in tags.items():
        if one.get(METRIC_TAG) == metric and one.get(MODE_TAG) in ("min", "max"):
            modes[name] = "min" if one[MODE_TAG] == "min" else "max"
    return metric, mode or _agreed("direction", modes, "--minimize or --maximize")


def _agreed(what: str, told: Mapping[str, _Told], option: str) -> _Told | None:
    """What all experiments that were told anything were told; None where none was."""
    if len(set(told.values())) > 1:
        listed = ", ".join(f"{name}: {value}" for name, value in told.items())
        raise SweepError(f"The sweeps were told to compare by different {what}s ({listed}). Give {option}.")
    return next(iter(told.values()), None)


def _chosen(metric: str | None, experiments: Sequence[str], runs: Sequence[Run]) -> str:
    there = names_of(runs)
    chosen = metric or metric_of(runs)
    if chosen is not None and (chosen in there or chosen in unseen_of(runs, chosen)):
        return chosen
    if not there:
        return metric or DEFAULT_METRICS[0]  # the table says why no point has a value
    where = f"experiment{'s' if len(experiments) > 1 else ''} {', '.join(map(repr, experiments))}"
    what = (
        f"Unknown metric {metric!r} in {where}."
        if metric
        else f"No run in {where} has one of {', '.join(DEFAULT_METRICS)}. Name another one with --metric."
    )
    raise SweepError(f"{what} There are: {', '.join(sorted(there))}.")
