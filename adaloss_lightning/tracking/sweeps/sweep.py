"""`adaloss sweep`: a parent run in MLflow and a child run for every point of a grid."""

import contextlib
import sys
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from typing import Literal, get_args

from mlflow.exceptions import MlflowException
from tqdm import tqdm

from adaloss_lightning.tracking.errors import StoreError, SweepError, one_line
from adaloss_lightning.tracking.grid import LOG_B0, OWN, Grid, Point
from adaloss_lightning.tracking.logger.run_end import Status, sigterm_raises, status_of
from adaloss_lightning.tracking.names import MAX_PARAM, experiment_name
from adaloss_lightning.tracking.retry import impatient
from adaloss_lightning.tracking.store import open_store
from adaloss_lightning.tracking.sweeps.executors.pool import run_here, run_pool
from adaloss_lightning.tracking.sweeps.executors.ray import ray_cluster, require_ray, run_on_ray
from adaloss_lightning.tracking.sweeps.executors.shares import available_gpus
from adaloss_lightning.tracking.sweeps.executors.worker import Outcome, Task
from adaloss_lightning.tracking.sweeps.ledger import Ledger
from adaloss_lightning.tracking.sweeps.project import Project
from adaloss_lightning.tracking.sweeps.resume import Earlier, find_earlier, only_one, sweep_id
from adaloss_lightning.tracking.sweeps.settings import Settings
from adaloss_lightning.tracking.sweeps.standing import Standing
from adaloss_lightning.tracking.tags import colour_of

Executor = Literal["local", "ray"]

_Execute = Callable[[Iterable[Task]], Generator[tuple[Task, Outcome], None, None]]


class Sweep:
    """Every point of a grid over a project: one parent run, and a child run for each point.

    Building it checks everything that can be checked before the first run, and opens the store.

    Args:
        project: What to run.
        grid: The points.
        experiment: MLflow experiment; None takes the project's name.
        jobs: Points at the same time. None: 1 here, as many as there is room for on a Ray cluster.
        extra: LightningCLI arguments for every point.
        uri: Store; None takes what the project's configuration names, else the default store.
        executor: `"local"` runs the points on this machine, `"ray"` on a Ray cluster.
        fresh: Starts a new sweep where the same one could be continued.

    Raises:
        SweepError: Unknown method, bad number of jobs, or arguments that LightningCLI does not accept.
        StoreError: The store cannot be written.
    """

    def __init__(
        self,
        project: Project,
        grid: Grid,
        *,
        experiment: str | None = None,
        jobs: int | None = None,
        extra: Sequence[str] = (),
        uri: str | None = None,
        executor: Executor = "local",
        fresh: bool = False,
    ) -> None:
        if jobs is not None and jobs < 1:
            raise SweepError(f"Invalid --jobs={jobs}. Must be >= 1.")
        if executor not in get_args(Executor):
            raise SweepError(f"Invalid --executor={executor}. Must be {' or '.join(get_args(Executor))}.")
        if executor == "ray":
            require_ray()
        for word in extra:
            option = word.removeprefix("--").partition("=")[0]
            if option in OWN and option != "config":
                raise SweepError(f"Invalid {word} after --. Give {OWN[option]} instead.")
        for name, value in grid.params().items():
            if len(value) > MAX_PARAM:
                raise SweepError(f"{name} has {len(value)} characters, and MLflow keeps {MAX_PARAM}. Sweep in parts.")
        self.project, self.grid, self.jobs, self.extra = project, grid, jobs, list(extra)
        self.executor, self.fresh = executor, fresh
        self.experiment = experiment_name(experiment or project.name)
        self._settings = Settings(project, grid, self.extra)
        with impatient():
            self.client = open_store(uri or self._settings.store())
        self.parent_id = ""
        self.run_ids: set[str] = set()  # of the points: those that were finished before, and those that ran
        self.done_before = 0
        self.standing = Standing()

    def run(self) -> Status:
        """Runs the points that are not finished yet, with a progress bar on the terminal.

        The newest sweep of the same command goes on, if there is one: its finished points stay as they are, runs that
        died with it are marked KILLED, and what was killed, failed or never started is run under the same parent.

        A point that fails or diverges is marked and stops nothing. Ctrl-C and SIGTERM end the points in progress and
        the sweep as KILLED; the points that are done stay.

        Returns:
            FINISHED, also with failed points; FAILED when not one finished; KILLED.

        Raises:
            SweepError: The same sweep is running already, or the Ray cluster cannot be used. Nothing is changed.
            StoreError: The store did not answer for a quarter of an hour, or refuses.
        """
        points, identity = self.grid.points(), sweep_id(self.project, self.grid, self.extra)
        uri = self.client.tracking_uri
        with _refusals_explained(uri), only_one(uri, self.experiment, identity):
            earlier = None if self.fresh else find_earlier(self.client, self.experiment, identity, self.grid)
            if earlier is not None:
                earlier.require_dead(uri)
                self._take_over(earlier)
            todo = [point for point in points if earlier is None or point not in earlier.finished]
            params = {"recipe": self.project.name} | self.grid.params()
            if earlier is not None and not todo:
                if not earlier.is_settled:  # the store was away when it ended
                    ledger = Ledger(self.client, self.experiment, identity, params, self.standing.compared)
                    ledger.resume(earlier)
                    ledger.close("FINISHED")
                return "FINISHED"
            with self._executor(len(todo)) as execute:
                ledger = Ledger(self.client, self.experiment, identity, params, self.standing.compared)
                if earlier is None:
                    ledger.begin(f"sweep {self.project.name}")
                else:
                    print(f"Continuing a sweep: {self.done_before} of {len(points)} points are done.", file=sys.stderr)
                    ledger.resume(earlier)
                self.parent_id = ledger.parent_id
                return self._run(todo, execute, ledger)

    def _run(self, todo: Sequence[Point], execute: _Execute, ledger: Ledger) -> Status:
        running: dict[str, Point] = {}
        status: Status = "FAILED"
        bar = tqdm(
            total=len(todo) + self.done_before,
            initial=self.done_before,
            desc=self.project.name,
            unit="run",
            file=sys.stderr,
            dynamic_ncols=True,
        )
        try:
            with sigterm_raises(), bar, contextlib.closing(execute(self._tasks(todo, ledger, running))) as ends:
                for task, outcome in ends:
                    self._settle(running.pop(task.run_id), outcome, ledger, task.run_id)
                    bar.set_postfix_str(str(self.standing), refresh=False)
                    bar.update()
            status = "FINISHED" if self.standing.finished else "FAILED"
        except (KeyboardInterrupt, SystemExit) as stop:
            status = status_of(stop)
        finally:
            ledger.close(status)
        return status

    @contextlib.contextmanager
    def _executor(self, count: int) -> Iterator[_Execute]:
        """Runs `count` points."""
        devices = self._settings.devices
        if self.executor == "ray":
            with ray_cluster(self.client.tracking_uri):
                yield lambda tasks: run_on_ray(tasks, self.jobs, devices.count)
        elif (self.jobs or 1) == 1 and available_gpus() < 2 and devices.count == 1:
            yield run_here
        else:
            # With several GPUs also one point at a time: a run in this process would take them all.
            yield lambda tasks: run_pool(tasks, min(self.jobs or 1, count), devices)

    def _take_over(self, earlier: Earlier) -> None:
        self.parent_id = earlier.parent.info.run_id
        self.done_before = len(earlier.finished)
        for point, run in earlier.finished.items():
            self.run_ids.add(run.info.run_id)
            self.standing.add_finished(point, run)

    def _tasks(self, points: Sequence[Point], ledger: Ledger, running: dict[str, Point]) -> Iterator[Task]:
        """Starts the run of each point when its turn comes."""
        for point in points:
            lr = self._settings.lr(point)
            params = point.params() | {LOG_B0: point.log_b0} | ({} if lr is None else {"lr": str(lr)})
            colour = colour_of(self.grid.methods.index(point.method))
            run_id = ledger.start_point(str(point), params, colour)
            running[run_id] = point
            self.run_ids.add(run_id)
            yield Task(self.project.module, self.project.command(point, self.extra), self.client.tracking_uri, run_id)

    def _settle(self, point: Point, outcome: Outcome, ledger: Ledger, run_id: str) -> None:
        try:
            run = ledger.settle(run_id, outcome)
        except MlflowException as error:
            reason = one_line(error, self.client.tracking_uri)
            self.standing.add_failed(point, f"the store does not take its outcome: {reason}")
            return
        if outcome.status == "FINISHED":
            self.standing.add_finished(point, run)
        elif outcome.status == "FAILED":  # one that Ctrl-C has ended is to be run again, that is all
            self.standing.add_failed(point, outcome.error)


@contextlib.contextmanager
def _refusals_explained(uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise StoreError(f"The MLflow store refuses: {one_line(error, uri)}") from error
