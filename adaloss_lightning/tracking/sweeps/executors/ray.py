"""Points of a sweep as tasks of a Ray cluster (extra `[ray]`)."""

import contextlib
import functools
import logging
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch.utilities.exceptions import SIGTERMException

from adaloss_lightning.tracking.address import redacted
from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.sweeps.executors.shares import available_cores
from adaloss_lightning.tracking.sweeps.executors.task import GRACE_S, Executor, Outcome, Task, run_task

if TYPE_CHECKING:
    import ray

_OBJECT_STORE_BYTES = 100_000_000  # a task is a line of text, and so is its outcome
_ANSWER_S = 10.0  # for the cluster to accept a connection
_LOOK_S = 5.0  # how soon places that joined the cluster are used


def require_ray() -> None:
    """Raises SweepError where Ray is not installed."""
    try:
        import ray  # noqa: F401
    except ImportError as error:
        raise SweepError("--executor ray needs Ray. Install it: pip install 'ray>=2.40'") from error


@contextlib.contextmanager
def ray_cluster(tracking_uri: str) -> Iterator[None]:
    """Connects to the cluster of RAY_ADDRESS, else to one that runs on this machine, else starts one here.

    Raises:
        SweepError: RAY_ADDRESS leads nowhere, or nodes on other machines cannot reach the store.
    """
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # without it Ray announces a change of defaults
    import ray

    is_ours = not ray.is_initialized()
    if is_ours:
        before = signal.getsignal(signal.SIGTERM)
        _connect()
        signal.signal(signal.SIGTERM, before)  # Ray's own handler exits; the sweep wants to end its runs first
    try:
        nodes = [node for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]
        require_shared_store(tracking_uri, nodes)
        yield
    finally:
        if is_ours:
            ray.shutdown()


def _connect() -> None:
    import ray

    init = functools.partial(ray.init, log_to_driver=False, logging_level=logging.ERROR)
    address = os.environ.get("RAY_ADDRESS")
    last = Path(os.environ.get("RAY_TMPDIR", "/tmp"), "ray", "ray_current_cluster")  # where Ray notes the newest one
    try:
        # Ray itself asks an address where no server listens for minutes, and then ends the process.
        if address or last.is_file():
            _require_answer(address or last.read_text())
        init(address="auto")
    except OSError as error:
        if address:
            raise SweepError(
                f"No Ray cluster answers at RAY_ADDRESS={address}: {error}. Start it, or unset RAY_ADDRESS to run on "
                "this machine alone."
            ) from error
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # the user was not asked
        init(
            address="local",
            num_cpus=available_cores(),
            include_dashboard=False,
            object_store_memory=_OBJECT_STORE_BYTES,
        )


def _require_answer(address: str) -> None:
    host, _, port = address.strip().rpartition("://")[2].rpartition(":")
    if port.isdigit():  # neither "auto" nor "local"
        socket.create_connection((host.strip("[]"), int(port)), _ANSWER_S).close()


def require_shared_store(tracking_uri: str, nodes: Sequence[dict[str, Any]]) -> None:
    """Raises SweepError for a store in files of this machine when nodes of the cluster are on others."""
    others = sorted({node["NodeManagerHostname"] for node in nodes} - {socket.gethostname()})
    if others and tracking_uri.startswith(("sqlite:", "file:", "/", ".")):
        raise SweepError(
            f"Nodes of the Ray cluster are on other machines ({', '.join(others)}), which cannot write to "
            f"{redacted(tracking_uri)}. Start a tracking server (mlflow server --host ...) and give its address with "
            "--tracking-uri or MLFLOW_TRACKING_URI."
        )


class OnRay(Executor):
    """Runs each task on as many CPUs of the cluster, and GPUs where it has any, as it trains on devices.

    A task whose worker or node dies is FAILED.

    Args:
        jobs: Tasks at the same time at most; None for as many as the cluster has places.
        devices: Of each task. With several a task has a process of its own, as with `Processes`.
    """

    def __init__(self, jobs: int | None, devices: int = 1) -> None:
        import ray

        self._jobs, self._devices = jobs, devices
        self._resource = "GPU" if _total("GPU") > 0 else "CPU"
        # Ray would repeat a lost task into the same MLflow run, which then has every metric twice.
        self._remote = ray.remote(
            num_cpus=devices,
            num_gpus=devices if self._resource == "GPU" else 0,
            max_retries=0,
            max_calls=1 if self._resource == "GPU" or devices > 1 else 0,
            scheduling_strategy="SPREAD",  # Ray's own way fills one node first, by a view of the others that may be old
        )(run_on_node)
        self._settings = {name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")}
        self._running: dict[ray.ObjectRef[Outcome], str] = {}

    def has_room(self) -> bool:
        """Whether the cluster has another place; nodes may have joined or left."""
        places = max(1, _total(self._resource) // self._devices)
        return len(self._running) < min(self._jobs or places, places)

    def submit(self, task: Task) -> None:
        """Hands the task to the cluster."""
        self._running[self._remote.remote(task, str(Path.cwd()), self._settings)] = task.run_id

    def wait(self) -> list[tuple[str, Outcome]]:
        """Waits until a task has ended, but no longer than until it is time to look for new places."""
        import ray

        try:
            ready, _ = ray.wait(list(self._running), timeout=_LOOK_S)
        except SystemExit as stop:  # Ray forgets what the handler of SIGTERM raised, and exits with code 1
            raise SIGTERMException(128 + signal.SIGTERM) from stop
        return [(self._running.pop(reference), _outcome(reference)) for reference in ready]

    def close(self) -> None:
        """Interrupts what runs."""
        import ray

        for reference in self._running:
            ray.cancel(reference)
        if self._running:
            ray.wait(list(self._running), num_returns=len(self._running), timeout=GRACE_S)


def _total(resource: str) -> int:
    import ray

    return int(ray.cluster_resources().get(resource, 0))  # type: ignore[no-untyped-call]


def _outcome(reference: "ray.ObjectRef[Outcome]") -> Outcome:
    import ray

    try:
        return ray.get(reference)
    except ray.exceptions.RayError as error:
        reason = str(error).strip().partition("\n")[0]
        return Outcome("FAILED", f"Ray lost it: {type(error).__name__}: {reason}", str(error))


def run_on_node(task: Task, folder: str, environment: dict[str, str]) -> Outcome:
    """What a worker of the cluster does: runs the task, in the sweep's folder where the node has it.

    Args:
        task: What to run.
        folder: The sweep's working folder.
        environment: Variables with which MLflow finds and enters the store.
    """
    import ray

    os.environ.update(environment)
    if Path(folder).is_dir():
        os.chdir(folder)
    node = ray.get_runtime_context().get_node_id()
    return replace(run_task(task), node=node)
