"""The figures: Figure 1 of the paper, the crossing times of Lemma 1, the steps to accuracy of Theorem 1."""

from typing import Any

import torch
from matplotlib.figure import Figure
from torch import Tensor

from recipes.linear_regression.batched import ADAPTIVE, METHODS, Method
from recipes.linear_regression.claims import NAMES
from recipes.linear_regression.studies import WINDOWS, Accuracies, Crossings, Windows
from recipes.shared.figures import COLOURS, MARKERS, panels, styled

_STYLES = ("-", "--", "-.", ":")
DEEPEST = 1e-35  # lower losses are drawn there: runs reach 1e-300, which would flatten everything else


@styled
def draw_figure_1(b0: Tensor, runs: dict[Method, Windows], start_loss: float, title: str) -> Figure:
    """Loss (top row) and 1 / b_t (bottom row) against b0 in the three windows.

    A cross at the upper edge is a b0 from which at least one seed is at more than ten times the loss of the start.

    Args:
        b0: `[b0]`.
        runs: Of the methods.
        start_loss: Mean loss of w_0, the dotted line.
        title: Above the panels.
    """
    figure, grid = panels(11, 6, 2, len(WINDOWS), sharex=True)
    top = 200 * start_loss
    for column, (first, last) in enumerate(WINDOWS):
        upper, lower = grid[:, column]
        upper.loglog()
        lower.loglog()
        upper.axhline(start_loss, color="#5f5f5f", linestyle=":", linewidth=1)
        for place, (method, of_method) in enumerate(runs.items()):
            loss, style = of_method.loss[column].nan_to_num(nan=torch.inf), _style(method)
            colour = style["color"]
            fine = (loss <= start_loss * 10).all(0)
            shown = torch.where(fine, loss.clamp(min=DEEPEST), torch.nan)
            upper.fill_between(b0, shown.amin(0), shown.amax(0), color=colour, alpha=0.15, linewidth=0)
            upper.plot(b0, shown.log().mean(0).exp(), label=NAMES[method], **style)
            upper.plot(b0[~fine], torch.full_like(b0[~fine], top / 2**place), "x", color=colour, markersize=5)
            lower.plot(b0, of_method.rate[column].log().mean(0).exp(), label=NAMES[method], **style)
        upper.set_title(f"steps {first} to {last}")
        upper.set_ylim(top=2 * top)
        lower.set_xlabel("$b_0$")
    grid[0, 0].set_ylabel(r"loss $\frac{1}{2}\|Xw-y\|^2$")
    grid[1, 0].set_ylabel("effective rate $1/b_t$")
    grid[1, 0].legend()
    figure.suptitle(title)
    return figure


@styled
def draw_lemma_1(found: Crossings, timed: Accuracies) -> Figure:
    """Crossing step against b0 with both bounds (left), and beside the steps to an accuracy (right)."""
    figure, ((left, right),) = panels(11, 4.4, 1, 2)
    for method in ADAPTIVE:
        for place, distance in enumerate(found.distances):
            style = _style(method, _STYLES[place % 4], MARKERS[place % 4])
            left.plot(
                found.multiples, found.steps[method][place].mean(0), label=f"{NAMES[method]}, {distance:g}", **style
            )
        for bound, whose, dashes in ((found.printed, "the paper's", "--"), (found.logarithmic, "our", "-")):
            label = f"{NAMES[method]}, {whose} bound for {found.distances[0]:g}"
            drawn = {"color": _colour(method), "alpha": 0.4, "linewidth": 3, "linestyle": dashes}
            left.plot(found.multiples, bound[method][0].mean(0), label=label, **drawn)
        right.plot(
            timed.targets, timed.steps[method][:, :, 0].mean(1), label=f"{NAMES[method]}: target", **_style(method)
        )
        crossing = timed.crossed[method][:, 0].mean().item()
        right.axhline(crossing, color=_colour(method), linestyle="--", label=f"{NAMES[method]}: crossing")
    left.loglog()
    left.set_ylim(top=left.get_ylim()[1] * 300)  # room for the legend
    left.set_xlabel(r"$b_0$ in units of $\eta\lambda_1/2$")
    left.set_ylabel("step at which b crosses")
    left.set_title(r"Mean crossing step, by $\|w_0-w^*\|$ in units of $\|w^*\|$")
    left.legend(ncols=2, loc="upper left")
    right.set_xscale("log")
    right.invert_xaxis()
    right.set_xlabel(r"target accuracy $\varepsilon$ of $\|w-w^*\|^2$")
    right.set_ylabel("step")
    right.set_title(f"From $b_0$ = {timed.multiples[0]:g} of critical")
    right.legend()
    return figure


@styled
def draw_theorem_1(timed: Accuracies) -> Figure:
    """Steps to accuracy against log(1/eps), from b0 below (dashed) and above (solid) the critical value."""
    figure, grid = panels(11, 4.4, 1, 2)
    digits = -torch.log10(timed.targets)
    for axes, method in zip(grid[0], ADAPTIVE, strict=True):
        for place, multiple in enumerate(timed.multiples.tolist()):
            style = _style(method, "--" if multiple < 1 else "-", MARKERS[place % 4])
            shade = 0.3 + 0.7 * place / max(1, len(timed.multiples) - 1)
            axes.plot(digits, timed.steps[method][:, :, place].mean(1), label=f"{multiple:g}", alpha=shade, **style)
        axes.set_title(f"{NAMES[method]}, by $b_0$ in units of $\\eta\\lambda_1/2$")
        axes.set_xlabel(r"$\log_{10}(1/\varepsilon)$")
        axes.set_ylabel(r"steps to $\|w-w^*\|^2\leq\varepsilon$")
        axes.legend(ncols=2)
    return figure


def _colour(method: Method) -> str:
    return COLOURS[METHODS.index(method)]


def _style(method: Method, line: str = "-", marker: str = "o") -> dict[str, Any]:
    return {"color": _colour(method), "linestyle": line, "marker": marker, "markersize": 3, "linewidth": 1.4}
