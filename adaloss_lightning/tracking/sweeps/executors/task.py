"""Tasks of a sweep, their outcomes, and the protocol of what runs them."""

import contextlib
import io
import json
import signal
import socket
import threading
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

from adaloss_lightning.tracking.logger.resume import joined_run
from adaloss_lightning.tracking.logger.run_end import Status, sigterm_raises, status_of
from adaloss_lightning.tracking.names import plain_text
from adaloss_lightning.tracking.sweeps.guest import launchable
from adaloss_lightning.tracking.sweeps.module import fit
from adaloss_lightning.tracking.temporarily import quiet

GRACE_S = 20.0  # for a run that was told to stop, to deliver what it has
_MAX_OUTPUT = 100_000  # characters; the end of an output has the error


@dataclass(frozen=True)
class Task:
    """A command line of a project's module, and the MLflow run it writes to."""

    module: str
    args: list[str]
    tracking_uri: str
    run_id: str


@dataclass(frozen=True)
class Outcome:
    """How a task ended, and where; `output` is what it printed, and the traceback of an error.

    `host` is the machine's name, `node` the identifier of a Ray node.
    """

    status: Status
    error: str = ""
    output: str = ""
    host: str = ""
    node: str = ""


class Executor(Protocol):
    """A place where tasks run.

    Attributes:
        is_stopped: Whether Ctrl-C or SIGTERM reached a task and meant the whole sweep.
    """

    is_stopped: bool = False

    def has_room(self) -> bool:
        """Whether another task can start now."""

    def submit(self, task: Task) -> None:
        """Starts a task; there must be room."""

    def wait(self) -> Sequence[tuple[str, Outcome]]:
        """Waits until some of the tasks have ended; their run identifiers and outcomes. May be empty."""

    def close(self) -> None:
        """Stops what still runs as by SIGTERM."""


def run_task(task: Task) -> Outcome:
    """Runs `task` in this process without output on the terminal. Nothing it raises gets through."""
    output = io.StringIO()
    error: BaseException | None = None
    with (
        _ctrl_c_restored(),
        quiet(output),
        sigterm_raises(),
        launchable(json.dumps(asdict(task))),
        joined_run(task.tracking_uri, task.run_id),
    ):
        try:
            fit(task.module, task.args)
        except BaseException as raised:  # SystemExit and KeyboardInterrupt too: they end a run like anything else
            error = raised
            traceback.print_exc(file=output)
    status, host = status_of(error), socket.gethostname()
    if error is None or status == "FINISHED":
        return Outcome("FINISHED", host=host)
    printed = plain_text(output.getvalue())
    reason = f"{type(error).__name__}: {error}"
    if isinstance(error, SystemExit) and status == "FAILED":
        # What argument parsers do: the reason is what they printed.
        lines = printed.partition("Traceback (most recent")[0].strip().splitlines()
        reason = lines[-1] if lines else f"exit code {error.code}"
    return Outcome(status, plain_text(reason), printed[-_MAX_OUTPUT:], host)


@contextlib.contextmanager
def _ctrl_c_restored() -> Iterator[None]:
    # Lightning answers Ctrl-C by ignoring every later one, which would outlive the run.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
