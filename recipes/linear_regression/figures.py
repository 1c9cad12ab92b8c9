"""The figures: Figure 1 of the paper, the crossing times of Lemma 1, the steps to accuracy of Theorem 1."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from recipes.linear_regression.batched import ADAPTIVE, Method
from recipes.linear_regression.claims import NAMES
from recipes.linear_regression.studies import WINDOWS, Accuracies, Crossings, Windows

# Okabe and Ito's palette, told apart by colour-blind readers.
COLOURS: dict[Method, str] = {
    "adaloss": "#D55E00",
    "adagrad_norm": "#0072B2",
    "sgd_constant": "#009E73",
    "sgd_decay_sqrt": "#CC79A7",
}
_STYLES = ("-", "--", "-.", ":")
_MARKERS = "os^D"
_DEEPEST = 1e-35  # lower losses are drawn there: float64 runs reach 1e-300, which would flatten everything else


def draw_figure_1(b0: Tensor, runs: dict[Method, Windows], start_loss: float, title: str) -> Figure:
    """Loss (top row) and 1 / b_t (bottom row) against b0 in the three windows.

    A cross at the upper edge is a b0 from which at least one seed is at more than ten times the loss of the start.

    Args:
        b0: `[b0]`.
        runs: Of the methods.
        start_loss: Mean loss of w_0, the dotted line.
        title: Above the panels.
    """
    figure = Figure(figsize=(11, 6), layout="constrained")
    panels = figure.subplots(2, len(WINDOWS), sharex=True)
    top = 200 * start_loss
    for column, (first, last) in enumerate(WINDOWS):
        upper, lower = panels[0][column], panels[1][column]
        _dress(upper)
        _dress(lower)
        upper.axhline(start_loss, color="#5f5f5f", linestyle=":", linewidth=1)
        for place, (method, of_method) in enumerate(runs.items()):
            loss, style = of_method.loss[column].nan_to_num(nan=torch.inf), _style(method)
            fine = (loss <= start_loss * 10).all(0)
            shown = torch.where(fine, loss.clamp(min=_DEEPEST), torch.nan)
            upper.fill_between(b0, shown.amin(0), shown.amax(0), color=COLOURS[method], alpha=0.15, linewidth=0)
            upper.plot(b0, shown.log().mean(0).exp(), label=NAMES[method], **style)
            upper.plot(b0[~fine], torch.full_like(b0[~fine], top / 2**place), "x", color=COLOURS[method], markersize=5)
            lower.plot(b0, of_method.rate[column].log().mean(0).exp(), label=NAMES[method], **style)
        upper.set_title(f"steps {first} to {last}", fontsize=10)
        upper.set_ylim(top=2 * top)
        lower.set_xlabel("$b_0$")
    panels[0][0].set_ylabel(r"loss $\frac{1}{2}\|Xw-y\|^2$")
    panels[1][0].set_ylabel("effective rate $1/b_t$")
    panels[1][0].legend(fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    return figure


def draw_lemma_1(found: Crossings, timed: Accuracies) -> Figure:
    """Crossing step against b0 with the logarithmic bound (left), and beside the steps to an accuracy (right)."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    left, right = figure.subplots(1, 2)
    for method in ADAPTIVE:
        for place, distance in enumerate(found.distances):
            style = _style(method, _STYLES[place % 4], _MARKERS[place % 4])
            left.plot(
                found.multiples, found.steps[method][place].mean(0), label=f"{NAMES[method]}, {distance:g}", **style
            )
        bound, label = found.bound[method][0].mean(0), f"{NAMES[method]}, bound for {found.distances[0]:g}"
        left.plot(found.multiples, bound, color=COLOURS[method], alpha=0.4, linewidth=3, label=label)
        right.plot(
            timed.targets, timed.steps[method][:, :, 0].mean(1), label=f"{NAMES[method]}: target", **_style(method)
        )
        crossing = timed.crossed[method][:, 0].mean().item()
        right.axhline(crossing, color=COLOURS[method], linestyle="--", label=f"{NAMES[method]}: crossing")
    _dress(left)
    left.set_ylim(top=left.get_ylim()[1] * 300)  # room for the legend
    left.set_xlabel(r"$b_0$ in units of $\eta\lambda_1/2$")
    left.set_ylabel("step at which b crosses")
    left.set_title(r"Mean crossing step, by $\|w_0-w^*\|$ in units of $\|w^*\|$", fontsize=10)
    left.legend(fontsize=8, frameon=False, ncols=2, loc="upper left")
    _dress(right, y="linear")
    right.invert_xaxis()
    right.set_xlabel(r"target accuracy $\varepsilon$ of $\|w-w^*\|^2$")
    right.set_ylabel("step")
    right.set_title(f"From $b_0$ = {timed.multiples[0]:g} of critical", fontsize=10)
    right.legend(fontsize=8, frameon=False)
    return figure


def draw_theorem_1(timed: Accuracies) -> Figure:
    """Steps to accuracy against log(1/eps), from b0 below (dashed) and above (solid) the critical value."""
    figure = Figure(figsize=(11, 4.4), layout="constrained")
    panels = figure.subplots(1, 2)
    digits = -torch.log10(timed.targets)
    for axes, method in zip(panels, ADAPTIVE, strict=True):
        for place, multiple in enumerate(timed.multiples.tolist()):
            style = _style(method, "--" if multiple < 1 else "-", _MARKERS[place % 4])
            shade = 0.3 + 0.7 * place / max(1, len(timed.multiples) - 1)
            axes.plot(digits, timed.steps[method][:, :, place].mean(1), label=f"{multiple:g}", alpha=shade, **style)
        axes.set_title(f"{NAMES[method]}, by $b_0$ in units of $\\eta\\lambda_1/2$", fontsize=10)
        axes.set_xlabel(r"$\log_{10}(1/\varepsilon)$")
        axes.set_ylabel(r"steps to $\|w-w^*\|^2\leq\varepsilon$")
        axes.grid(color="#dddddd", linewidth=0.6)
        axes.legend(fontsize=8, frameon=False, ncols=2)
    return figure


def _style(method: Method, line: str = "-", marker: str = "o") -> dict[str, Any]:
    return {"color": COLOURS[method], "linestyle": line, "marker": marker, "markersize": 3, "linewidth": 1.4}


def _dress(axes: Axes, y: str = "log") -> None:
    axes.set_xscale("log")
    axes.set_yscale(y)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
