"""An executor that several sweeps use one after another."""

from collections.abc import Sequence

from adaloss_lightning.tracking.sweeps.executors.task import Executor, Outcome, Task


class Kept(Executor):
    """Keeps the processes of another executor for the next sweep, as each takes many seconds to start.

    Args:
        executor: What runs the tasks.
    """

    def __init__(self, executor: Executor) -> None:
        self._executor = executor
        self._running = 0

    def has_room(self) -> bool:
        """Whether the executor has room."""
        return self._executor.has_room()

    def submit(self, task: Task) -> None:
        """Starts a task there."""
        self._executor.submit(task)
        self._running += 1

    def wait(self) -> Sequence[tuple[str, Outcome]]:
        """Waits there."""
        ended = self._executor.wait()
        self._running -= len(ended)
        self.is_stopped = self._executor.is_stopped
        return ended

    def close(self) -> None:
        """Ends what runs; where nothing does, a sweep is over and the next one may come."""
        if self._running:
            self.end()

    def end(self) -> None:
        """Ends the processes."""
        self._running = 0
        self._executor.close()
