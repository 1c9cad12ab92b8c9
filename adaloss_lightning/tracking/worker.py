"""One run of a sweep: in this process, or in a pool of spawned ones."""

import contextlib
import io
import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess

from adaloss_lightning.tracking.lifecycle import Status, sigterm_raises, status_of
from adaloss_lightning.tracking.logger import joined_run
from adaloss_lightning.tracking.project import Project
from adaloss_lightning.tracking.quiet import quiet

_GRACE_S = 20.0  # for a run that was told to stop, to deliver what it has


@dataclass(frozen=True)
class Task:
    """A command line of a project, and the MLflow run it writes to."""

    project: Project
    args: list[str]
    tracking_uri: str
    run_id: str


@dataclass(frozen=True)
class Outcome:
    """How a task ended; `output` is what it printed, and the traceback of an error."""

    status: Status
    error: str = ""
    output: str = ""


def run_task(task: Task) -> Outcome:
    """Runs `task` in this process without output on the terminal. Nothing it raises gets through."""
    output = io.StringIO()
    error: BaseException | None = None
    with _ctrl_c_restored(), quiet(output), sigterm_raises(), joined_run(task.tracking_uri, task.run_id):
        try:
            task.project.main(task.args)
        except BaseException as raised:  # SystemExit and KeyboardInterrupt too: they end a run like anything else
            error = raised
            traceback.print_exc(file=output)
    status = status_of(error)
    if error is None or status == "FINISHED":
        return Outcome("FINISHED")
    if isinstance(error, SystemExit) and status == "FAILED":
        # What argument parsers do: the reason is what they printed.
        lines = output.getvalue().partition("Traceback (most recent")[0].strip().splitlines()
        return Outcome(status, lines[-1] if lines else f"exit code {error.code}", output.getvalue())
    return Outcome(status, f"{type(error).__name__}: {error}", output.getvalue())


def run_here(tasks: Iterable[Task]) -> Iterator[tuple[Task, Outcome]]:
    """Runs the tasks one after another. After Ctrl-C or SIGTERM the KILLED outcome is the last."""
    for task in tasks:
        outcome = run_task(task)
        yield task, outcome
        if outcome.status == "KILLED":
            return


def run_pool(tasks: Iterable[Task], jobs: int) -> Iterator[tuple[Task, Outcome]]:
    """Runs the tasks in `jobs` spawned processes that share this machine's cores, and yields them as they end.

    A process that dies fails its task and is replaced. When the caller stops iterating, Ctrl-C included, what runs
    is ended with SIGTERM.
    """
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    waiting = iter(tasks)
    busy: dict[Connection, tuple[SpawnProcess, Task]] = {}
    idle: list[tuple[Connection, SpawnProcess]] = []
    try:
        while True:
            while len(busy) < jobs and (task := next(waiting, None)) is not None:
                connection, process = idle.pop() if idle else _start_worker(threads)
                busy[connection] = (process, task)
                connection.send(task)
            if not busy:
                return
            for ready in wait(list(busy)):
                assert isinstance(ready, Connection)
                process, task = busy.pop(ready)
                try:
                    outcome: Outcome = ready.recv()
                    idle.append((ready, process))
                except EOFError:
                    process.join()
                    outcome = Outcome("FAILED", f"its process died with exit code {process.exitcode}")
                yield task, outcome
    finally:
        running = [process for process, _ in busy.values()]
        for process in running:
            process.terminate()
        for connection, _ in idle:
            connection.close()  # the worker sees the end of its tasks
        for process in [*running, *(process for _, process in idle)]:
            process.join(_GRACE_S)
            process.kill()


def _start_worker(threads: int) -> tuple[Connection, SpawnProcess]:
    context = multiprocessing.get_context("spawn")  # a fork would copy torch's and SQLite's threads half
    here, there = context.Pipe()
    process = context.Process(target=_work, args=(there, threads))
    process.start()
    there.close()  # so that the death of the worker is the end of the pipe
    return here, process


def _work(connection: Connection, threads: int) -> None:
    import torch

    # Ctrl-C reaches every process of a terminal; the sweep alone decides and sends SIGTERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(threads)
    with contextlib.suppress(EOFError, BrokenPipeError):
        while True:
            outcome = run_task(connection.recv())
            connection.send(outcome)
            if outcome.status == "KILLED":
                return


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
