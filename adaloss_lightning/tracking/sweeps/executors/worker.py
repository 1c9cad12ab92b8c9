"""One run of a sweep, and the process that runs one after another: `python -m ...sweeping.worker FD`."""

import contextlib
import io
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import FileIO
from typing import TextIO

from adaloss_lightning.tracking.logger.resume import joined_run
from adaloss_lightning.tracking.logger.run_end import Status, sigterm_raises, status_of
from adaloss_lightning.tracking.names import plain_text
from adaloss_lightning.tracking.sweeps.guest import launchable
from adaloss_lightning.tracking.sweeps.project import call_main
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

    def to_json(self) -> str:
        """One line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Task":
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))


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

    def to_json(self) -> str:
        """One line of text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> "Outcome":
        """Reads what `to_json` wrote."""
        return cls(**json.loads(text))


def run_task(task: Task) -> Outcome:
    """Runs `task` in this process without output on the terminal. Nothing it raises gets through."""
    output = io.StringIO()
    error: BaseException | None = None
    with (
        _ctrl_c_restored(),
        quiet(output),
        sigterm_raises(),
        launchable(task.to_json()),
        joined_run(task.tracking_uri, task.run_id),
    ):
        try:
            call_main(task.module, task.args)
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


def serve(tasks: FileIO, answers: TextIO) -> None:
    """Runs the tasks that come, one JSON line each, and answers each with its outcome; returns after the last.

    The end of `tasks` in the middle of a run means that the sweep is gone, whatever killed it: the run is stopped as
    by SIGTERM.
    """
    lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(tasks, lines, busy), daemon=True).start()
    with contextlib.suppress(BrokenPipeError):
        while line := lines.get():
            outcome = run_task(Task.from_json(line.decode()))
            busy.clear()
            answers.write(outcome.to_json() + "\n")
            answers.flush()
            if outcome.status == "KILLED":
                return


def _listen(tasks: FileIO, lines: "queue.SimpleQueue[bytes]", busy: threading.Event) -> None:
    for line in tasks:
        busy.set()
        lines.put(line)
    lines.put(b"")
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(1)  # it did not listen


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


def main() -> None:
    """Serves the sweep at the other ends of stdin and of the file descriptor that the command line names."""
    answers = int(sys.argv[1])
    os.set_inheritable(answers, False)
    # Unbuffered, and never closed: the lock of a buffer that a thread is reading from would hold up the exit.
    tasks = FileIO(os.dup(0))
    # A training that reads stdin must not eat its successor's task.
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    with os.fdopen(answers, "w", encoding="utf-8") as outcomes:
        serve(tasks, outcomes)


if __name__ == "__main__":
    main()
