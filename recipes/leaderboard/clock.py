"""Time left of a leaderboard."""

import math
import time
from collections.abc import Sequence

from recipes.leaderboard.methods import Method
from recipes.leaderboard.tasks import Task


class Clock:
    """Tells how long is left, from what a run of each task usually takes and how fast this machine has been.

    Args:
        parts: All that will be run.
        jobs: Runs at the same time.
    """

    def __init__(self, parts: Sequence[tuple[Task, Method]], jobs: int) -> None:
        self._jobs = jobs
        self._parts = len(parts)
        self._left = sum(_expected(task, method) for task, method in parts)
        self._number = 0
        self._done = 0.0
        self._begin = time.monotonic()

    def line(self, task: Task, method: Method) -> str:
        """What begins now, and when all is over."""
        self._number += 1
        elapsed = time.monotonic() - self._begin
        pace = elapsed / self._done if self._done else 1.0 / self._jobs
        minutes = math.ceil(self._left * pace / 60)
        part = f"[{self._number}/{self._parts}] {task.name}, {method.label}: {_runs(task, method)} runs"
        return f"{part}; about {minutes // 60} h {minutes % 60:02} min left"

    def count(self, task: Task, method: Method, done_before: int) -> None:
        """A part is over, of which so many runs were there before."""
        self._left -= _expected(task, method)
        self._done += (_runs(task, method) - done_before) * task.seconds


def _runs(task: Task, method: Method) -> int:
    return task.seeds * max(1, len(method.values()))


def _expected(task: Task, method: Method) -> float:
    return _runs(task, method) * task.seconds
