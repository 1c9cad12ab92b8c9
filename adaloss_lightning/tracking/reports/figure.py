"""The figure of a sweep: the metric against b0 on a log axis, one curve a method."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from adaloss_lightning.tracking.metrics import as_text, is_share
from adaloss_lightning.tracking.tags import colour_of
from adaloss_lightning.tracking.reports.results import Results
from adaloss_lightning.tracking.reports.style import (
    GREY,
    accuracy_ticks,
    error_axis,
    error_axis_inverse,
    log_helps,
    marker_of,
    plain,
)

_MOST_TICKS = 12  # more values of b0 run into each other: then the axis shows powers of ten
_ROOM = 1.3  # around the values on the axis, where others leave it
_STRIP = -0.17  # height of the strip for gaps, below the tick labels, in units of the axes


@dataclass(frozen=True)
class _Curve:
    method: str
    colour: str
    marker: str
    end: tuple[float, float] | None  # last point that has a value


def draw(results: Results) -> Figure:
    """Draws the curves with the range over seeds, and every diverged or missing point as a mark of its own.

    Accuracies stand on a log axis of the error: it keeps 98 and 99 % apart, and shows a method that collapsed too.
    """
    longest = max(map(len, results.methods), default=0)
    figure = Figure(figsize=(8.4 + 0.09 * max(0, longest - 14), 4.8), layout="constrained")
    axes = figure.add_subplot()
    _dress(axes, results)
    curves = [_draw_curve(axes, results, index) for index in range(len(results.methods))]
    _fit_limits(axes, results)
    _mark_gaps(axes, results, curves)
    _label_ends(axes, curves)
    return figure


def _draw_curve(axes: Axes, results: Results, index: int) -> _Curve:
    method, colour, marker = results.methods[index], colour_of(index), marker_of(index)
    scale = 100.0 if is_share(results.metric) else 1.0
    seeds = [[scale * value for value in cell.values] for cell in results.row(method)]
    mean, low, high = (
        np.array([fold(values) if values else np.nan for values in seeds]) for fold in (np.mean, np.min, np.max)
    )
    axes.fill_between(results.b0s, low, high, color=colour, alpha=0.13, linewidth=0)
    axes.plot(
        results.b0s, mean, color=colour, marker=marker, markersize=6, linewidth=2, label=method,
        markeredgecolor="white", markeredgewidth=0.8,
        zorder=3 + len(results.methods) - index,  # what the user named first lies on top
    )  # fmt: skip
    known = np.flatnonzero(~np.isnan(mean))
    end = (results.b0s[known[-1]], float(mean[known[-1]])) if known.size else None
    return _Curve(method, colour, marker, end)


def _dress(axes: Axes, results: Results) -> None:
    axes.set_xscale("log")
    if len(results.b0s) <= _MOST_TICKS:
        axes.xaxis.set_major_locator(FixedLocator(results.b0s))
        axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_xlabel("$b_0$, log axis", loc="right")
    if is_share(results.metric):
        axes.set_yscale("function", functions=(error_axis, error_axis_inverse))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.set_ylabel(f"{plain(results.metric)} in %, log axis of the error")
    else:
        is_log = log_helps(results.values_on_axis())
        axes.set_yscale("log" if is_log else "linear")
        axes.set_ylabel(plain(results.metric) + (", log axis" if is_log else ""))
    seeds = results.spread_text()
    spread = seeds if seeds == "one seed" else f"mean and range of {seeds}"
    what = f"{plain(results.metric)} against $b_0$, {results.direction.text}"
    title = f"{what} ({plain(results.experiment)}, {spread})"
    axes.set_title(title, loc="left", fontsize=11, wrap=True)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def _fit_limits(axes: Axes, results: Results) -> None:
    """Fixes the limits: from here on marks and labels are placed by them. Every b0 is in, with a value or without."""
    first, last = results.b0s[0], results.b0s[-1]
    room = (last / first) ** 0.03 if last > first else 2.0
    axes.set_xlim(first / room, last * room)
    if any(cell.values for cell in results.cells.values()):
        axes.margins(y=0.06)
        axes.autoscale_view(scalex=False)
        axes.set_ylim(axes.get_ylim())
        if (highest := results.highest_on_axis()) < math.inf:
            values = results.values_on_axis()
            axes.set_ylim(min(values) / _ROOM if min(values) > 0 else min(values), max(values) * _ROOM)
            _mark_leaving(axes, results, highest)
        if is_share(results.metric):
            axes.yaxis.set_major_locator(FixedLocator(accuracy_ticks(*axes.get_ylim())))
    else:
        axes.set_ylim(0, 90 if is_share(results.metric) else 1)


def _mark_leaving(axes: Axes, results: Results, highest: float) -> None:
    """An arrow with the value at the upper edge for each mean that is beyond it."""
    edge = blended_transform_factory(axes.transData, axes.transAxes)
    for index, method in enumerate(results.methods):
        for b0, cell in zip(results.b0s, results.row(method), strict=True):
            if cell.mean is not None and cell.mean > highest:
                label = f"{as_text(cell.mean, results.metric)} $\\uparrow$"
                axes.text(b0, 0.99, label, transform=edge, color=colour_of(index), fontsize=8.5, ha="center", va="top")


def _mark_gaps(axes: Axes, results: Results, curves: Sequence[_Curve]) -> None:
    """A strip under the axis: x for diverged, an open circle for any other gap, in the colour of the method."""
    strip = blended_transform_factory(axes.transData, axes.transAxes)
    inches = axes.get_figure(root=True).dpi_scale_trans  # type: ignore[union-attr]  # these axes have a figure
    kinds = set()
    for b0 in results.b0s:
        gaps = [(curve, results.cells[curve.method, b0].gaps) for curve in curves]
        gaps = [(curve, gap) for curve, gap in gaps if gap]
        for place, (curve, gap) in enumerate(gaps):
            is_diverged = "diverged" in gap.values()
            kinds.add("x diverged" if is_diverged else "o no value")
            aside = ScaledTranslation((place - (len(gaps) - 1) / 2) * 0.14, 0, inches)
            axes.plot(
                [b0], [_STRIP], transform=strip + aside, clip_on=False, marker="x" if is_diverged else "o",
                markersize=7, color=curve.colour, markerfacecolor="none", markeredgewidth=2, label="_gap",
            )  # fmt: skip
    if kinds:
        axes.text(
            -0.015, _STRIP, "\n".join(sorted(kinds)), transform=axes.transAxes,
            ha="right", va="center", fontsize=8.5, color=GREY,
        )  # fmt: skip


def _label_ends(axes: Axes, curves: Sequence[_Curve]) -> None:
    """Names each curve beside its last point, moved apart where curves meet."""
    to_axes = axes.transData + axes.transAxes.inverted()
    wanted = sorted(
        ((float(to_axes.transform(curve.end)[1]) if curve.end else 0.0, curve) for curve in curves),
        key=lambda pair: pair[0],
    )
    for (_, curve), height in zip(wanted, _spread([height for height, _ in wanted], gap=0.065), strict=True):
        line = {"arrowstyle": "-", "color": curve.colour, "alpha": 0.6, "linewidth": 0.9, "relpos": (0, 0.5)}
        axes.annotate(
            plain(curve.method) if curve.end else f"{plain(curve.method)} (no value)",
            curve.end or (1.0, height), xycoords="data" if curve.end else "axes fraction",
            xytext=(1.03, height), textcoords="axes fraction", annotation_clip=False,
            color=curve.colour, va="center", fontsize=10, fontweight="bold", arrowprops=line if curve.end else None,
        )  # fmt: skip


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights at least `gap` apart: clusters are widened around their middle and kept below 1."""
    placed = list(heights)
    for _ in range(50):  # relaxation: neighbours that are too close push each other away by equal parts
        for index in range(1, len(placed)):
            overlap = gap - (placed[index] - placed[index - 1])
            if overlap > 0:
                placed[index - 1] -= overlap / 2
                placed[index] += overlap / 2
    excess = max(0.0, placed[-1] - 1.0) if placed else 0.0
    return [height - excess for height in placed]
