"""Curves over steps: loss, accuracy, b and the effective rate of each row and b0, averaged over seeds."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from adaloss_lightning.tracking.terminal import progress
from adaloss_lightning.tracking.reports.histories import History, HistoryReader
from adaloss_lightning.tracking.metrics import is_lower_better, is_share, names_of
from adaloss_lightning.tracking.reports.results import Results, gap_of
from adaloss_lightning.tracking.reports.style import Floats, log_helps

_LOSSES = ("train/loss", "adaloss/loss", "train_loss", "loss")
_B, _RATE = "adaloss/b", "adaloss/effective_lr"
_POINTS = 20_000  # of one quantity in a page, all curves together: what a browser draws without delay
_FEWEST, _MOST = 40, 300  # points of a curve
_WILD = 10.0  # times the loss at which the median curve starts: a point whose loss stays above that sets no scale
_SPIKES = 6.0  # percent of a curve that may leave the axis: one loss of 1e15 would flatten all the others


@dataclass(frozen=True)
class Curve:
    """Mean, lowest and highest value over seeds at each step; each step is averaged over the seeds that reached it."""

    steps: Floats
    mean: Floats
    low: Floats
    high: Floats
    seeds: int
    is_diverged: bool


@dataclass(frozen=True)
class Curves:
    """The curves of one metric by row and b0. A point whose seeds all diverged shows how far they came.

    Attributes:
        metric: Name of the metric.
        title: What it is, for people; accuracies are in percent.
        is_log: Whether the axis should be logarithmic.
        limits: Range of the axis that all rows share; short spikes of single curves leave it, and so do points that
            diverged or whose loss rose far above where the others start.
        by_point: By row and b0.
        most_seeds: How many seeds of a point are in where there are too many to read; None where all are.
    """

    metric: str
    title: str
    is_log: bool
    limits: tuple[float, float]
    by_point: dict[tuple[str, float], Curve]
    most_seeds: int | None


def read_curves(results: Results) -> list[Curves]:
    """Reads the curves of every quantity that the runs have, from the store that `results` came from.

    Only runs with a value count, for a run that was stopped says nothing about what the method does; where every seed
    diverged, those.
    """
    if results.client is None:
        return []
    names = quantities(results.metric, names_of(results.runs.values()))
    cells = [_curve_runs(results, point) for point in results.cells]
    size = max(_FEWEST, min(_MOST, _POINTS // max(1, sum(map(bool, cells)))))
    reader = HistoryReader(results.client, size)
    first = next((runs[0] for runs in cells if runs), None)
    if first is None or not names:
        return []
    most = min(reader.affordable_runs(first, name) for name in names) // max(1, sum(map(bool, cells))) or 1
    points = {point: runs[:most] for point, runs in zip(results.cells, cells, strict=True) if runs}
    run_ids = [run_id for runs in points.values() for run_id in runs]
    most_seeds = most if any(len(runs) > most for runs in cells) else None
    by_metric: dict[str, dict[tuple[str, float], Curve]] = {}
    with progress("reading histories", "history", len(run_ids) * len(names)) as bar:
        for name in names:
            histories: dict[str, History] = {}
            for run_id, history in reader.read(run_ids, name):
                histories[run_id] = history
                bar.update()
            by_metric[name] = _averages(name, points, histories, results, size)
    calm = _calm(by_metric)
    return [_curves(name, names[name], by_point, calm, most_seeds) for name, by_point in by_metric.items() if by_point]


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


def _with_groups(name: str, there: set[str]) -> Sequence[str]:
    return [name, *sorted(other for other in there if other.startswith(f"{name}/"))]  # of several groups the first


def _curve_runs(results: Results, point: tuple[str, float]) -> list[str]:
    runs = [results.runs[(*point, seed)] for seed in results.seeds if (*point, seed) in results.runs]
    sound = [run for run in runs if gap_of(run, results.metric) is None]
    diverged = [run for run in runs if gap_of(run, results.metric) == "diverged"]
    return [run.info.run_id for run in sound or diverged]


def _averages(
    name: str,
    points: dict[tuple[str, float], list[str]],
    histories: dict[str, History],
    results: Results,
    size: int,
) -> dict[tuple[str, float], Curve]:
    by_point = {}
    for point, run_ids in points.items():
        found = [histories[run_id] for run_id in run_ids if run_id in histories]
        if found:
            by_point[point] = average(found, size, results.cells[point].is_diverged, 100.0 if is_share(name) else 1.0)
    if by_point and max(len(curve.steps) for curve in by_point.values()) == 1 and name.startswith("test/"):
        return {}  # measured once, at the end: the table says it
    return by_point


def _calm(by_metric: dict[str, dict[tuple[str, float], Curve]]) -> set[tuple[str, float]]:
    """Points that set the scale of axes: those that did not diverge, or all where every one did."""
    points = {point for by_point in by_metric.values() for point in by_point}
    diverged = {point for by_point in by_metric.values() for point, curve in by_point.items() if curve.is_diverged}
    losses = next((by_point for name, by_point in by_metric.items() if name in _LOSSES and by_point), {})
    losses = {point: curve for point, curve in losses.items() if curve.steps.size}
    if losses:
        start = float(np.median([curve.mean[0] for curve in losses.values()]))
        diverged |= {point for point, curve in losses.items() if start > 0 and np.median(curve.mean) > _WILD * start}
    return points - diverged or points


def _curves(
    name: str,
    title: str,
    by_point: dict[tuple[str, float], Curve],
    calm: set[tuple[str, float]],
    most_seeds: int | None,
) -> Curves:
    of_scale = [curve for point, curve in by_point.items() if point in calm] or list(by_point.values())
    if is_share(name):
        return Curves(name, f"{title} in %", False, _limits(of_scale, 0), by_point, most_seeds)
    limits = _limits(of_scale, _SPIKES if name in _LOSSES or is_lower_better(name) else 0)
    return Curves(name, title, log_helps(limits), limits, by_point, most_seeds)


def _limits(curves: Iterable[Curve], spikes: float) -> tuple[float, float]:
    """Lowest and highest mean, without the highest and lowest `spikes` percent of every curve."""
    ends = [np.percentile(curve.mean, (spikes, 100 - spikes)) for curve in curves if curve.steps.size]
    return (float(np.min(ends)), float(np.max(ends))) if ends else (0.0, 1.0)


def average(histories: Sequence[History], size: int, is_diverged: bool, scale: float = 1.0) -> Curve:
    """Averages over seeds at no more than `size` steps; a seed that has no value at a step is interpolated there.

    A seed counts between its first and its last step only.
    """
    steps = np.unique(np.concatenate([history.steps for history in histories])).astype(np.float64)
    if len(steps) > size:
        steps = steps[np.unique(np.linspace(0, len(steps) - 1, size).round().astype(int))]
    values = scale * np.array([_at(history, steps) for history in histories])
    known = ~np.isnan(values).all(axis=0)
    steps, values = steps[known], values[:, known]
    if not steps.size:  # nothing but NaN
        return Curve(steps, steps, steps, steps, len(histories), is_diverged)
    fold = (np.nanmean, np.nanmin, np.nanmax)
    mean, low, high = (np.asarray(one(values, axis=0), dtype=np.float64) for one in fold)
    return Curve(steps, mean, low, high, len(histories), is_diverged)


def _at(history: History, steps: Floats) -> Floats:
    sound = np.isfinite(history.values) & (np.abs(history.values) < 1.7e308)
    if not sound.any():
        return np.full(len(steps), np.nan)
    inner = np.interp(steps, history.steps[sound], history.values[sound], left=np.nan, right=np.nan)
    return np.asarray(inner, dtype=np.float64)
