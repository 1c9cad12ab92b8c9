"""Runs of the leaderboard: a sweep in MLflow for each task and method, and what it found."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from adaloss_lightning.tracking.grid import Grid, Point
from adaloss_lightning.tracking.logger.recovery import catch_up
from adaloss_lightning.tracking.metrics import has_diverged
from adaloss_lightning.tracking.retry import impatient
from adaloss_lightning.tracking.runs import Run
from adaloss_lightning.tracking.sweeps.executors.task import Executor
from adaloss_lightning.tracking.sweeps.project import Project
from adaloss_lightning.tracking.sweeps.sweep import Sweep
from adaloss_lightning.tracking.tags import ERROR_TAG
from recipes.leaderboard.callbacks import BATCHES, SECONDS, STEP_SECONDS
from recipes.leaderboard.methods import Method
from recipes.leaderboard.records import Record
from recipes.leaderboard.tasks import Task


@dataclass(frozen=True)
class OneMethod(Project):
    """A recipe with one method of the leaderboard, whose b0 is what its YAML says, if it has one."""

    def b0_of(self, point: Point, extra: Sequence[str]) -> list[str]:
        """Nothing sets b0."""
        return []

    def settings(self, point: Point, extra: Sequence[str]) -> dict[str, Any]:
        """Configuration of a point. LightningCLI reads it once for the method, a third of a second; values are ours."""
        if not point.options:
            return super().settings(point, extra)
        arguments = {option.rpartition(".")[2]: float(value) for option, value in point.options}
        return {"optimizer": {"init_args": arguments}}


def sweep_of(task: Task, method: Method, executor: Executor, uri: str | None) -> Sweep:
    """The sweep of a method on a task; nothing is run yet."""
    values = method.values()
    grid = Grid(
        (method.name,),
        ("1",),
        tuple(str(seed + 1) for seed in range(task.seeds)),
        ((f"optimizer.{method.parameter}", tuple(f"{value:g}" for value in values)),) if values else (),
    )
    project = Project.find(task.recipe)
    return Sweep(
        OneMethod(project.name, project.module, {method.name: method.config}),
        grid,
        experiment=f"leaderboard {task.name}",
        extra=task.arguments(),
        uri=uri,
        executor=executor,
        metric=f"test/{task.measure}",
        mode="min" if task.is_lower_better else "max",
    )


def records_of(sweep: Sweep, task: Task, method: Method) -> list[Record]:
    """What the runs of a sweep have found, as the store has it.

    A run that an optimizer's assertion has ended counts as one that diverged: DoG has one for gradients that are not
    finite. Other failures, such as a package that is missing, are no results.
    """
    with impatient():
        for sentence in catch_up(sweep.client.tracking_uri, sweep.run_ids):
            print(sentence, file=sys.stderr)
    runs = [sweep.client.get_run(run_id) for run_id in sweep.run_ids]
    records = [_record(run, task, method) for run in runs if run.info.status == "FINISHED" or _is_asserted(run)]
    return sorted(records, key=lambda one: (one.value or 0.0, one.seed))


def _is_asserted(run: Run) -> bool:
    return run.info.status == "FAILED" and run.data.tags.get(ERROR_TAG, "").startswith("AssertionError")


def _record(run: Run, task: Task, method: Method) -> Record:
    metrics, params = run.data.metrics, run.data.params
    test, val = metrics.get(f"test/{task.measure}"), metrics.get(f"val/{task.measure}")
    is_whole = run.info.status == "FINISHED" and test is not None and val is not None
    diverged = not is_whole or has_diverged(run, f"test/{task.measure}")
    value = params.get(f"grid.optimizer.{method.parameter}")
    return Record(
        method=method.name,
        value=None if value is None else float(value),
        seed=int(params["seed"]),
        val=None if diverged else val,
        test=None if diverged else test,
        val_loss=None if diverged else metrics.get("val/loss"),
        batches=int(metrics.get(BATCHES, 0)),
        step_seconds=metrics.get(STEP_SECONDS),
        seconds=metrics.get(SECONDS, 0.0),
    )
