"""Our runs of an experiment and the paper's numbers, point by point."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from adaloss_lightning.tracking.reports.results import Cell, Results, collect
from adaloss_lightning.tracking.runs import MlflowClient, all_runs, find_experiment
from adaloss_lightning.tracking.tags import PARENT_TAG
from recipes.shared.reports import require_runs_of
from recipes.vit_cifar100.table1 import PAPER, VIT, Accuracy, PaperRow, differences

METRIC = "test/acc"

Point = Accuracy | Literal["diverged"] | None


@dataclass(frozen=True)
class Comparison:
    """Our runs, the paper's numbers for their network, and what the two do not have in common.

    Attributes:
        results: The sweep.
        paper: The paper's numbers by method and b0; empty for a network that it did not run.
        networks: Networks of our runs.
        machines: Machines of our runs.
        minutes: Median time a run of the sweep took.
        differences: Settings that are not Table 1's.
    """

    results: Results
    paper: dict[str, PaperRow]
    networks: list[str]
    machines: list[str]
    minutes: float
    differences: list[str]

    @property
    def methods(self) -> list[str]:
        """Those of the paper in its order, then our others."""
        return [*self.paper, *(method for method in self.results.methods if method not in self.paper)]

    @property
    def b0s(self) -> list[float]:
        """Every b0 of the paper or of ours."""
        return sorted({b0 for row in self.paper.values() for b0 in row} | set(self.results.b0s))

    @property
    def is_table1(self) -> bool:
        """Whether our runs are the experiment of Table 1, so that its claims can be looked for in them."""
        return not self.differences and self.networks == [VIT]

    def theirs(self, method: str, b0: float) -> Point:
        """The paper's value; its N/A is a divergence."""
        row = self.paper.get(method, {})
        return (row[b0] or "diverged") if b0 in row else None

    def ours(self, method: str, b0: float) -> Point:
        """Our value over the seeds that have one."""
        cell = self.cell(method, b0)
        if not cell.values:
            return "diverged" if cell.is_diverged else None
        return in_percent(cell.values)

    def cell(self, method: str, b0: float) -> Cell:
        """Our runs of a point; an empty cell for one that nobody asked for."""
        return self.results.cells.get((method, b0), Cell())

    def is_whole(self, method: str, b0: float) -> bool:
        """Whether every seed of a point has a value or diverged."""
        cell = self.cell(method, b0)
        return bool(cell.values or cell.gaps) and set(cell.gaps.values()) <= {"diverged"}

    def spread(self, method: str) -> float | None:
        """Best minus worst mean over the paper's b0, in points: infinite with a divergence, None with a run missing."""
        b0s = list(self.paper[method])
        if not all(self.is_whole(method, b0) for b0 in b0s):
            return None
        if any(self.cell(method, b0).gaps for b0 in b0s):
            return float("inf")
        means = [point.mean for b0 in b0s if isinstance(point := self.ours(method, b0), Accuracy)]
        return max(means) - min(means)


def compare(client: MlflowClient, experiment: str) -> Comparison:
    """Reads the newest sweep of `experiment`.

    Raises:
        SweepError: There is no such experiment, it has no test accuracy, or its runs are of another recipe.
    """
    results = collect(client, experiment, METRIC)
    require_runs_of("vit_cifar100", results)
    finished = all_runs(client, find_experiment(client, experiment), "attributes.status = 'FINISHED'")
    runs = [run for run in finished if "method" in run.data.params]
    swept = [run for run in runs if run.data.tags.get(PARENT_TAG) == results.parent_id]
    params = [run.data.params for run in swept]
    networks = sorted({one.get("model.name", "unknown") for one in params})
    return Comparison(
        results=results,
        paper=PAPER.get(networks[0], {}) if len(networks) == 1 else {},
        networks=networks,
        machines=sorted({one.get("machine", "unknown") for one in params}),
        minutes=statistics.median((run.info.end_time - run.info.start_time) / 60_000 for run in swept)
        if swept
        else 0.0,
        differences=differences(params),
    )


def in_percent(shares: Sequence[float]) -> Accuracy:
    """Mean and sample standard deviation of accuracies from 0 to 1."""
    percent = [100 * share for share in shares]
    return Accuracy(statistics.fmean(percent), statistics.stdev(percent) if len(percent) > 1 else None)
