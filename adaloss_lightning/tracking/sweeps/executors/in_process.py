"""Points of a sweep one after another in this process."""

from adaloss_lightning.tracking.sweeps.executors.task import Executor, Outcome, Task, run_task


class InProcess(Executor):
    """Runs a task when its end is waited for. Ctrl-C or SIGTERM in a task mean this process, and so the sweep."""

    def __init__(self) -> None:
        self._next: Task | None = None

    def has_room(self) -> bool:
        """Whether no task is there."""
        return self._next is None

    def submit(self, task: Task) -> None:
        """Takes the task that `wait` will run."""
        self._next = task

    def wait(self) -> list[tuple[str, Outcome]]:
        """Runs the task."""
        task, self._next = self._next, None
        if task is None:
            return []
        outcome = run_task(task)
        self.is_stopped = outcome.status == "KILLED"
        return [(task.run_id, outcome)]

    def close(self) -> None:
        """Nothing is left to stop."""
