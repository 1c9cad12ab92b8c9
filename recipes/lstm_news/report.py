"""Figures 2 and 4 of the paper from the runs of an experiment: `python -m recipes.lstm_news.report --help`."""

import sys
from dataclasses import dataclass

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from adaloss_lightning.tracking import TrackingError, open_store
from adaloss_lightning.tracking.reports.report import markdown_table, png, write_files
from adaloss_lightning.tracking.reports.results import Results, collect
from adaloss_lightning.tracking.runs import MlflowClient, Run, history
from recipes.shared.cli import run_from_shell
from recipes.shared.reports import folder_of, require_runs_of, store_report_parser

REPORT_FILE, EPOCHS_FILE, RATES_FILE = "lstm_news.md", "figure_2.png", "figure_4.png"
FIRST_STEPS = 200  # of Figure 4
CLAIM = "AdamLoss is insensitive to b0, with relatively better test accuracy"  # of the paper

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Curves:
    """What a run said while it trained.

    Attributes:
        loss: Mean training loss of each epoch, over the steps that were logged.
        accuracy: Validation accuracy after each epoch, in percent.
        steps: Steps of Figure 4, from 1, that were logged.
        inverse_b: 1 / b_t at these steps.
    """

    loss: Floats
    accuracy: Floats
    steps: Floats
    inverse_b: Floats


def main(args: list[str] | None = None) -> None:
    """Writes `lstm_news.md`, `figure_2.png` and `figure_4.png`.

    Args:
        args: Command line; None takes the one of the process.

    Raises:
        TrackingError: The experiment cannot be read, has no such runs or those of another recipe, or the folder cannot
            be written.
    """
    about = "Figures 2 and 4 of the paper from the newest sweep of an experiment."
    options = store_report_parser("lstm_news", about).parse_args(args)
    client = open_store(options.tracking_uri, reading=True)
    results = collect(client, options.experiment)
    require_runs_of("lstm_news", results)
    runs = _runs(results)
    curves = {key: read_curves(client, run) for key, run in runs.items()}
    text = _markdown(results, list(runs.values()))
    figures = {EPOCHS_FILE: png(draw_epochs(curves)), RATES_FILE: png(draw_rates(curves))}
    files = {REPORT_FILE: text.encode(), **figures}
    sys.stdout.writelines(f"wrote {path}\n" for path in write_files(folder_of(options), files))


def _runs(results: Results) -> dict[tuple[str, float], Run]:
    """The run of the first seed of each row and b0: the figures show one run a curve, as in the paper."""
    first = {key: results.runs.get((*key, results.seeds[0])) for key in results.cells}
    found = {key: run for key, run in first.items() if run is not None and "adaloss/b" in run.data.metrics}
    if not found:
        raise TrackingError(f"No run of experiment {results.experiment!r} has logged adaloss/b. Add AdaLossCallback.")
    return found


def read_curves(client: MlflowClient, run: Run) -> Curves:
    """Reads the histories of one run. An epoch ends where the validation accuracy was logged."""
    names = ("train/loss", "val/acc", "adaloss/b")
    loss, accuracy, b = ([np.array(column) for column in history(client, run, name)] for name in names)
    epochs = np.searchsorted(accuracy[0], loss[0])
    means = [loss[1][epochs == epoch].mean() for epoch in range(len(accuracy[0])) if (epochs == epoch).any()]
    first = b[0] < FIRST_STEPS
    return Curves(np.array(means), 100 * accuracy[1], b[0][first] + 1, 1 / b[1][first])


def draw_epochs(curves: dict[tuple[str, float], Curves]) -> Figure:
    """Figure 2: training loss (top) and validation accuracy (bottom) after each epoch, one column a method."""
    methods = _methods(curves)
    figure = Figure(figsize=(3.3 * len(methods) + 1.2, 5.4), layout="constrained")
    panels = figure.subplots(2, len(methods), sharex=True, sharey="row", squeeze=False)
    for (method, b0), run in curves.items():
        top, bottom = panels[:, methods.index(method)]
        for axes, values in ((top, run.loss), (bottom, run.accuracy)):
            axes.plot(np.arange(1, len(values) + 1), values, marker="o", markersize=4, **_style(b0, curves))
    for column, method in enumerate(methods):
        panels[0, column].set_title(method)
        panels[1, column].set_xlabel("epoch")
        panels[1, column].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0, 0].set_ylabel("training loss")
    panels[1, 0].set_ylabel("validation accuracy in %")
    _finish(figure, list(panels.flat))
    return figure


def draw_rates(curves: dict[tuple[str, float], Curves]) -> Figure:
    """Figure 4: 1 / b_t over the first 200 steps, one panel a method."""
    methods = _methods(curves)
    figure = Figure(figsize=(3.3 * len(methods) + 1.2, 3.2), layout="constrained")
    panels = figure.subplots(1, len(methods), sharex=True, sharey=True, squeeze=False)[0]
    for (method, b0), run in curves.items():
        panels[methods.index(method)].plot(run.steps, run.inverse_b, **_style(b0, curves))
    for axes, method in zip(panels, methods, strict=True):
        axes.set_title(method)
        axes.set_xlabel("step t")
        axes.set_yscale("log")
    panels[0].set_ylabel("$1/b_t$")
    _finish(figure, list(panels))
    return figure


def _methods(curves: dict[tuple[str, float], Curves]) -> list[str]:
    return list(dict.fromkeys(method for method, _ in curves))


def _style(b0: float, curves: dict[tuple[str, float], Curves]) -> dict[str, object]:
    # One scale of colours from small to large b0, and its dark end for the smallest.
    b0s = sorted({other for _, other in curves})
    return {"color": colormaps["viridis"](0.85 * b0s.index(b0) / max(1, len(b0s) - 1)), "label": f"$b_0$ = {b0:g}"}


def _finish(figure: Figure, panels: list[Axes]) -> None:
    lines = {str(line.get_label()): line for axes in panels for line in axes.get_lines()}
    figure.legend(list(lines.values()), list(lines), loc="outside right center", frameon=False)
    for axes in panels:
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.spines[["top", "right"]].set_visible(False)


def _markdown(results: Results, runs: list[Run]) -> str:
    made_by = sorted({f"{run.data.params.get('corpus')}; {run.data.params.get('machine')}" for run in runs})
    parts = [
        "# Fake against true news (Figures 2 and 4)",
        "Data and machine: " + " / ".join(made_by) + ".",
        markdown_table(results).rstrip(),
        verdict(results),
        f"![Training loss and validation accuracy per epoch]({EPOCHS_FILE})",
        f"![1/b over the first {FIRST_STEPS} steps]({RATES_FILE})",
        f"The curves are those of seed {results.seeds[0]}. The accuracy of each epoch is that of the validation set: "
        "the test set is used once, for the best epoch.",
    ]
    return "\n\n".join(parts) + "\n"


def verdict(results: Results) -> str:
    """Whether the two halves of the paper's claim show: a smaller range over b0, and more accuracy at most b0."""
    ours, theirs = (_means(results, method) for method in ("adamloss", "adam"))
    if not ours or not theirs:
        return f'The paper\'s claim "{CLAIM}" needs adamloss and adam with a value at every b0; some are missing here.'
    ranges = [100 * (max(means) - min(means)) for means in (ours, theirs)]
    wins = sum(our > their for our, their in zip(ours, theirs, strict=True))
    return (
        f'The paper\'s claim: "{CLAIM}". The first half {_shows(ranges[0] < ranges[1])} here: over b0, '
        f"{results.metric} of adamloss ranges over {ranges[0]:.1f} points, and that of adam over {ranges[1]:.1f}. "
        f"The second half {_shows(2 * wins > len(ours))}: adamloss is the better one at {wins} of {len(ours)} b0."
    )


def _shows(holds: bool) -> str:
    return "shows" if holds else "does not show"


def _means(results: Results, method: str) -> list[float]:
    """Mean of each b0; nothing where one has no value."""
    cells = results.row(method) if method in results.methods else []
    means = [cell.mean for cell in cells if cell.mean is not None]
    return means if len(means) == len(cells) else []


if __name__ == "__main__":
    run_from_shell(main)
