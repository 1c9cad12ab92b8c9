"""`adaloss sweep`: a parent run in MLflow and a child run for every point of a grid."""

import contextlib
import sys
from collections import deque
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Literal, get_args

from mlflow.exceptions import MlflowException
from tqdm import tqdm

from adaloss_lightning.tracking.errors import StoreError, SweepError, one_line
from adaloss_lightning.tracking.grid import LOG_B0, OWN, Grid, Point
from adaloss_lightning.tracking.logger.run_end import Status, sigterm_raises, status_of
from adaloss_lightning.tracking.metrics import Mode
from adaloss_lightning.tracking.names import MAX_PARAM, experiment_name
from adaloss_lightning.tracking.retry import impatient
from adaloss_lightning.tracking.store import open_store
from adaloss_lightning.tracking.sweeps.executors.in_process import InProcess
from adaloss_lightning.tracking.sweeps.executors.processes import Processes
from adaloss_lightning.tracking.sweeps.executors.ray import OnRay, ray_cluster, require_ray
from adaloss_lightning.tracking.sweeps.executors.shares import available_gpus
from adaloss_lightning.tracking.sweeps.executors.task import Executor, Outcome, Task
from adaloss_lightning.tracking.sweeps.identity import sweep_id
from adaloss_lightning.tracking.sweeps.ledger import Ledger
from adaloss_lightning.tracking.sweeps.project import Project
from adaloss_lightning.tracking.sweeps.resume import Earlier, find_earlier, only_one
from adaloss_lightning.tracking.sweeps.settings import Settings
from adaloss_lightning.tracking.sweeps.standing import Standing
from adaloss_lightning.tracking.tags import colour_of

Place = Literal["local", "ray"]


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
        executor: `"local"` runs the points on this machine, `"ray"` on a Ray cluster. An executor that is there
            already is used instead, for one sweep after another; what runs on it is stopped where the sweep is.
        fresh: Starts a new sweep where the same one could be continued.
        metric: What is compared; None takes what the runs have.
        mode: "min" where small values are good, "max" where large ones are; None goes by the runs.

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
        executor: Place | Executor = "local",
        fresh: bool = False,
        metric: str | None = None,
        mode: Mode | None = None,
    ) -> None:
        if jobs is not None and jobs < 1:
            raise SweepError(f"Invalid --jobs={jobs}. Must be >= 1.")
        if isinstance(executor, str) and executor not in get_args(Place):
            raise SweepError(f"Invalid --executor={executor}. Must be {' or '.join(get_args(Place))}.")
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
        self.metric, self.mode = metric, mode
        self.standing = Standing(metric, mode)

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
            open_ledger = partial(Ledger, self.client, self.experiment, identity, params, self.standing.compared)
            if earlier is not None and not todo:
                if not earlier.is_settled:  # the store was away when it ended
                    ledger = open_ledger()
                    ledger.resume(earlier)
                    ledger.close("FINISHED")
                return "FINISHED"
            with self._executor(len(todo)) as executor:
                ledger = open_ledger()
                if earlier is None:
                    ledger.begin(f"sweep {self.project.name}")
                else:
                    print(f"Continuing a sweep: {self.done_before} of {len(points)} points are done.", file=sys.stderr)
                    ledger.resume(earlier)
                self.parent_id = ledger.parent_id
                return self._run(todo, executor, ledger)

    def _run(self, todo: Sequence[Point], executor: Executor, ledger: Ledger) -> Status:
        waiting, running = deque(todo), dict[str, Point]()
        status: Status = "FAILED"
        try:
            with sigterm_raises(), self._bar(len(todo)) as bar, self._closed(executor):
                while waiting or running:
                    while waiting and executor.has_room():
                        point = waiting.popleft()
                        task = self._start(point, ledger)
                        running[task.run_id] = point
                        executor.submit(task)
                    for run_id, outcome in executor.wait():
                        self._settle(running.pop(run_id), outcome, ledger, run_id, executor.is_stopped)
                        bar.set_postfix_str(str(self.standing), refresh=False)
                        bar.update()
                    if executor.is_stopped:
                        raise KeyboardInterrupt
            status = "FINISHED" if self.standing.finished else "FAILED"
        except (KeyboardInterrupt, SystemExit) as stop:
            status = status_of(stop)
        finally:
            ledger.close(status)
        return status

    def _bar(self, count: int) -> "tqdm[None]":
        done, name = self.done_before, self.project.name
        return tqdm(total=done + count, initial=done, desc=name, unit="run", file=sys.stderr, dynamic_ncols=True)

    @contextlib.contextmanager
    def _closed(self, executor: Executor) -> Iterator[None]:
        """Closes an executor of the sweep's own in the end, and one that it was given where the block raises."""
        try:
            yield
        except BaseException:
            executor.close()
            raise
        if isinstance(self.executor, str):
            executor.close()

    @contextlib.contextmanager
    def _executor(self, count: int) -> Iterator[Executor]:
        """What runs `count` points."""
        devices = self._settings.devices
        if not isinstance(self.executor, str):
            yield self.executor
        elif self.executor == "ray":
            with ray_cluster(self.client.tracking_uri):
                yield OnRay(self.jobs, devices.count)
        elif (self.jobs or 1) == 1 and available_gpus() < 2 and devices.count == 1:
            yield InProcess()
        else:
            # With several GPUs also one point at a time: a run in this process would take them all.
            yield Processes(min(self.jobs or 1, count), devices)

    def _take_over(self, earlier: Earlier) -> None:
        self.parent_id = earlier.parent.info.run_id
        self.done_before = len(earlier.finished)
        for point, run in earlier.finished.items():
            self.run_ids.add(run.info.run_id)
            self.standing.add_finished(point, run)

    def _start(self, point: Point, ledger: Ledger) -> Task:
        """Starts the run of a point."""
        lr = self._settings.lr(point)
        params = point.params() | {LOG_B0: point.log_b0} | ({} if lr is None else {"lr": str(lr)})
        colour = colour_of(self.grid.methods.index(point.method))
        run_id = ledger.start_point(str(point), params, colour)
        self.run_ids.add(run_id)
        return Task(self.project.module, self.project.command(point, self.extra), self.client.tracking_uri, run_id)

    def _settle(self, point: Point, outcome: Outcome, ledger: Ledger, run_id: str, is_stopped: bool) -> None:
        try:
            run = ledger.settle(run_id, outcome)
        except MlflowException as error:
            reason = one_line(error, self.client.tracking_uri)
            self.standing.add_failed(point, f"the store does not take its outcome: {reason}")
            return
        if outcome.status == "FINISHED":
            self.standing.add_finished(point, run)
        elif outcome.status == "FAILED":
            self.standing.add_failed(point, outcome.error)
        elif not is_stopped:  # with the sweep itself stopped, the point is to be run again, that is all
            self.standing.add_failed(point, "its process was told to stop")


@contextlib.contextmanager
def _refusals_explained(uri: str) -> Iterator[None]:
    try:
        yield
    except MlflowException as error:
        raise StoreError(f"The MLflow store refuses: {one_line(error, uri)}") from error
