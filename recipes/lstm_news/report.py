"""Figures 2 and 4 of the paper from the runs of an experiment: `python -m recipes.lstm_news.report --help`."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from operator import gt

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from adaloss_lightning.tracking import TrackingError
from adaloss_lightning.tracking.reports.report import markdown_table
from adaloss_lightning.tracking.reports.results import Results
from adaloss_lightning.tracking.reports.stored_sweep import PointKey
from adaloss_lightning.tracking.runs import Run
from recipes.shared.claims import Claim, Mean, claims_table
from recipes.shared.cli import run_from_shell
from recipes.shared.figures import panels, shared_legend, styled
from recipes.shared.reports import Report, report_on_runs
from recipes.shared.spreads import Spread, seed_spreads

EPOCHS_FILE, RATES_FILE = "figure_2.png", "figure_4.png"
LEARNED = 0.6  # accuracy; the two classes are equally frequent
ROBUST = 2.0  # largest over smallest loss
SOURCE = "Section 5, Figures 2 and 4"
NAMES = {"adam": "Adam", "adam_sqrt": "AdamSqrt"}
MISSING = "adamloss and {} need a value at every b0"
FIRST_STEPS = 200  # of Figure 4
HISTORIES = ("train/loss", "val/acc", "adaloss/effective_lr", "adaloss/b")

Floats = NDArray[np.float64]
Spreads = dict[str, Spread]


@dataclass(frozen=True)
class Curves:
    """What a run logged while it trained.

    Attributes:
        loss: Mean training loss of each epoch, over the steps that were logged.
        accuracy: Validation accuracy after each epoch, in percent.
        rate: Step size at the end of each epoch: of AdamLoss eta / sqrt(b).
        steps: Steps of Figure 4, from 1, that were logged.
        inverse_b: 1 / b_t at these steps.
    """

    loss: Floats
    accuracy: Floats
    rate: Floats
    steps: Floats
    inverse_b: Floats


def main(args: list[str] | None = None) -> None:
    """Writes `lstm_news.md`, `figure_2.png` and `figure_4.png`, and prints the first."""
    about = "Figures 2 and 4 of the paper from the newest sweep of an experiment."
    report_on_runs("lstm_news", about, report, args, histories=HISTORIES)


def report(results: Results) -> Report:
    """Table, claims and figures; the figures show one run a curve, as in the paper."""
    runs = _runs(results)
    curves = {key: curves_of(results, run) for key, run in runs.items()}
    figures = {EPOCHS_FILE: draw_epochs(curves), RATES_FILE: draw_rates(curves)}
    return Report("lstm_news.md", _markdown(results, runs.values()), figures)


def _runs(results: Results) -> dict[tuple[str, float], Run]:
    """The run of the first seed of each row and b0."""
    first = {key: results.runs.get((*key, results.seeds[0])) for key in results.cells}
    found = {key: run for key, run in first.items() if run is not None and "adaloss/b" in run.data.metrics}
    if not found:
        raise TrackingError(f"No run of experiment {results.experiment!r} has logged adaloss/b. Add AdaLossCallback.")
    return found


def curves_of(results: Results, run: Run) -> Curves:
    """What the histories of one run say. An epoch ends where the validation accuracy was logged."""
    histories = [results.history(name, run) for name in HISTORIES]
    loss, accuracy, rate, b = (
        [np.array([])] * 2 if one is None else [one.index.to_numpy(), one.to_numpy()] for one in histories
    )

    def by_epoch(points: list[Floats]) -> list[Floats]:
        epochs = np.searchsorted(accuracy[0], points[0])
        parts = [points[1][epochs == epoch] for epoch in range(len(accuracy[0]))]
        return [part for part in parts if len(part)]

    means, last = [part.mean() for part in by_epoch(loss)], [part[-1] for part in by_epoch(rate)]
    first = b[0] < FIRST_STEPS
    return Curves(np.array(means), 100 * accuracy[1], np.array(last), b[0][first] + 1, 1 / b[1][first])


@styled
def draw_epochs(curves: dict[tuple[str, float], Curves]) -> Figure:
    """Figure 2: training loss, validation accuracy and step size after each epoch, one column a method."""
    methods = _methods(curves)
    figure, grid = panels(3.3 * len(methods) + 1.2, 7.6, 3, len(methods), sharex=True, sharey="row")
    for (method, b0), run in curves.items():
        for axes, values in zip(grid[:, methods.index(method)], (run.loss, run.accuracy, run.rate), strict=True):
            axes.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=4, **_style(b0, curves))
    for (top, _, bottom), method in zip(grid.T, methods, strict=True):
        top.set_title(method)
        bottom.set(xlabel="epoch", yscale="log")
        bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    for axes, label in zip(grid[:, 0], ("training loss", "validation accuracy in %", "step size"), strict=True):
        axes.set_ylabel(label)
    shared_legend(figure, "outside right center")
    return figure


@styled
def draw_rates(curves: dict[tuple[str, float], Curves]) -> Figure:
    """Figure 4: 1 / b_t over the first 200 steps, one panel a method."""
    methods = _methods(curves)
    figure, (row,) = panels(3.3 * len(methods) + 1.2, 3.2, 1, len(methods), sharex=True, sharey=True)
    for (method, b0), run in curves.items():
        row[methods.index(method)].plot(run.steps, run.inverse_b, **_style(b0, curves))
    for axes, method in zip(row, methods, strict=True):
        axes.set(title=method, xlabel="step t", yscale="log")
    row[0].set_ylabel("$1/b_t$")
    shared_legend(figure, "outside right center")
    return figure


def _methods(curves: dict[tuple[str, float], Curves]) -> list[str]:
    return list(dict.fromkeys(method for method, _ in curves))


def _style(b0: float, curves: dict[tuple[str, float], Curves]) -> dict[str, object]:
    # One scale of colours from small to large b0, and its dark end for the smallest.
    b0s = sorted({other for _, other in curves})
    return {"color": colormaps["viridis"](0.85 * b0s.index(b0) / max(1, len(b0s) - 1)), "label": f"$b_0$ = {b0:g}"}


def _markdown(results: Results, runs: Iterable[Run]) -> str:
    made_by = sorted({f"{run.data.params.get('corpus')}; {run.data.params.get('machine')}" for run in runs})
    parts = [
        "# Fake against true news (Figures 2 and 4)",
        "Data and machine: " + " / ".join(made_by) + ".",
        _settings(results),
        markdown_table(results).rstrip(),
        claims_table(claims(results, last_losses(results))).rstrip(),
        f"![Training loss, validation accuracy and step size per epoch]({EPOCHS_FILE})",
        f"![1/b over the first {FIRST_STEPS} steps]({RATES_FILE})",
        f"The curves are those of seed {results.seeds[0]}. The accuracy of each epoch is that of the validation set: "
        "the test set is used once, for the best epoch.",
    ]
    return "\n\n".join(parts) + "\n"


def _settings(results: Results) -> str:
    """Eta of each method and length of the runs: the paper has eta = 1."""
    etas: dict[str, set[str]] = {}
    for (method, _, _), run in results.runs.items():
        etas.setdefault(method, set()).add(f"{float(run.data.params.get('lr', 'nan')):g}")
    epochs = sorted({run.data.params.get("trainer.max_epochs", "unknown") for run in results.runs.values()})
    listed = ", ".join(f"{method} {' and '.join(sorted(found))}" for method, found in etas.items())
    return f"eta, in the paper 1: {listed}. Epochs: {', '.join(epochs)}. Seeds: {', '.join(results.seeds)}."


def last_losses(results: Results) -> dict[PointKey, float]:
    """Training loss of the last epoch of each run that has one; infinite where it is not finite."""
    losses = {point: curves_of(results, run).loss[-1:] for point, run in results.runs.items()}
    return {point: float(np.nan_to_num(loss[0], nan=np.inf)) for point, loss in losses.items() if len(loss)}


def claims(results: Results, losses: Mapping[PointKey, float]) -> list[Claim]:
    """What the paper reads from Figures 2 and 4, paired by seed; losses as of :func:`last_losses`."""
    spreads = {method: seed_spreads(results, method) for method in ("adamloss", "adam", "adam_sqrt")}
    ours, adam = spreads["adamloss"], spreads["adam"]
    ranges = {method: _ranges(results, losses, method) for method in ("adamloss", "adam")}
    return [
        _robust_loss(ranges, _learned(ours, adam)),
        _less_sensitive(results.metric, ours, adam),
        *(_better(name, ours, spreads[name]) for name in ("adam", "adam_sqrt")),
    ]


def _learned(ours: Spreads, theirs: Spreads) -> dict[str, bool]:
    """Whether both methods learned something, for each seed that has both at every b0."""
    return {seed: min(ours[seed].best, theirs[seed].best) > LEARNED for seed in ours if seed in theirs}


def _robust_loss(ranges: Mapping[str, dict[str, float]], learned: Mapping[str, bool]) -> Claim:
    seeds = [seed for seed in learned if all(seed in of for of in ranges.values())]
    ours, theirs = ([of[seed] for seed in seeds] for of in ranges.values())
    over = [one / other for one, other in zip(theirs, ours, strict=True)]
    evidence = [
        Mean("adamloss, largest over smallest", ours, high=ROBUST, is_ratio=True),
        Mean("that of adam over it", over, low=1.0, is_ratio=True),
    ]
    return Claim(
        SOURCE,
        "The training loss of AdamLoss is very robust to b0",
        f"largest over smallest loss of the last epoch, over b0: below {ROBUST:g}, and smaller than Adam's",
        evidence if seeds else [],
        f"seed by seed: adamloss {_join(ours)}, adam {_join(theirs)}" if seeds else MISSING.format("adam"),
        [learned[seed] for seed in seeds],
    )


def _ranges(results: Results, losses: Mapping[PointKey, float], method: str) -> dict[str, float]:
    """Largest over smallest loss over b0, for each seed that has all of them."""
    by_seed = {seed: [losses.get((method, b0, seed)) for b0 in results.b0s] for seed in results.seeds}
    whole = {seed: [one for one in found if one is not None] for seed, found in by_seed.items() if None not in found}
    return {seed: max(found) / min(found) for seed, found in whole.items()}


def _less_sensitive(metric: str, ours: Spreads, theirs: Spreads) -> Claim:
    learned = _learned(ours, theirs)
    widths = [[100 * of[seed].width for seed in learned] for of in (ours, theirs)]
    gains = [their - our for our, their in zip(*widths, strict=True)]
    listed = "range of {} in points, seed by seed: adamloss {}, adam {}".format(metric, *map(_join, widths))
    return Claim(
        SOURCE,
        "The test accuracy of AdamLoss is less sensitive to b0 than Adam's",
        "smaller range over b0 than Adam",
        [Mean("adam less adamloss, points", gains, low=0.0)] if learned else [],
        listed if learned else MISSING.format("adam"),
        list(learned.values()),
    )


def _better(name: str, ours: Spreads, theirs: Spreads) -> Claim:
    learned = _learned(ours, theirs)
    won = [statistics.fmean(map(gt, ours[seed].values, theirs[seed].values)) for seed in learned]
    return Claim(
        SOURCE,
        f"AdamLoss achieves relatively better test accuracy than {NAMES[name]}",
        "better at more than half of all b0",
        [Mean("share of b0", won, low=0.5)] if learned else [],
        f"share of b0 at which adamloss is better, seed by seed: {_join(won)}" if learned else MISSING.format(name),
        list(learned.values()),
    )


def _join(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.1f}" for value in values)


if __name__ == "__main__":
    run_from_shell(main)
