"""What the runs of an experiment learned: their returns against frames, read from MLflow."""

from collections.abc import Sequence
from dataclasses import dataclass

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.reports.results import Cell, Gap, Results, gap_of
from adaloss_lightning.tracking.runs import MlflowClient, Run, all_runs, find_experiment, history

METRIC = "train/return"
SWING_UP = -200.0  # a policy that swings up and balances from any start stays above


@dataclass(frozen=True)
class Curve:
    """One run: mean return of the last 50 episodes against frames.

    Attributes:
        panel: The method, and which loss it was fed where that matters.
        b0: Start of b.
        seed: Seed.
        frames: Frames seen at each point, ascending.
        returns: Mean return of the last 50 episodes there.
        seconds: From the start of the run to its end, its test included; None while it runs.
        gap: Why the run counts for nothing, or None.
    """

    panel: str
    b0: float
    seed: str
    frames: Sequence[int]
    returns: Sequence[float]
    seconds: float | None = None
    gap: Gap | None = None

    @property
    def solved_at(self) -> int | None:
        """Frames at which the return first was above -200, or None if it never was."""
        return next((frame for frame, value in zip(self.frames, self.returns, strict=True) if value > SWING_UP), None)


def read_curves(client: MlflowClient, experiment: str) -> list[Curve]:
    """Reads all runs of the recipe in an experiment; of runs made twice the newest.

    Raises:
        SweepError: No such experiment, or none of its runs is one of this recipe.
    """
    runs = all_runs(client, find_experiment(client, experiment), "params.recipe = 'pendulum'")
    newest = {(_panel(run), run.data.params["b0"], run.data.params["seed"]): run for run in runs if _is_training(run)}
    if not newest:
        raise SweepError(f"Experiment {experiment!r} has no runs of pendulum. Start: adaloss sweep --recipe pendulum.")
    return [_curve(client, run) for run in newest.values()]


def arrange(curves: Sequence[Curve], experiment: str) -> Results:
    """The return at the end of training, panel by panel and b0 by b0, for the tables of `adaloss report`."""
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    b0s = sorted({curve.b0 for curve in curves})
    seeds = sorted({curve.seed for curve in curves}, key=lambda seed: (len(seed), seed))
    by_point = {(curve.panel, curve.b0, curve.seed): curve for curve in curves}
    cells = {(panel, b0): Cell() for panel in panels for b0 in b0s}
    for (panel, b0), cell in cells.items():
        for seed in seeds:
            curve = by_point.get((panel, b0, seed))
            if curve is None or curve.gap:
                cell.gaps[seed] = curve.gap if curve and curve.gap else "no run"
            else:
                cell.values.append(curve.returns[-1])
    return Results(experiment, METRIC, panels, b0s, seeds, cells, None)


def _is_training(run: Run) -> bool:
    return {"method", "b0", "seed"} <= run.data.params.keys() and "train/frames" in run.data.metrics


def _panel(run: Run) -> str:
    method, fed = run.data.params.get("method", ""), run.data.params.get("model.fed", "total")
    return method if fed == "total" or method.endswith(fed) else f"{method} fed {fed}"


def _curve(client: MlflowClient, run: Run) -> Curve:
    frames, returns = history(client, run, METRIC)
    ended = run.info.end_time
    return Curve(
        panel=_panel(run),
        b0=float(run.data.params["b0"]),
        seed=run.data.params["seed"],
        frames=frames,
        returns=returns,
        seconds=None if ended is None else (ended - run.info.start_time) / 1000,
        gap=gap_of(run, METRIC),
    )
