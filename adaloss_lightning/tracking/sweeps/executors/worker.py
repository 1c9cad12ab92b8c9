"""Processes that run points of a sweep: a worker, `python -m ...worker FD`, or another rank, which has no argument."""

import contextlib
import json
import os
import queue
import signal
import sys
import threading
import time
from multiprocessing.connection import Connection

from adaloss_lightning.tracking.logger.resume import joined_run
from adaloss_lightning.tracking.sweeps.executors.task import GRACE_S, Task, run_task
from adaloss_lightning.tracking.sweeps.guest import TASK_VARIABLE
from adaloss_lightning.tracking.sweeps.module import fit


def serve(sweep: "Connection[object, Task]") -> None:
    """Runs the tasks that come and answers each with its outcome; returns after the last.

    The end of the connection in the middle of a run means that the sweep is gone, whatever killed it: the run is
    stopped as by SIGTERM.
    """
    tasks: queue.SimpleQueue[Task | None] = queue.SimpleQueue()
    busy = threading.Event()
    threading.Thread(target=_listen, args=(sweep, tasks, busy), daemon=True).start()
    with contextlib.suppress(OSError):
        while (task := tasks.get()) is not None:
            outcome = run_task(task)
            busy.clear()
            sweep.send(outcome)
            if outcome.status == "KILLED":
                return


def _listen(sweep: "Connection[object, Task]", tasks: "queue.SimpleQueue[Task | None]", busy: threading.Event) -> None:
    with contextlib.suppress(EOFError, OSError):
        while True:
            task = sweep.recv()
            busy.set()
            tasks.put(task)
    tasks.put(None)
    if busy.is_set():
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(GRACE_S)
        os._exit(1)  # it did not listen


def _train_as_rank() -> None:
    """Runs the command line of a point in a process that Lightning's launcher started beside its first rank.

    It fails loudly, and Lightning then ends the other ranks.
    """
    task = Task(**json.loads(os.environ[TASK_VARIABLE]))
    with joined_run(task.tracking_uri, task.run_id):
        fit(task.module, task.args)


def main() -> None:
    """Serves the sweep at the other end of the socket that the command line names, or trains as another rank."""
    if len(sys.argv) == 1:
        _train_as_rank()
        return
    descriptor = int(sys.argv[1])
    os.set_inheritable(descriptor, False)
    serve(Connection(descriptor))


if __name__ == "__main__":
    main()
