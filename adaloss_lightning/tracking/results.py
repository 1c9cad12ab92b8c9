"""What the runs of an experiment say: one number a method, b0 and seed, and what is missing."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.runs import MlflowClient, Run, all_runs, find_experiment

KIND_TAG = "adaloss.kind"  # "sweep" on the parent, "point" on its children
PARENT_TAG = "mlflow.parentRunId"
DIVERGED_TAG = "diverged"
ERROR_TAG = "error"
DEFAULT_METRICS = ("test/acc", "val/acc", "test/return", "test/loss", "val/loss")  # the first that there is

Gap = Literal["diverged", "failed", "killed", "running", "no value", "no run"]


@dataclass
class Cell:
    """One method at one b0: a value, or the reason there is none, for each seed."""

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
    def is_diverged(self) -> bool:
        """Whether no seed has a value, and divergence is a reason."""
        return not self.values and "diverged" in self.gaps.values()


@dataclass(frozen=True)
class Results:
    """All cells of a sweep, methods and b0 in its order; `parent_id` is None for runs that no sweep started."""

    experiment: str
    metric: str
    methods: list[str]
    b0s: list[float]
    seeds: list[str]
    cells: dict[tuple[str, float], Cell]
    parent_id: str | None

    def row(self, method: str) -> list[Cell]:
        """Cells of one method, b0 by b0."""
        return [self.cells[method, b0] for b0 in self.b0s]

    def worst_and_best(self, method: str) -> tuple[float | None, float | None]:
        """Worst and best mean over b0. The worst is None where a b0 has only diverged runs: nothing is worse."""
        cells = self.row(method)
        means = sorted((cell.mean for cell in cells if cell.mean is not None), reverse=is_lower_better(self.metric))
        if not means:
            return None, None
        return (None if any(cell.is_diverged for cell in cells) else means[0]), means[-1]

    def gaps(self) -> list[str]:
        """One sentence for each method and b0 that has fewer values than seeds."""
        return [
            f"{method}, b0 = {b0:g}: " + ", ".join(f"seed {seed} {gap}" for seed, gap in cell.gaps.items())
            for (method, b0), cell in self.cells.items()
            if cell.gaps
        ]


def collect(client: MlflowClient, experiment: str, metric: str | None = None) -> Results:
    """Reads the newest sweep of `experiment`, or all its runs where nobody swept.

    Args:
        client: Client of the store.
        experiment: Name of the experiment.
        metric: Metric to compare; None takes the first of `DEFAULT_METRICS` that there is.

    Raises:
        SweepError: No such experiment, no runs with a method and a b0, or no such metric.
    """
    experiment_id = find_experiment(client, experiment)
    newest_first = "attributes.start_time DESC"
    of_kind = f"tags.`{KIND_TAG}` = 'sweep'"
    parents = client.search_runs([experiment_id], of_kind, order_by=[newest_first], max_results=1)
    parent = parents[0] if parents else None
    children = f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'" if parent else ""
    runs = [
        run
        for run in all_runs(client, experiment_id, children, order=newest_first)
        if "method" in run.data.params and _number(run.data.params.get("b0")) is not None
    ]
    if not runs and parent is None:
        raise SweepError(f"Experiment {experiment!r} has no runs with the params method and b0. Start: adaloss sweep.")
    chosen = metric or metric_of(runs) or DEFAULT_METRICS[0]
    if metric is not None and not any(metric in run.data.metrics for run in runs):
        names = ", ".join(sorted({name for run in runs for name in run.data.metrics})) or "none"
        raise SweepError(f"Unknown metric {metric!r} in experiment {experiment!r}. There are: {names}.")
    return _arrange(experiment, chosen, parent, runs)


def _arrange(experiment: str, metric: str, parent: Run | None, runs: Sequence[Run]) -> Results:
    params = parent.data.params if parent else {}
    by_point = {_key(run): run for run in reversed(runs)}  # of runs made twice, the newest counts
    methods = _split(params.get("sweep.methods")) or sorted({method for method, _, _ in by_point})
    b0s = sorted({float(text) for text in _split(params.get("sweep.b0"))} or {b0 for _, b0, _ in by_point})
    seeds = _split(params.get("sweep.seeds")) or sorted({seed for _, _, seed in by_point})
    cells = {(method, b0): Cell() for method in methods for b0 in b0s}
    for (method, b0), cell in cells.items():
        for seed in seeds:
            run = by_point.get((method, b0, seed))
            gap = gap_of(run, metric)
            if run is None or gap is not None:
                cell.gaps[seed] = gap or "no run"
            else:
                cell.values.append(run.data.metrics[metric])
    return Results(experiment, metric, methods, b0s, seeds, cells, parent.info.run_id if parent else None)


def metric_of(runs: Iterable[Run]) -> str | None:
    """The first of `DEFAULT_METRICS` that any of the runs has."""
    there = {name for run in runs for name in run.data.metrics}
    return next((name for name in DEFAULT_METRICS if name in there), None)


def is_lower_better(metric: str) -> bool:
    """Whether small values of the metric are good: losses and errors."""
    return any(word in metric.lower() for word in ("loss", "error", "mse", "mae", "perplexity"))


def is_share(metric: str) -> bool:
    """Whether the metric is a share of 1, to be shown in percent."""
    return metric.lower().rpartition("/")[2] in ("acc", "accuracy", "acc1", "acc5", "f1", "auroc")


def as_text(value: float, metric: str) -> str:
    """A value for people: accuracies in percent, everything else with four digits."""
    return f"{100 * value:.1f} %" if is_share(metric) else f"{value:.4g}"


def gap_of(run: Run | None, metric: str) -> Gap | None:
    """Why a point has no value; None where it has one."""
    if run is None:
        return "no run"
    if DIVERGED_TAG in run.data.tags:
        return "diverged"
    gaps: dict[str, Gap] = {"FAILED": "failed", "KILLED": "killed", "RUNNING": "running", "SCHEDULED": "running"}
    return gaps.get(run.info.status) or (None if metric in run.data.metrics else "no value")


def _key(run: Run) -> tuple[str, float, str]:
    params = run.data.params
    return params["method"], float(params["b0"]), params.get("seed", "none")


def _split(text: str | None) -> list[str]:
    return text.split(",") if text else []


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
