"""Curves over steps: loss, accuracy, b and the effective rate of each row and b0, averaged over seeds."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from adaloss_lightning.tracking.metrics import LARGEST, is_lower_better, names_of
from adaloss_lightning.tracking.reports.axes import Axis, Floats, value_axis
from adaloss_lightning.tracking.reports.histories import Histories, History, HistoryReader
from adaloss_lightning.tracking.reports.results import Results, gap_of
from adaloss_lightning.tracking.terminal import progress
from adaloss_lightning.tracking.units import Unit, unit_of

_LOSSES = ("train/loss", "adaloss/loss", "train_loss", "loss")
_B, _RATE = "adaloss/b", "adaloss/effective_lr"
_POINTS = 20_000  # of one quantity in a page, all curves together: what a browser draws without delay
_FEWEST, _MOST = 40, 300  # points of a curve
_WILD = 10.0  # times the loss at which the median curve starts: a point whose loss stays above that sets no scale
_SPIKES = 6.0  # percent of a curve that may leave the axis: one loss of 1e15 would flatten all the others

_Point = tuple[str, float]  # row and b0


@dataclass(frozen=True)
class Curve:
    """Mean, lowest and highest value over seeds at each step; each step is averaged over the seeds that reached it."""

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats
    seeds: int
    is_diverged: bool

    def scaled(self, scale: float) -> "Curve":
        """The same curve with its values multiplied by `scale`."""
        return replace(self, mean=scale * self.mean, low=scale * self.low, high=scale * self.high)


@dataclass(frozen=True)
class Curves:
    """The curves of one metric by row and b0. A point whose seeds all diverged shows how far they came.

    Attributes:
        metric: Name of the metric.
        title: What it is, for people.
        unit: In which the values are: accuracies are in percent.
        limits: Lowest and highest value on the axis that all rows share; short spikes of single curves leave it, and
            so do points that diverged or whose loss rose far above where the others start.
        by_point: By row and b0.
        most_seeds: How many seeds of a point are in where there are too many to read; None where all are.
    """

    metric: str
    title: str
    unit: Unit
    limits: tuple[float, float]
    by_point: dict[_Point, Curve]
    most_seeds: int | None

    def has(self, method: str) -> bool:
        """Whether a row has any curve."""
        return any(row == method for row, _ in self.by_point)

    @property
    def axis(self) -> Axis:
        """The axis that all rows share."""
        return value_axis(self.metric, self.limits, self.unit)

    @property
    def heading(self) -> str:
        """What is shown, in which unit and on which scale."""
        return f"{self.title}{self.unit.suffix}{self.axis.scale_text}"


def read_curves(results: Results) -> list[Curves]:
    """The curves of every quantity that the runs have, of which `results` keep the histories or their store has them.

    Only runs with a value count, for a run that was stopped says nothing about what the method does; where every seed
    diverged, those.
    """
    histories = read_histories(results) if results.histories is None else results.histories
    cells = _drawn(results)
    size = _size(cells)
    names = quantities(results.metric, names_of(results.runs.values()))
    by_metric = {
        name: {
            point: average(found, size, results.cells[point].is_diverged)
            for point, runs in cells.items()
            if (found := [histories[name][run] for run in runs if run in histories[name]])
        }
        for name in names
        if name in histories
    }
    units = {name: _unit_of(name, by_point) for name, by_point in by_metric.items()}
    by_metric = {
        name: {point: curve.scaled(units[name].scale) for point, curve in by_point.items()}
        for name, by_point in by_metric.items()
    }
    calm = _calm(by_metric)
    read = {run for found in histories.values() for run in found}
    most = max((len(read.intersection(runs)) for runs in cells.values()), default=0)
    most_seeds = most if any(len(runs) > most for runs in cells.values()) else None
    return [
        Curves(name, names[name], units[name], _limits(name, units[name], by_point, calm), by_point, most_seeds)
        for name, by_point in by_metric.items()
        if by_point and not _is_of_the_end(name, by_point)
    ]


def read_histories(results: Results, metrics: Iterable[str] | None = None, points: int | None = None) -> Histories:
    """Reads the histories of as many runs as can be read in reasonable time, the same number for each row and b0.

    Args:
        results: From a store; without one there are no histories.
        metrics: Whose histories; None takes those that are drawn.
        points: About how many points of a long history are read; None takes what is drawn.
    """
    cells = _drawn(results)
    names = list(quantities(results.metric, names_of(results.runs.values())) if metrics is None else metrics)
    if results.client is None or not cells or not names:
        return {}
    reader = HistoryReader(results.client, points or _size(cells))
    first = next(iter(cells.values()))[0]
    most = min(reader.affordable_runs(first, name) for name in names) // len(cells) or 1
    run_ids = [run_id for runs in cells.values() for run_id in runs[:most]]
    histories: Histories = {name: {} for name in names}
    with progress("reading histories", "history", len(run_ids) * len(names)) as bar:
        for name in names:
            for run_id, history in reader.read(run_ids, name):
                histories[name][run_id] = history
                bar.update()
    return histories


def quantities(metric: str, names: Iterable[str]) -> dict[str, str]:
    """Which metrics are drawn over steps, by name, with their titles: those of loss, accuracy, b and rate there are."""
    there = set(names)
    sibling = metric.removeprefix("test/")
    siblings = [f"val/{sibling}", f"train/{sibling}", metric] if metric.startswith("test/") else [metric]
    wanted = [(_LOSSES, "training loss"), (siblings, ""), (_with_groups(_B, there), "b")]
    wanted.append((_with_groups(_RATE, there), "effective rate"))
    chosen: dict[str, str] = {}
    for candidates, title in wanted:
        name = next((name for name in candidates if name in there), None)
        if name is not None and name not in chosen:
            chosen[name] = title or name
    return chosen


def average(histories: Sequence[History], size: int, is_diverged: bool) -> Curve:
    """Averages over seeds at no more than `size` steps; a seed that has no value at a step is interpolated there.

    A seed counts between its first and its last step only.
    """
    values = pd.concat(histories, axis=1).sort_index()
    values = values.where(values.abs() < LARGEST).interpolate(method="index", limit_area="inside")
    kept = np.linspace(0, len(values) - 1, min(size, len(values))).round().astype(int)
    values = values.iloc[np.unique(kept)].dropna(how="all")
    steps, mean, low, high = (
        one.to_numpy(dtype=np.float64)
        for one in (values.index, values.mean(axis=1), values.min(axis=1), values.max(axis=1))
    )
    return Curve(steps, mean, low, high, len(histories), is_diverged)


def _with_groups(name: str, there: set[str]) -> Sequence[str]:
    return [name, *sorted(other for other in there if other.startswith(f"{name}/"))]  # of several groups the first


def _drawn(results: Results) -> dict[_Point, list[str]]:
    """The runs of each row and b0 that has any to draw."""
    return {point: found for point in results.cells if (found := _curve_runs(results, point))}


def _size(cells: Mapping[_Point, object]) -> int:
    """Points of a curve."""
    return max(_FEWEST, min(_MOST, _POINTS // max(1, len(cells))))


def _curve_runs(results: Results, point: _Point) -> list[str]:
    runs = [results.runs[(*point, seed)] for seed in results.seeds if (*point, seed) in results.runs]
    sound = [run for run in runs if gap_of(run, results.metric) is None]
    diverged = [run for run in runs if gap_of(run, results.metric) == "diverged"]
    return [run.info.run_id for run in sound or diverged]


def _is_of_the_end(name: str, by_point: Mapping[_Point, Curve]) -> bool:
    """Whether a metric was measured once, at the end: the table says it."""
    return name.startswith("test/") and all(len(curve.steps) <= 1 for curve in by_point.values())


def _unit_of(name: str, by_point: Mapping[_Point, Curve]) -> Unit:
    ends = [end for curve in by_point.values() if curve.steps.size for end in (curve.low.min(), curve.high.max())]
    return unit_of(name, map(float, ends))


def _calm(by_metric: Mapping[str, Mapping[_Point, Curve]]) -> set[_Point]:
    """Points that set the scale of axes: those that did not diverge, or all where every one did."""
    points = {point for by_point in by_metric.values() for point in by_point}
    wild = {point for by_point in by_metric.values() for point, curve in by_point.items() if curve.is_diverged}
    losses = next((by_point for name, by_point in by_metric.items() if name in _LOSSES and by_point), {})
    known = {point: curve for point, curve in losses.items() if curve.steps.size}
    if known:
        start = float(np.median([curve.mean[0] for curve in known.values()]))
        wild |= {point for point, curve in known.items() if start > 0 and np.median(curve.mean) > _WILD * start}
    return points - wild or points


def _limits(name: str, unit: Unit, by_point: Mapping[_Point, Curve], calm: set[_Point]) -> tuple[float, float]:
    """Lowest and highest mean of calm points; of a loss without the highest and lowest few percent of every curve."""
    curves = [curve for point, curve in by_point.items() if point in calm] or list(by_point.values())
    has_spikes = not unit.is_percent and (name in _LOSSES or is_lower_better(name))
    spikes = _SPIKES if has_spikes else 0.0
    ends = [np.percentile(curve.mean, (spikes, 100 - spikes)) for curve in curves if curve.steps.size]
    return (float(np.min(ends)), float(np.max(ends))) if ends else (0.0, 1.0)
