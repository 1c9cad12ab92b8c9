"""A sweep as the store has it: its grid, and for each point of it the run that counts."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.grid import LIST_PREFIX, OPTION_PREFIX, Grid, Options
from adaloss_lightning.tracking.names import run_label
from adaloss_lightning.tracking.runs import MlflowClient, Run, all_runs, find_experiment, newest_sweep
from adaloss_lightning.tracking.tags import PARENT_TAG

_NEWEST_FIRST = "attributes.start_time DESC"

PointKey = tuple[str, float, str]  # row, b0, seed


@dataclass(frozen=True)
class StoredSweep:
    """A sweep of an experiment, or all its runs where there is no sweep.

    Attributes:
        experiment: Its name.
        parent: The sweep's own run, or None.
        rows: Labels: the method, and the options where the grid has any, in the sweep's order.
        b0s: Ascending.
        seeds: In the sweep's order.
        points: The run that counts for each point that has one.
    """

    experiment: str
    parent: Run | None
    rows: list[str]
    b0s: list[float]
    seeds: list[str]
    points: dict[PointKey, Run]


def read_sweep(client: MlflowClient, experiment: str, parent_id: str | None = None, prefix: str = "") -> StoredSweep:
    """Reads a sweep of `experiment`, or all its runs where there is no sweep.

    Of a point that was run more than once the newest run counts, but one that finished before any that did not.

    Args:
        client: Client of the store.
        experiment: Name of the experiment.
        parent_id: Identifier of the sweep's own run; None takes the newest sweep.
        prefix: Of the labels of rows.

    Raises:
        SweepError: No such experiment or sweep, no runs with a method and a b0, or a sweep that says nothing.
    """
    experiment_id = find_experiment(client, experiment)
    parent = newest_sweep(client, [experiment_id], f"attributes.run_id = '{parent_id}'" if parent_id else "")
    if parent is None and parent_id is not None:
        raise SweepError(f"Unknown sweep {parent_id!r} in experiment {experiment!r}. Must be the run of a sweep.")
    children = f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'" if parent else ""
    runs = [run for run in all_runs(client, experiment_id, children, order=_NEWEST_FIRST) if _is_point(run)]
    if not runs and parent is None:
        raise SweepError(f"Experiment {experiment!r} has no runs with the params method and b0. Start: adaloss sweep.")
    grid = _grid(parent)
    if parent is not None and grid is None and not runs:
        raise SweepError(
            f"{run_label(parent.info.run_name, parent.info.run_id)} is a sweep that was killed before it began: it "
            "neither says what it was to run nor has any runs. The same adaloss sweep command continues it."
        )
    points: dict[PointKey, Run] = {}
    for run in reversed(runs):
        key = (prefix + _label(run.data.params["method"], _options(run)), float(run.data.params["b0"]), _seed(run))
        if key not in points or _weight(run) >= _weight(points[key]):
            points[key] = run
    methods = grid.methods if grid else sorted({run.data.params["method"] for run in runs})
    return StoredSweep(
        experiment,
        parent,
        rows=[prefix + _label(method, options) for method in methods for options in _combinations(grid, runs)],
        b0s=sorted(map(float, grid.b0s) if grid else {b0 for _, b0, _ in points}),
        seeds=list(grid.seeds) if grid else sorted({seed for _, _, seed in points}, key=_natural),
        points=points,
    )


def _is_point(run: Run) -> bool:
    b0 = _number(run.data.params.get("b0"))
    return "method" in run.data.params and b0 is not None and math.isfinite(b0) and b0 > 0


def _weight(run: Run) -> tuple[bool, int]:
    return run.info.status == "FINISHED", run.info.start_time


def _grid(parent: Run | None) -> Grid | None:
    """The grid that a sweep was started with: a point of it that never ran shows as a gap."""
    params = parent.data.params if parent else {}
    methods, b0s, seeds = (params.get(f"{LIST_PREFIX}{name}") for name in ("methods", "b0", "seeds"))
    if not (methods and b0s and seeds):
        return None
    prefix = LIST_PREFIX + OPTION_PREFIX
    options = [f"{name.removeprefix(prefix)}={params[name]}" for name in sorted(params) if name.startswith(prefix)]
    return Grid.parse(methods, b0s, seeds, options)


def _combinations(grid: Grid | None, runs: Iterable[Run]) -> list[Options]:
    if grid is None:
        return sorted({_options(run) for run in runs}, key=_order)
    return [tuple((f"{OPTION_PREFIX}{option}", value) for option, value in one) for one in grid.combinations()]


def _options(run: Run) -> Options:
    params = run.data.params
    return tuple((key, params[key]) for key in sorted(params) if key.startswith(OPTION_PREFIX))


def _order(options: Options) -> list[tuple[str, float, str]]:
    numbers = ((name, _number(text), text) for name, text in options)
    return [(name, math.inf if number is None else number, text) for name, number, text in numbers]


def _label(method: str, options: Options) -> str:
    paths = [name.removeprefix(OPTION_PREFIX) for name, _ in options]
    last = [path.rpartition(".")[2] for path in paths]
    names = last if len(set(last)) == len(last) else paths
    return ", ".join([method, *(f"{name}={text}" for name, (_, text) in zip(names, options, strict=True))])


def _seed(run: Run) -> str:
    return str(run.data.params.get("seed", "none"))


def _natural(seed: str) -> tuple[int, str]:
    return len(seed), seed  # 2 before 10


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text is not None else None
    except ValueError:
        return None
