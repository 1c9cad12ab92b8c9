"""Continuation of a sweep: what an earlier one left behind, and the right to go on with it."""

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass

from filelock import FileLock, Timeout

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.grid import Grid, Point
from adaloss_lightning.tracking.names import run_label
from adaloss_lightning.tracking.runs import MlflowClient, Run, all_runs, newest_sweep
from adaloss_lightning.tracking.store import lock_file, mlflow_command
from adaloss_lightning.tracking.tags import PARENT_TAG

SWEEP_TAG = "adaloss.sweep_id"  # on the parent and its children: what was asked for
HOST_TAG = "adaloss.host"  # where the sweep, or the point, runs


@dataclass(frozen=True)
class Earlier:
    """A sweep that was started before by the same command.

    Attributes:
        parent: Its run.
        finished: The newest finished run of each point that has one, diverged ones included.
        unfinished: Identifiers of runs that the store takes for running.
    """

    parent: Run
    finished: dict[Point, Run]
    unfinished: list[str]

    @property
    def is_settled(self) -> bool:
        """Whether the store knows that it has ended, with all of its points."""
        return self.parent.info.status == "FINISHED" and not self.unfinished

    def require_dead(self, tracking_uri: str) -> None:
        """Raises SweepError when it may be running on another machine, where no lock of this one can tell."""
        host = self.parent.data.tags.get(HOST_TAG)
        if self.parent.info.status == "RUNNING" and host not in (None, socket.gethostname()):
            run = self.parent.info
            end = f"python -c \"import mlflow; mlflow.MlflowClient().set_terminated('{run.run_id}', 'KILLED')\""
            raise SweepError(
                f"This sweep is RUNNING on the host {host}: {run_label(run.run_name, run.run_id)}. Start another one "
                "with --fresh. To continue it because that host is gone, end its run first: "
                f"{mlflow_command(end, tracking_uri)}"
            )


def find_earlier(client: MlflowClient, experiment: str, identity: str, grid: Grid) -> Earlier | None:
    """The newest sweep of that identity in the experiment, if there is one."""
    found = client.get_experiment_by_name(experiment)
    if found is None:
        return None
    parent = newest_sweep(client, [found.experiment_id], f"tags.`{SWEEP_TAG}` = '{identity}'")
    if parent is None:
        return None
    runs = all_runs(client, found.experiment_id, f"tags.`{PARENT_TAG}` = '{parent.info.run_id}'")
    points = {tuple(point.params().items()): point for point in grid.points()}
    names = list(grid.points()[0].params())
    finished: dict[Point, Run] = {}
    for run in runs:
        point = points.get(tuple((name, run.data.params.get(name, "")) for name in names))
        if point is not None and run.info.status == "FINISHED":
            finished[point] = run
    return Earlier(parent, finished, [run.info.run_id for run in runs if run.info.status == "RUNNING"])


@contextlib.contextmanager
def only_one(tracking_uri: str, experiment: str, identity: str) -> Iterator[None]:
    """Inside the block this is the only sweep of that identity on this machine.

    The operating system takes the lock back from a process that is killed.

    Raises:
        SweepError: There is one already.
    """
    file = lock_file(tracking_uri, "sweep", experiment, identity)
    lock = FileLock(file, mode=0o600)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise SweepError(
            f"The same sweep of experiment {experiment!r} is running on this machine already (it holds {file}). "
            "Wait for it, or stop it: the same command continues it."
        ) from None
    try:
        yield
    finally:
        file.unlink(missing_ok=True)  # while it is held: no other process waits for it
        lock.release()
