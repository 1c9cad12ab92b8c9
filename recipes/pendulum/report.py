"""`python -m recipes.pendulum.report --experiment NAME --out DIR`: the paper's Figure 3 from our runs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import gymnasium
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from adaloss_lightning.tracking.reports.histories import History
from adaloss_lightning.tracking.reports.report import markdown_table
from adaloss_lightning.tracking.reports.results import Results
from adaloss_lightning.tracking.runs import Run
from recipes.shared.claims import Claim, Mean, claims_table
from recipes.shared.cli import run_from_shell
from recipes.shared.figures import COLOURS, panels, shared_legend, styled
from recipes.shared.reports import Report, report_on_runs, table, this_machine
from recipes.shared.spreads import Spread, seed_spreads

METRIC = "train/return"
SWING_UP = -200.0  # a policy that swings up and balances from any start stays above
NOTHING = -1200.0  # about what a policy has that has learned nothing
LEARNED = NOTHING / 2
FED = {"adamloss": "both networks fed the sum of their losses", "adamloss_own": "each network fed its own loss"}
ROBUST = 2.0  # how many times as large Adam's range is at least
FIGURE_FILE = "pendulum_returns.png"


@dataclass(frozen=True)
class Curve:
    """One run.

    Attributes:
        frames: Frames seen at each point, ascending.
        returns: Mean return of the last 50 episodes there.
        seconds: From the start of the run to its end, its test included.
    """

    frames: Sequence[int]
    returns: Sequence[float]
    seconds: float

    @classmethod
    def of(cls, run: Run, returns: History) -> "Curve":
        """The curve of a run that has ended."""
        return cls(returns.index.tolist(), returns.tolist(), (run.info.end_time - run.info.start_time) / 1000)

    @property
    def solved_at(self) -> int | None:
        """Frames at which the return was first above -200; None if it never was."""
        return next((frame for frame, value in zip(self.frames, self.returns, strict=True) if value > SWING_UP), None)


Curves = dict[tuple[str, float], list[Curve]]  # by method and b0, seed by seed, without the runs that have no value


def main(args: list[str] | None = None) -> None:
    """Writes `pendulum.md` and `pendulum_returns.png`, and prints the first."""
    report_on_runs(
        "pendulum", "The paper's Figure 3 from the newest sweep of an experiment.", report, args, METRIC, [METRIC]
    )


def report(results: Results) -> Report:
    """Figure, return at the end, frames until the pendulum stays up, and the paper's claim."""
    curves = curves_of(results)
    solved = [[method, *(_solved(curves[method, b0]) for b0 in results.b0s)] for method in results.methods]
    parts = [
        "# Inverted pendulum swing-up (the paper's Figure 3)",
        f"![mean return of the last 50 episodes against frames]({FIGURE_FILE})",
        "Curves: mean over seeds; bands: from the worst to the best seed; dashed: -200.",
        markdown_table(results),
        "Thousands of frames until the mean return of the last 50 episodes was above -200, seed by seed:",
        table(["method", *(f"b0 = {b0:g}" for b0 in results.b0s)], solved),
        claims_table(claims(results)),
        _origin([curve for several in curves.values() for curve in several]),
    ]
    text = "\n\n".join(part.rstrip() for part in parts) + "\n"
    return Report("pendulum.md", text, {FIGURE_FILE: draw(results, curves)})


def curves_of(results: Results) -> Curves:
    """The curves of all runs that have a value."""
    curves: Curves = {key: [] for key in results.cells}
    for (method, b0, seed), run in results.runs.items():
        returns = results.history(METRIC, run)
        if seed not in results.cells[method, b0].gaps and returns is not None:
            curves[method, b0].append(Curve.of(run, returns))
    return curves


def claims(results: Results) -> list[Claim]:
    """What the paper reads from Figure 3, paired by seed, for either reading of which loss is fed."""
    worst = min([NOTHING, *(value for cell in results.cells.values() for value in cell.values)])
    spreads = {method: seed_spreads(results, method, diverged=worst) for method in results.methods}
    return [_claim(method, spreads, worst) for method in FED if method in ("adamloss", *results.methods)]


def _claim(method: str, spreads: Mapping[str, dict[str, Spread]], worst: float) -> Claim:
    ours, theirs = spreads.get(method, {}), spreads.get("adam", {})
    seeds = [seed for seed in ours if seed in theirs]
    ratios = [theirs[seed].width / ours[seed].width if ours[seed].width else math.inf for seed in seeds]
    return Claim(
        "Figure 3",
        f"AdamLoss is robust over a range of b0 where Adam is very sensitive; {FED[method]}",
        f"best less worst return over b0 ({worst:.0f}, the worst of all runs, where one diverged): more than "
        f"{ROBUST:g} times as large for adam as for {method}; both above {LEARNED:g} from their best b0",
        [Mean(f"adam over {method}", ratios, low=ROBUST, is_ratio=True)] if seeds else [],
        "; ".join(f"{name}: {_widths(spreads[name])}" for name in (method, "adam") if name in spreads),
        learned=[min(ours[seed].best, theirs[seed].best) > LEARNED for seed in seeds],
    )


def _widths(found: dict[str, Spread]) -> str:
    return ", ".join(f"{spread.width:.0f}" for spread in found.values()) or "no value at every b0"


@styled
def draw(results: Results, curves: Curves) -> Figure:
    """Return against frames, one panel a method, one curve a b0: mean over seeds, and the range of the seeds."""
    figure, (row,) = panels(0.6 + 3.2 * len(results.methods), 3.6, 1, len(results.methods), sharex=True, sharey=True)
    for axes, method in zip(row, results.methods, strict=True):
        for index, b0 in enumerate(results.b0s):
            _draw_mean(axes, curves[method, b0], f"$b_0$ = {b0:g}", COLOURS[index % len(COLOURS)])
        axes.axhline(SWING_UP, color="#888888", linewidth=0.9, linestyle="--", zorder=1)
        axes.set(title=method, xlabel="frames, thousands")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}"))
    row[0].set_ylabel("mean return of the last 50 episodes")
    shared_legend(figure, "outside lower center", columns=len(results.b0s))
    return figure


def _draw_mean(axes: Axes, curves: Sequence[Curve], label: str, colour: str) -> None:
    """Draws what all of `curves` have seen: runs of another length are cut to the shortest."""
    by_frame = [dict(zip(curve.frames, curve.returns, strict=True)) for curve in curves]
    frames = sorted(set.intersection(*map(set, by_frame))) if by_frame else []
    if not frames:
        return
    returns = np.array([[known[frame] for frame in frames] for known in by_frame])
    axes.fill_between(frames, returns.min(axis=0), returns.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.plot(frames, returns.mean(axis=0), color=colour, linewidth=1.8, label=label)


def _solved(curves: Sequence[Curve]) -> str:
    frames = [curve.solved_at for curve in curves]
    return ", ".join("never" if frame is None else f"{frame / 1000:.0f}" for frame in frames) or "-"


def _origin(curves: Sequence[Curve]) -> str:
    text = f"Data: gymnasium {gymnasium.__version__}, Pendulum-v1; {len(curves)} runs"
    if curves:
        frames = sorted({curve.frames[-1] for curve in curves})
        seconds = [curve.seconds for curve in curves]
        text += f" of {' or '.join(f'{count:,}' for count in frames)} frames"
        text += f", {min(seconds):.0f} to {max(seconds):.0f} s each (median {statistics.median(seconds):.0f} s)"
    return f"{text}. The report was written on this machine: {this_machine()}."


if __name__ == "__main__":
    run_from_shell(main)
