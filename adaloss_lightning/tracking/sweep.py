"""`adaloss sweep`: a parent run in MLflow and a child run for every point of a grid."""

import sys
from collections.abc import Iterator, Sequence

from mlflow.entities import Param, Run, RunTag
from mlflow.tracking.context.registry import resolve_tags
from tqdm import tqdm

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.grid import Grid, Point
from adaloss_lightning.tracking.lifecycle import Status, sigterm_raises, status_of
from adaloss_lightning.tracking.project import Project, logger_arguments, tracking_uri
from adaloss_lightning.tracking.results import (
    DIVERGED_TAG,
    ERROR_TAG,
    KIND_TAG,
    PARENT_TAG,
    as_text,
    is_lower_better,
    metric_of,
)
from adaloss_lightning.tracking.store import ensure_experiment, open_store
from adaloss_lightning.tracking.worker import Outcome, Task, run_here, run_pool

_MAX_TAG = 5000


class Sweep:
    """Every method of a project at every b0 with every seed: one parent run, and a child run for each point.

    Building it checks everything that can be checked before the first run, and opens the store.

    Args:
        project: What to run.
        grid: The points.
        experiment: MLflow experiment; None takes the project's name.
        jobs: Processes to run points in; 1 runs them in this one.
        extra: LightningCLI arguments for every point.
        uri: Store; None takes what the project's configuration names, else the default store.

    Raises:
        SweepError: Unknown method, bad number of jobs, or arguments that LightningCLI does not accept.
        StoreError: The store cannot be written.
    """

    def __init__(
        self,
        project: Project,
        grid: Grid,
        experiment: str | None = None,
        jobs: int = 1,
        extra: Sequence[str] = (),
        uri: str | None = None,
    ) -> None:
        if jobs < 1:
            raise SweepError(f"Invalid --jobs={jobs}. Must be >= 1.")
        project.require(grid.methods)
        self.project, self.grid, self.jobs, self.extra = project, grid, jobs, list(extra)
        self._settings = {
            method: project.settings(Point(method, grid.b0s[0], grid.seeds[0]), self.extra) for method in grid.methods
        }
        stores = {uri or tracking_uri(settings) for settings in self._settings.values()}
        if len(stores) > 1:
            raise SweepError("The methods' YAML files name different stores. A sweep needs one: give --tracking-uri.")
        self.experiment = experiment or project.name
        self.client = open_store(stores.pop())
        self._experiment_id = ensure_experiment(self.client, self.experiment)
        self.parent_id = ""
        self.failed: list[tuple[Point, str]] = []
        self.diverged: list[Point] = []
        self._finished = 0
        self._best: tuple[float, str] | None = None
        self._running: dict[str, Point] = {}

    def run(self) -> Status:
        """Runs all points, with a progress bar on the terminal.

        A point that fails or diverges is marked and stops nothing. Ctrl-C and SIGTERM end the point in progress and
        the sweep as KILLED; the points that are done stay.

        Returns:
            FINISHED, also with failed points; FAILED when not one finished; KILLED.
        """
        points = self.grid.points()
        status: Status = "FAILED"
        self.parent_id = self._create_run(f"sweep {self.project.name}", {KIND_TAG: "sweep"}, self._grid_params())
        bar = tqdm(total=len(points), desc=self.project.name, unit="run", file=sys.stderr, dynamic_ncols=True)
        try:
            with sigterm_raises(), bar:
                tasks = self._start(points)
                ends = run_here(tasks) if self.jobs == 1 else run_pool(tasks, min(self.jobs, len(points)))
                for task, outcome in ends:
                    self._settle(task.run_id, outcome)
                    if outcome.status == "KILLED":
                        status = "KILLED"
                        return status
                    bar.set_postfix_str(self._standing(), refresh=False)
                    bar.update()
            status = "FINISHED" if self._finished else "FAILED"
        except (KeyboardInterrupt, SystemExit) as stop:
            status = status_of(stop)
        finally:
            for run_id in list(self._running):
                self._settle(run_id, Outcome("KILLED", "the sweep was stopped"))
            self.client.set_terminated(self.parent_id, status)
        return status

    def _start(self, points: Sequence[Point]) -> Iterator[Task]:
        """Creates the run of each point when its turn comes."""
        for point in points:
            settings = self._settings[point.method]
            # MLflow's filters drop children that lack the parent's params and tags.
            params = self._grid_params() | {"method": point.method, "b0": str(float(point.b0)), "seed": point.seed}
            lr = ((settings.get("optimizer") or {}).get("init_args") or {}).get("lr")
            if lr is not None:
                params["lr"] = str(lr)
            run_id = self._create_run(str(point), {KIND_TAG: "point", PARENT_TAG: self.parent_id}, params)
            self._running[run_id] = point
            args = self.project.command(point, [*self.extra, *logger_arguments(settings)])
            yield Task(self.project, args, self.client.tracking_uri, run_id)

    def _grid_params(self) -> dict[str, str]:
        grid = {"methods": self.grid.methods, "b0": self.grid.b0s, "seeds": self.grid.seeds}
        return {"recipe": self.project.name} | {f"sweep.{key}": ",".join(values) for key, values in grid.items()}

    def _create_run(self, name: str, tags: dict[str, str], params: dict[str, str]) -> str:
        run = self.client.create_run(self._experiment_id, run_name=name, tags=resolve_tags(tags))
        self.client.log_batch(run.info.run_id, params=[Param(key, value) for key, value in params.items()])
        return str(run.info.run_id)

    def _settle(self, run_id: str, outcome: Outcome) -> None:
        """Makes the stored run say how the point ended, whatever the project's own code left there."""
        point = self._running.pop(run_id)
        run = self.client.get_run(run_id)
        if run.info.status != outcome.status:
            self.client.set_terminated(run_id, outcome.status)
        if outcome.status == "FAILED":
            self.failed.append((point, outcome.error))
            self.client.log_batch(run_id, tags=[RunTag(ERROR_TAG, outcome.error[:_MAX_TAG])])
            if outcome.output:
                self.client.log_text(run_id, outcome.output, "error.txt")
        elif DIVERGED_TAG in run.data.tags:
            self.diverged.append(point)
        if outcome.status == "FINISHED":
            self._finished += 1
            self._compare(point, run)

    def _compare(self, point: Point, run: Run) -> None:
        name = metric_of([run])
        if name is None or point in self.diverged:
            return
        value = run.data.metrics[name]
        if self._best is None or (value < self._best[0] if is_lower_better(name) else value > self._best[0]):
            self._best = (value, f"{as_text(value, name)} ({point.method}, b0={point.b0})")

    def _standing(self) -> str:
        counts = {"diverged": len(self.diverged), "failed": len(self.failed)}
        parts = [f"best {self._best[1]}"] if self._best else []
        return ", ".join(parts + [f"{count} {what}" for what, count in counts.items() if count])
