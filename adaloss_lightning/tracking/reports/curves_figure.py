"""The figure of the curves over steps: a row of panels for each method, a column for each quantity, a shade for b0."""

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, FuncFormatter, MaxNLocator, NullLocator

from adaloss_lightning.tracking.reports.curves import Curve, Curves
from adaloss_lightning.tracking.metrics import is_share
from adaloss_lightning.tracking.reports.results import Results
from adaloss_lightning.tracking.reports.style import (
    GREY,
    accuracy_ticks,
    error_axis,
    error_axis_inverse,
    log_ticks,
    plain,
    shade_of,
)

_MOST_B0S = 7  # curves in a panel that can still be told apart
_MOST_ROWS = 40


def draw_curves(results: Results, curves: Sequence[Curves]) -> Figure:
    """Draws means over seeds with the range from the lowest to the highest seed. All panels of a column share axes.

    Of many b0 some are drawn, evenly spread from the smallest to the largest; the title says so.
    """
    drawn = {method for one in curves for method, _ in one.by_point}
    methods = [method for method in results.methods if method in drawn]
    rows = methods[:_MOST_ROWS]
    b0s = spread_over(results.b0s, _MOST_B0S)
    width, height = 2.9 * len(curves) + 1.7, 1.9 * len(rows) + 1.4
    figure = Figure(figsize=(width, height))
    # Set by hand: matplotlib's own layout takes seconds for this many panels.
    figure.subplots_adjust(
        left=0.55 / width, right=1 - 1.15 / width, bottom=0.55 / height, top=1 - 0.95 / height, wspace=0.24, hspace=0.3
    )
    panels = figure.subplots(len(rows), len(curves), sharex="col", sharey="col", squeeze=False)
    for column, one in enumerate(curves):
        for row, method in enumerate(rows):
            axes = panels[row, column]
            _dress(axes, one)
            for b0 in b0s:
                if (method, b0) in one.by_point:
                    shade = shade_of(results.b0s.index(b0), len(results.b0s))
                    _draw_curve(axes, one.by_point[method, b0], shade)
        panels[0, column].set_title(_heading(one), fontsize=9, loc="left", pad=20)
        panels[0, column].set_ylim(_roomy(one))
        panels[-1, column].set_xlabel("step", fontsize=9)
    for row, method in enumerate(rows):
        panels[row, 0].annotate(
            plain(method), (0, 1), (-30, 5), "axes fraction", "offset points",
            fontsize=9.5, fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    figure.text(0.1 / width, 1 - 0.1 / height, _title(results, curves, b0s, methods), fontsize=9, color=GREY, va="top")
    corner = (1 - 0.05 / width, 1 - 0.87 / height)
    figure.legend(
        handles=_legend(results, curves, b0s), loc="upper right", bbox_to_anchor=corner, frameon=False, fontsize=8.5
    )
    return figure


def spread_over(values: Sequence[float], count: int) -> list[float]:
    """At most `count` of the values, from the first to the last, evenly spread."""
    if len(values) <= count:
        return list(values)
    return [values[index] for index in np.linspace(0, len(values) - 1, count).round().astype(int)]


def _draw_curve(axes: Axes, curve: Curve, shade: str) -> None:
    if not curve.steps.size:
        return
    axes.fill_between(curve.steps, curve.low, curve.high, color=shade, alpha=0.15, linewidth=0)
    axes.plot(
        curve.steps, curve.mean, color=shade, linewidth=1.4, linestyle=":" if curve.is_diverged else "-",
        marker="o" if len(curve.steps) == 1 else None, markersize=4,
    )  # fmt: skip
    if curve.is_diverged:
        axes.plot(curve.steps[-1:], curve.mean[-1:], color=shade, marker="x", markersize=7, markeredgewidth=2)


def _dress(axes: Axes, curves: Curves) -> None:
    if is_share(curves.metric):
        axes.set_yscale("function", functions=(error_axis, error_axis_inverse))
        axes.yaxis.set_major_locator(FixedLocator(accuracy_ticks(*_roomy(curves))))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_locator(NullLocator())
    elif curves.is_log:
        axes.set_yscale("log")
        labels = {
            tick: re.sub("<sup>(.*)</sup>", r"$^{\1}$", text) for tick, text in log_ticks(*_roomy(curves)).items()
        }
        axes.yaxis.set_major_locator(FixedLocator(list(labels)))
        axes.yaxis.set_major_formatter(FixedFormatter(list(labels.values())))
        axes.yaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
    axes.tick_params(labelsize=8)
    axes.grid(color="#e4e4e4", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _roomy(curves: Curves) -> tuple[float, float]:
    """The limits with a little room."""
    low, high = curves.limits
    if is_share(curves.metric):
        ends = error_axis(np.array([low, high]))
        room = 0.06 * (ends[1] - ends[0]) or 0.1
        below, above = error_axis_inverse(np.array([ends[0] - room, ends[1] + room]))
        return float(below), float(above)
    if curves.is_log:
        room = (high / low) ** 0.06
        return low / room, high * room
    room = 0.06 * (high - low) or 0.1 * abs(high) or 0.1
    return low - room, high + room


def _heading(curves: Curves) -> str:
    axis = ", log error axis" if is_share(curves.metric) else ", log axis" if curves.is_log else ""
    return plain(f"{curves.title}{axis}") + ("" if curves.metric in curves.title else f"\n{plain(curves.metric)}")


def _title(results: Results, curves: Sequence[Curves], b0s: Sequence[float], methods: Sequence[str]) -> str:
    parts = [f"{plain(results.experiment)}: mean and range over seeds"]
    limit = curves[0].most_seeds
    if limit is not None:
        parts.append(f"{limit} of {len(results.seeds)} seeds are drawn")
    if len(b0s) < len(results.b0s):
        parts.append(f"{len(b0s)} of {len(results.b0s)} $b_0$ are drawn")
    if len(methods) > _MOST_ROWS:
        parts.append(f"{_MOST_ROWS} of {len(methods)} rows are drawn")
    return "; ".join(parts)


def _legend(results: Results, curves: Sequence[Curves], b0s: Sequence[float]) -> list[Line2D]:
    count = len(results.b0s)
    lines = [
        Line2D([], [], color=shade_of(results.b0s.index(b0), count), linewidth=2, label=f"$b_0$ = {b0:g}") for b0 in b0s
    ]
    if any(curve.is_diverged for one in curves for curve in one.by_point.values()):
        lines.append(Line2D([], [], color=GREY, linestyle=":", marker="x", markersize=7, label="diverged"))
    return lines
