"""Opening a store in a thread, in a process that may be forked meanwhile."""

import os
import threading

FORK_S = 5.0  # that a fork waits for stores that are being opened


class _Opening:
    """Keeps this process from being forked while threads of it open stores.

    That imports modules and takes a lock of MLflow's. A child has copies of both as they are at that moment, without
    the thread that would ever let go of them. A store that hangs is not waited for.
    """

    def __init__(self) -> None:
        os.register_at_fork(before=self._wait, after_in_parent=self._go_on, after_in_child=self._new)
        self._new()

    def _new(self) -> None:
        self._changed, self._threads = threading.Condition(), 0

    def _wait(self) -> None:
        self._changed.acquire()
        self._changed.wait_for(lambda: not self._threads, FORK_S)

    def _go_on(self) -> None:
        self._changed.release()

    def __enter__(self) -> None:
        with self._changed:
            self._threads += 1

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._threads -= 1
            self._changed.notify_all()


opening = _Opening()
