"""`runs.json`: all that a report shows of its runs, from which it is drawn again without their store."""

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Metric, Param, RunData, RunInfo, RunTag

from adaloss_lightning.tracking.errors import StoreError
from adaloss_lightning.tracking.metrics import Direction
from adaloss_lightning.tracking.reports.curves import read_histories
from adaloss_lightning.tracking.reports.histories import Histories
from adaloss_lightning.tracking.reports.results import Cell, Results, gap_of
from adaloss_lightning.tracking.runs import Run
from adaloss_lightning.tracking.tags import COMMIT_TAG, DIVERGED_TAG, TESTED_TAG

FILE = "runs.json"
_DIGITS = 9  # float32 has no more
_TAGS = (TESTED_TAG, COMMIT_TAG)


def keep(results: Results, metrics: Iterable[str] | None = None, points: int | None = None) -> Results:
    """The same results, their histories in memory, with nine digits.

    Args:
        results: From a store.
        metrics: Whose histories are read; None takes those that a report draws.
        points: About how many points of a long history are read; None takes what a report draws.
    """
    read = read_histories(results, metrics, points)
    histories = {name: {run: one.map(_rounded) for run, one in found.items()} for name, found in read.items()}
    return replace(results, histories=histories)


def dumps(results: Results) -> bytes:
    """The file of results that :func:`keep` has made, a run a line.

    A line has the run's row, b0, seed, why it has no value, its status, times in ms, params but those that all runs
    share, last values, and histories as steps and values; null stands for a value that is not finite.
    """
    params = [set(run.data.params.items()) for run in results.runs.values()]
    shared = dict(sorted(set.intersection(*params))) if params else {}
    about = {
        "experiment": results.experiment,
        "metric": results.metric,
        "direction": asdict(results.direction),
        "rows": results.methods,
        "b0s": results.b0s,
        "seeds": results.seeds,
        "sweep": results.parent_id,
        "params": shared,
    }
    lines = [
        _json({"row": row, "b0": b0, "seed": seed} | _described(results, (row, b0, seed), shared))
        for (row, b0), cell in results.cells.items()
        for seed in results.seeds
        if (row, b0, seed) in results.runs or seed in cell.gaps
    ]
    runs = ",\n".join(lines)
    return f'{_json(about)[:-1]},"runs":[\n{runs}\n]}}\n'.encode()


def _described(results: Results, point: tuple[str, float, str], shared: dict[str, str]) -> dict[str, Any]:
    run = results.runs.get(point)
    missing = gap_of(run, results.metric)
    if run is None:
        return {"missing": missing}
    tags = {name: run.data.tags[name] for name in _TAGS if name in run.data.tags}
    histories = {
        name: one for name in sorted(results.histories or {}) if (one := results.history(name, run)) is not None
    }
    return {
        "missing": missing,
        "id": run.info.run_id,
        "status": run.info.status,
        "start": run.info.start_time,
        "end": run.info.end_time,
        "params": {key: value for key, value in sorted(run.data.params.items()) if key not in shared},
        "tags": tags | ({DIVERGED_TAG: "true"} if missing == "diverged" else {}),
        "metrics": {name: _finite(value) for name, value in sorted(run.data.metrics.items())},
        "histories": {name: [one.index.tolist(), list(map(_finite, one))] for name, one in histories.items()},
    }


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"), allow_nan=False)


def _finite(value: float) -> float | None:
    """A value as JSON has it: null for NaN and infinity, of which it knows nothing."""
    return float(value) if math.isfinite(value) else None


def _rounded(value: float) -> float:
    return float(f"{value:.{_DIGITS}g}")


def loads(content: bytes) -> Results:
    """The results that :func:`dumps` wrote.

    Raises:
        ValueError: It is no JSON, or lacks something.
    """
    kept = json.loads(content)
    histories: Histories = {}
    try:
        results = Results(
            experiment=kept["experiment"],
            metric=kept["metric"],
            methods=kept["rows"],
            b0s=kept["b0s"],
            seeds=kept["seeds"],
            cells={(row, b0): Cell() for row in kept["rows"] for b0 in kept["b0s"]},
            parent_id=kept["sweep"],
            histories=histories,
            given_direction=Direction(**kept["direction"]),
        )
        for line in kept["runs"]:
            results.add((line["row"], line["b0"], line["seed"]), _run(line, kept["params"]) if "id" in line else None)
            for name, (steps, values) in line.get("histories", {}).items():
                histories.setdefault(name, {})[line["id"]] = pd.Series(values, index=steps, dtype=float)
    except (KeyError, TypeError) as error:
        raise ValueError(f"unexpected content, {error!r}") from error
    return results


def _run(line: dict[str, Any], shared: dict[str, str]) -> Run:
    info = RunInfo(line["id"], "", "", line["status"], line["start"], line["end"], "active")
    data = RunData(
        [Metric(name, math.nan if value is None else value, 0, 0) for name, value in line["metrics"].items()],
        [Param(name, value) for name, value in (shared | line["params"]).items()],
        [RunTag(name, value) for name, value in line["tags"].items()],
    )
    return Run(info, data)


def read(file: Path) -> Results:
    """The results in a file.

    Raises:
        StoreError: The file cannot be read, or no report has written it.
    """
    try:
        return loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise StoreError(f"Cannot read {file}: {error}. Must be a {FILE} that `adaloss report` has written.") from error
