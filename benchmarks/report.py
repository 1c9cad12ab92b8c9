"""Time of `adaloss report` on a large sweep: `python -m benchmarks.report [--seeds N] [--steps N]`.

A store with 4 methods x 25 b0 x `--seeds` child runs, each with 20 params, 6 metrics and histories of `--steps` points,
is written into a temporary folder through MLflow's own tables. The table gives the wall time of each part of a report,
the size of its page and the peak memory of the process.
"""

import argparse
import math
import random
import resource
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlflow.store.tracking.dbmodels.models import SqlLatestMetric, SqlMetric, SqlParam, SqlRun, SqlTag
from sqlalchemy import Connection, create_engine, insert

from adaloss_lightning.tracking import ensure_experiment, open_store
from adaloss_lightning.tracking.reports.report import Report, text_table, write_files
from adaloss_lightning.tracking.reports.results import collect
from adaloss_lightning.tracking.tags import KIND_TAG, PARENT_TAG

METHODS = ("adaloss", "adamloss", "adagrad_norm", "sgd_constant")
B0S = tuple(float(f"{10 ** (-4 + index / 3):.3g}") for index in range(25))
EXPERIMENT = "large"
Row = dict[str, Any]


class Timer:
    """Prints how long each part took."""

    def __init__(self) -> None:
        self.begin = self.last = time.perf_counter()

    def lap(self, part: str) -> None:  # noqa: D102
        now = time.perf_counter()
        print(f"{part:<28}{now - self.last:8.1f} s", flush=True)
        self.last = now


def fill(connection: Connection, experiment_id: int, seeds: int, steps: int) -> int:
    """Writes the sweep, 1000 runs a transaction, and returns how many runs there are."""
    parent = uuid.uuid4().hex
    grid = {
        "recipe": "synthetic",
        "sweep.methods": ",".join(METHODS),
        "sweep.b0": ",".join(map(str, B0S)),
        "sweep.seeds": ",".join(map(str, range(seeds))),
    }
    connection.execute(insert(SqlRun), [_run(parent, experiment_id, "sweep")])
    connection.execute(insert(SqlTag), [{"run_uuid": parent, "key": KIND_TAG, "value": "sweep"}])
    connection.execute(insert(SqlParam), _params(parent, grid))
    points = [(method, b0, seed) for seed in range(seeds) for method in METHODS for b0 in B0S]
    for first in range(0, len(points), 1000):
        rows: dict[type, list[Row]] = {SqlRun: [], SqlTag: [], SqlParam: [], SqlMetric: [], SqlLatestMetric: []}
        for method, b0, seed in points[first : first + 1000]:
            run = uuid.uuid4().hex
            rows[SqlRun].append(_run(run, experiment_id, f"{method} b0={b0} seed={seed}"))
            tags = {KIND_TAG: "point", PARENT_TAG: parent, "mlflow.user": "benchmark", "mlflow.source.type": "LOCAL"}
            rows[SqlTag] += [{"run_uuid": run, "key": key, "value": value} for key, value in tags.items()]
            params = grid | {"method": method, "b0": b0, "seed": seed, "lr": 0.1}
            params |= {f"optimizer.option_{index}": index for index in range(20 - len(params))}
            rows[SqlParam] += _params(run, params)
            history = [
                {"run_uuid": run, "key": key, "value": value, "step": step, "timestamp": 1000 * step, "is_nan": False}
                for key, step, value in _history(method, b0, seed, steps)
            ]
            rows[SqlMetric] += history
            rows[SqlLatestMetric] += {row["key"]: row for row in history}.values()  # of each metric the last
        for table, content in rows.items():
            connection.execute(insert(table), content)
    return len(points)


def _run(run: str, experiment_id: int, name: str) -> Row:
    return {
        "run_uuid": run, "name": name, "experiment_id": experiment_id, "status": "FINISHED",
        "lifecycle_stage": "active", "start_time": 1_700_000_000_000,
        "end_time": 1_700_000_060_000, "source_type": "LOCAL", "source_name": "",
        "entry_point_name": "", "user_id": "benchmark", "source_version": "", "artifact_uri": "",
    }  # fmt: skip


def _params(run: str, params: dict[str, Any]) -> list[Row]:
    return [{"run_uuid": run, "key": key, "value": str(value)} for key, value in params.items()]


def _history(method: str, b0: float, seed: int, steps: int) -> Iterator[tuple[str, int, float]]:
    noise = random.Random(f"{method} {b0} {seed}")
    width = 1.0 + METHODS.index(method)  # how much b0 hurts
    best = 0.98 - 0.02 * width * max(0.0, math.log10(b0) - 2) ** 2 + noise.gauss(0, 0.003)
    b, loss = b0, 2.3
    for step in range(steps):
        loss = 2.3 * math.exp(-5 * step / steps / width) * noise.uniform(0.9, 1.1)
        b = math.sqrt(b * b + loss)
        yield "train/loss", 10 * step, loss
        yield "val/loss", 10 * step, 1.1 * loss
        yield "val/acc", 10 * step, best * (1 - math.exp(-8 * (step + 1) / steps))
        yield "adaloss/b", 10 * step, b
        yield "adaloss/effective_lr", 10 * step, 1 / b
    yield "test/acc", 10 * steps, best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=100, help="seeds a point; 100 make 10,000 runs")
    parser.add_argument("--steps", type=int, default=20, help="points of each history")
    parser.add_argument("--keep", type=Path, help="folder to keep the store and the report in")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = (arguments.keep or Path(temporary)).absolute()
        uri = f"sqlite:///{folder}/mlflow.db"
        client = open_store(uri)
        timer = Timer()
        if client.get_experiment_by_name(EXPERIMENT) is None:
            identifier = int(ensure_experiment(client, EXPERIMENT))
            with create_engine(uri).begin() as connection:
                runs = fill(connection, identifier, arguments.seeds, arguments.steps)
            timer.lap(f"(writing {runs:,} runs)")
        timer = Timer()
        measure(client, folder / "report", timer)


def measure(client: Any, folder: Path, timer: Timer) -> None:
    results = collect(client, EXPERIMENT)
    timer.lap("reading the runs")
    report = Report(results)
    text_table(results)
    files = {"report.tex": report.latex()}
    timer.lap("tables")
    files["report.md"] = report.markdown()  # the first that asks for the curves
    timer.lap("reading the histories")
    pictures = {"report.png": report.figure(), "curves.png": report.curves_figure()}
    timer.lap("figures")
    page = report.page()
    timer.lap("page")
    write_files(folder, files | pictures | {"report.html": page})
    timer.lap("writing")
    print(f"{'total':<28}{timer.last - timer.begin:8.1f} s")
    print(
        f"page {len(page) / 1e6:.1f} MB, peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB"
    )


if __name__ == "__main__":
    main()
