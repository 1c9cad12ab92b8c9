"""Points of a sweep in worker processes of this machine."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from multiprocessing import Pipe
from multiprocessing.connection import wait

from adaloss_lightning.tracking.sweeps.executors.shares import (
    ONE_DEVICE,
    Devices,
    available_cores,
    available_gpus,
    environment_of,
)
from adaloss_lightning.tracking.sweeps.executors.task import GRACE_S, Executor, Outcome, Task

_WORKER = "adaloss_lightning.tracking.sweeps.executors.worker"
_LOOK_S = 0.5  # how soon the death of a worker is seen whose children keep its connection open
_MAX_NOTES = 20_000  # bytes


class Processes(Executor):
    """Runs tasks in `jobs` processes that share this machine's cores and GPUs.

    A process serves one task after another; one that dies fails its task and is replaced. A signal to a process means
    its task alone.

    Args:
        jobs: Processes at the same time.
        devices: What a task trains on. Of several, each task has a process of its own: Lightning leaves its rank in
            the environment, and kills the process when another rank dies.
    """

    def __init__(self, jobs: int, devices: Devices = ONE_DEVICE) -> None:
        self._jobs, self._devices = jobs, devices
        self._machine = available_cores(), available_gpus()
        self._workers: dict[int, _Worker] = {}
        self._busy: dict[int, Task] = {}

    def has_room(self) -> bool:
        """Whether fewer tasks run than may."""
        return len(self._busy) < self._jobs

    def submit(self, task: Task) -> None:
        """Hands the task to an idle process, or to a new one."""
        slot = next(slot for slot in range(self._jobs) if slot not in self._busy)
        worker = self._workers.get(slot)
        if worker is not None and worker.process.poll() is not None:
            worker.end(time.monotonic())  # it died while it had nothing to do
            worker = None
        if worker is None:
            worker = _Worker(environment_of(slot, self._jobs, os.environ, *self._machine, self._devices))
        self._workers[slot], self._busy[slot] = worker, task
        worker.send(task)

    def wait(self) -> list[tuple[str, Outcome]]:
        """Waits until a worker has answered or died."""
        busy = {slot: self._workers[slot] for slot in self._busy}
        ready = wait([worker.connection for worker in busy.values()], _LOOK_S)
        done = [slot for slot, one in busy.items() if one.connection in ready or one.process.poll() is not None]
        return [(self._busy.pop(slot).run_id, self._outcome(slot)) for slot in done]

    def close(self) -> None:
        """Stops what runs as by SIGTERM, and ends all processes."""
        for worker in self._workers.values():
            worker.connection.close()
        deadline = time.monotonic() + GRACE_S
        for worker in self._workers.values():
            worker.end(deadline)

    def _outcome(self, slot: int) -> Outcome:
        worker = self._workers[slot]
        outcome = worker.answer()
        if outcome is None:
            return self._workers.pop(slot).last_words()
        if outcome.status == "KILLED" or self._devices.count > 1:
            if outcome.status == "FAILED":  # the reason may be what another rank has printed
                outcome = replace(outcome, output=outcome.output + worker.notes())
            self._workers.pop(slot).end(time.monotonic() + GRACE_S)  # one that was told to stop leaves by itself
        return outcome


class _Worker:
    """A worker process, seen from the sweep, and the connection to it."""

    def __init__(self, environment: dict[str, str]) -> None:
        # Prints of the training and of C libraries, which must not mix with the progress bar.
        self._notes = tempfile.TemporaryFile("ab+")  # noqa: SIM115  # open as long as the worker
        self.connection, end = Pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", _WORKER, str(end.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=self._notes,
                stderr=self._notes,
                pass_fds=[end.fileno()],
                process_group=0,  # Ctrl-C reaches every process of a terminal's group; the sweep alone decides
                env=os.environ | environment,
            )
        finally:
            end.close()  # so that the death of the worker is the end of the connection

    def send(self, task: Task) -> None:
        self._notes.truncate(0)
        with contextlib.suppress(OSError):  # `wait` finds a dead worker
            self.connection.send(task)

    def answer(self) -> Outcome | None:
        """The outcome, for which `wait` has waited; None of a worker that died."""
        with contextlib.suppress(EOFError, OSError):
            if self.connection.poll():
                outcome: Outcome = self.connection.recv()
                return outcome
        return None

    def last_words(self) -> Outcome:
        """Ends what is left of a worker that died, and says how it did."""
        code = self.process.wait(GRACE_S)
        name = f" ({signal.Signals(-code).name})" if -code in set(signal.Signals) else ""
        output = self.notes()
        self.end(time.monotonic())
        return Outcome("FAILED", f"its process died with exit code {code}{name}", output)

    def notes(self) -> str:
        """The end of what the process and its children have printed past Python's `sys.stdout`."""
        size = self._notes.seek(0, os.SEEK_END)
        self._notes.seek(max(0, size - _MAX_NOTES))
        return self._notes.read().decode("utf-8", "backslashreplace").replace("\0", "\\0")

    def end(self, deadline: float) -> None:
        """Lets the process see the end of its tasks, kills it at the deadline, and what it may have left running."""
        self.connection.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self._notes.close()
