"""Where the points of a sweep run: in this process, or in worker processes of this machine."""

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator, Iterable
from dataclasses import replace

from adaloss_lightning.tracking.sweeps.executors.shares import (
    ONE_DEVICE,
    Devices,
    available_cores,
    available_gpus,
    environment_of,
)
from adaloss_lightning.tracking.sweeps.executors.worker import GRACE_S, Outcome, Task, run_task

_LOOK_S = 0.5  # how soon the death of a worker is seen whose children keep its pipe open
_MAX_NOTES = 20_000  # bytes


def run_here(tasks: Iterable[Task]) -> Generator[tuple[Task, Outcome], None, None]:
    """Runs the tasks one after another in this process.

    Raises:
        KeyboardInterrupt: After the outcome of a run that Ctrl-C or SIGTERM ended: they meant this process.
    """
    for task in tasks:
        outcome = run_task(task)
        yield task, outcome
        if outcome.status == "KILLED":
            raise KeyboardInterrupt


def run_pool(
    tasks: Iterable[Task], jobs: int, devices: Devices = ONE_DEVICE
) -> Generator[tuple[Task, Outcome], None, None]:
    """Runs the tasks in `jobs` processes that share this machine's cores and GPUs, and yields them as they end.

    A process that dies fails its task and is replaced. When the caller stops iterating, Ctrl-C included, what runs
    is stopped as by SIGTERM.

    Args:
        tasks: Asked for the next one when a process is free.
        jobs: Processes at the same time.
        devices: What a task trains on. Of several, each task has a process of its own: Lightning leaves its rank in
            the environment, and kills the process when another rank dies.
    """
    cores, gpus = available_cores(), available_gpus()
    waiting = iter(tasks)
    workers: dict[int, _Worker] = {}
    idle = list(reversed(range(jobs)))
    busy: dict[int, Task] = {}
    try:
        while True:
            while idle and (task := next(waiting, None)) is not None:
                slot = idle.pop()
                if slot in workers and workers[slot].process.poll() is not None:
                    workers.pop(slot).end(time.monotonic())  # it died while it had nothing to do
                if slot not in workers:
                    workers[slot] = _Worker(environment_of(slot, jobs, os.environ, cores, gpus, devices))
                busy[slot] = task
                workers[slot].send(task)
            if not busy:
                return
            for slot in _done({slot: workers[slot] for slot in busy}):
                worker = workers[slot]
                outcome = worker.outcome()
                if outcome is None:
                    outcome = workers.pop(slot).last_words()
                elif outcome.status == "KILLED" or devices.count > 1:
                    if outcome.status == "FAILED":  # the reason may be what another rank has printed
                        outcome = replace(outcome, output=outcome.output + worker.notes())
                    workers.pop(slot).end(time.monotonic() + GRACE_S)  # one that was told to stop leaves by itself
                idle.append(slot)
                yield busy.pop(slot), outcome
    finally:
        for worker in workers.values():
            worker.dismiss()
        deadline = time.monotonic() + GRACE_S
        for worker in workers.values():
            worker.end(deadline)


class _Worker:
    """A worker process, seen from the sweep."""

    def __init__(self, environment: dict[str, str]) -> None:
        # Prints of the training and of C libraries, which must not mix with the answers or with the progress bar.
        self._notes = tempfile.TemporaryFile("ab+")  # noqa: SIM115  # open as long as the worker
        answers, end = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "adaloss_lightning.tracking.sweeps.executors.worker", str(end)],
                stdin=subprocess.PIPE,
                stdout=self._notes,
                stderr=self._notes,
                pass_fds=[end],
                process_group=0,  # Ctrl-C reaches every process of a terminal's group; the sweep alone decides
                env=os.environ | environment,
            )
        except BaseException:
            os.close(answers)
            raise
        finally:
            os.close(end)  # so that the death of the worker is the end of the pipe
        self.answers = os.fdopen(answers, encoding="utf-8")

    def send(self, task: Task) -> None:
        self._notes.truncate(0)
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # `_done` finds a dead worker
            self.process.stdin.write(task.to_json().encode() + b"\n")
            self.process.stdin.flush()

    def outcome(self) -> Outcome | None:
        """The answer, for which `_done` has waited; None of a worker that died."""
        with selectors.DefaultSelector() as selector:
            selector.register(self.answers, selectors.EVENT_READ)
            line = self.answers.readline() if selector.select(0) else ""
        return Outcome.from_json(line) if line.endswith("\n") else None

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

    def dismiss(self) -> None:
        """Lets the process see the end of its tasks: it stops what it runs, and leaves."""
        assert self.process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()

    def end(self, deadline: float) -> None:
        """Waits for the process, kills it at the deadline, and kills what it may have left running."""
        self.dismiss()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.answers.close()
        self._notes.close()


def _done(workers: dict[int, _Worker]) -> list[int]:
    """Waits until at least one of the workers has answered or died."""
    with selectors.DefaultSelector() as selector:
        for slot, worker in workers.items():
            selector.register(worker.answers, selectors.EVENT_READ, slot)
        while True:
            slots = {key.data for key, _ in selector.select(_LOOK_S)}
            slots |= {slot for slot, worker in workers.items() if worker.process.poll() is not None}
            if slots:
                return sorted(slots)
