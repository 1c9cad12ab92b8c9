"""Standing of a sweep while it runs: the best point so far, and those that went wrong."""

from mlflow.entities import Run

from adaloss_lightning.tracking.grid import Point
from adaloss_lightning.tracking.metrics import Mode, direction_of, has_diverged, metric_of
from adaloss_lightning.tracking.tags import METRIC_TAG, MODE_TAG
from adaloss_lightning.tracking.units import unit_of


class Standing:
    """Counts points as they end.

    Args:
        metric: What is compared; None takes what the runs have.
        mode: "min" where small values are good, "max" where large ones are; None goes by the runs.

    Attributes:
        finished: Number of points that finished, diverged ones included.
        failed: Each point that failed, and why.
    """

    def __init__(self, metric: str | None = None, mode: Mode | None = None) -> None:
        self._metric, self._mode = metric, mode
        self.finished = 0
        self.failed: list[tuple[Point, str]] = []
        self._diverged = 0
        self._values: dict[str, list[float]] = {}  # of each metric that a point was compared by
        self._best: tuple[float, str, Point] | None = None

    @property
    def compared(self) -> dict[str, str]:
        """Tags that keep what the user asked to compare."""
        tags = {METRIC_TAG: self._metric, MODE_TAG: self._mode}
        return {tag: value for tag, value in tags.items() if value}

    def add_finished(self, point: Point, run: Run) -> None:
        """Compares the run of a point that finished with the best so far."""
        self.finished += 1
        name = self._metric or metric_of([run])
        if has_diverged(run, name):
            self._diverged += 1
            return
        if name is None or name not in run.data.metrics:
            return
        value = run.data.metrics[name]
        self._values.setdefault(name, []).append(value)
        is_lower_better = direction_of(name, [run], self._mode).mode == "min"
        if self._best is None or (value < self._best[0] if is_lower_better else value > self._best[0]):
            self._best = (value, name, point)

    def add_failed(self, point: Point, why: str) -> None:
        """Notes a point that failed."""
        self.failed.append((point, why))

    def __str__(self) -> str:
        """For people, behind a progress bar."""
        counts = {"diverged": self._diverged, "failed": len(self.failed)}
        parts = []
        if self._best is not None:
            value, name, point = self._best
            parts = [f"best {unit_of(name, self._values[name]).text(value)} ({point})"]
        return ", ".join(parts + [f"{count} {what}" for what, count in counts.items() if count])
