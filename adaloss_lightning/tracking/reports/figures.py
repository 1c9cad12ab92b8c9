"""The figures of a report as pictures: the metric against b0, and the curves over steps."""

import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedFormatter, FixedLocator, MaxNLocator, NullLocator
from matplotlib.transforms import ScaledTranslation, blended_transform_factory

from adaloss_lightning.tracking.reports.axes import Axis, error_axis, error_axis_inverse
from adaloss_lightning.tracking.reports.curves import Curves
from adaloss_lightning.tracking.reports.panels import (
    GREY,
    Line,
    Panel,
    against_b0,
    over_steps,
    shade_of,
    spread_over,
)
from adaloss_lightning.tracking.reports.results import Results
from adaloss_lightning.tracking.reports.tables import printed
from adaloss_lightning.tracking.tags import COLOURS

_MARKERS = "osD^vPX"
# In inches:
_WIDTH, _HEIGHT = 8.4, 4.8
_AROUND = 1.1  # of the height, what title, tick labels and the name of the axis take
_STRIP = 0.63  # from the axes down to the strip for gaps, below the tick labels
_MARK = 0.14  # from the mark of a gap to the next
_LABEL = 0.24  # from the name of a line to the next
_MOST_B0S = 7  # curves in a panel that can still be told apart
_MOST_ROWS = 40
_MOST_MARKS = 7  # beside each other at one b0


def draw(results: Results) -> Figure:
    """Draws the means against b0 with the range over seeds, and every diverged or missing point as a mark.

    The figure is as high as the names of its lines and the marks need; of very many rows the first are drawn.
    """
    panel = against_b0(results).first(_MOST_ROWS)
    longest = max((len(line.label) for line in panel.lines), default=0)
    height = max(_HEIGHT, _AROUND + _LABEL * len(panel.lines))
    marks = _places_of_marks(panel)
    lines_of_marks = 1 + max((line for _, line in marks), default=0)
    size = (_WIDTH + 0.09 * max(0, longest - 14), height + _MARK * (lines_of_marks - 1))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    _dress(axes, panel)
    axes.set_xlabel("$b_0$, log axis", loc="right")
    axes.set_ylabel(_plain(panel.y.title) + panel.y.scale_text)
    seeds = results.spread_text()
    spread = seeds if seeds == "one seed" else f"mean and range of {seeds}"
    what = f"{_plain(results.metric)} against $b_0$, {results.direction.text}"
    shown = _rows_text(len(results.methods))
    title = f"{what} ({_plain(results.experiment)}, {spread}{f'; {shown}' if shown else ''})"
    axes.set_title(title, loc="left", fontsize=11, wrap=True)
    for line in panel.lines:
        mark = _MARKERS[(line.index + line.index // len(COLOURS)) % len(_MARKERS)]  # another one where colours repeat
        _draw_line(
            axes, line, marker=mark, markersize=6, linewidth=2, markeredgecolor="white", markeredgewidth=0.8,
            zorder=3 + len(panel.lines) - line.index,  # what the user named first lies on top
        )  # fmt: skip
    _mark_gaps(axes, panel, marks)
    _label_ends(axes, panel.lines, _LABEL / (height - _AROUND))
    return figure


def draw_curves(results: Results, curves: Sequence[Curves]) -> Figure:
    """Draws a row of panels for each method, a column for each quantity, a shade for each b0.

    Of many b0 some are drawn, evenly spread from the smallest to the largest; the title says so.
    """
    drawn = {method for one in curves for method, _ in one.by_point}
    methods = [method for method in results.methods if method in drawn]
    rows, b0s = methods[:_MOST_ROWS], spread_over(results.b0s, _MOST_B0S)
    width, height = 2.9 * len(curves) + 1.7, 1.9 * len(rows) + 1.4
    figure = Figure(figsize=(width, height))
    # Set by hand: matplotlib's own layout takes seconds for this many panels.
    figure.subplots_adjust(
        left=0.55 / width, right=1 - 1.15 / width, bottom=0.55 / height, top=1 - 0.95 / height, wspace=0.24, hspace=0.3
    )
    grid = figure.subplots(len(rows), len(curves), sharex="col", sharey="col", squeeze=False)
    for column, one in enumerate(curves):
        for axes, method in zip(grid[:, column], rows, strict=True):
            panel = over_steps(results, one, method, b0s)
            _dress(axes, panel)
            axes.grid(axis="x", color="#dddddd", linewidth=0.8)
            axes.tick_params(labelsize=8)
            for line in panel.lines:
                _draw_line(axes, line, linewidth=1.4, markersize=4, marker="o" if len(line.x) == 1 else None)
        name = "" if one.metric in one.title else f"\n{_plain(one.metric)}"
        grid[0, column].set_title(_plain(one.heading) + name, fontsize=9, loc="left", pad=20)
        grid[-1, column].set_xlabel("step", fontsize=9)
    for axes, method in zip(grid[:, 0], rows, strict=True):
        axes.annotate(
            _plain(method), (0, 1), (-30, 5), "axes fraction", "offset points",
            fontsize=9.5, fontweight="bold", annotation_clip=False,
        )  # fmt: skip
    title = _curves_title(results, curves[0].most_seeds, len(b0s), len(methods))
    figure.text(0.1 / width, 1 - 0.1 / height, title, fontsize=9, color=GREY, va="top")
    corner = (1 - 0.05 / width, 1 - 0.87 / height)
    handles = _legend(results, curves, b0s)
    figure.legend(handles=handles, loc="upper right", bbox_to_anchor=corner, frameon=False, fontsize=8.5)
    return figure


def _dress(axes: Axes, panel: Panel) -> None:
    _set_axis(axes, "x", panel.x)
    _set_axis(axes, "y", panel.y)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _set_axis(axes: Axes, side: str, axis: Axis) -> None:
    ticks = getattr(axes, f"{side}axis")
    if axis.scale == "error":
        getattr(axes, f"set_{side}scale")("function", functions=(error_axis, error_axis_inverse))
    else:
        getattr(axes, f"set_{side}scale")(axis.scale)
    if axis.ticks is not None:
        labels = [re.sub("<sup>(.*)</sup>", r"$^{\1}$", label) for label in axis.ticks.values()]
        ticks.set_major_locator(FixedLocator(list(axis.ticks)))
        ticks.set_major_formatter(FixedFormatter(labels))
        ticks.set_minor_locator(NullLocator())
    elif side == "x":
        ticks.set_major_locator(MaxNLocator(4, integer=True))
    getattr(axes, f"set_{side}lim")(axis.limits)


def _draw_line(axes: Axes, line: Line, **style: Any) -> None:
    axes.fill_between(line.x, line.low, line.high, color=line.colour, alpha=0.14, linewidth=0)
    dash = ":" if line.is_diverged else "-"
    axes.plot(line.x, line.mean, color=line.colour, label=line.label, linestyle=dash, **style)
    if line.is_diverged:
        axes.plot(line.x[-1:], line.mean[-1:], color=line.colour, marker="x", markersize=7, markeredgewidth=2)


def _places_of_marks(panel: Panel) -> list[tuple[float, int]]:
    """Place of each gap's mark: how far from its b0, in marks, and in which line under the first, as far as b0 are."""
    b0s = np.log10(panel.lines[0].x) if panel.lines else np.zeros(1)
    closest = np.diff(b0s).min() / np.ptp(b0s) if len(b0s) > 1 else 1.0
    across = int(np.clip(0.7 * _WIDTH * closest / _MARK, 1, _MOST_MARKS))
    places = []
    for gap in panel.gaps:
        beside = [other for other in panel.gaps if other.b0 == gap.b0]
        line, place = divmod(beside.index(gap), across)
        of_line = min(across, len(beside) - line * across)
        places.append((place - (of_line - 1) / 2, line))
    return places


def _mark_gaps(axes: Axes, panel: Panel, places: Sequence[tuple[float, int]]) -> None:
    """Marks gaps in a strip under the axis, x for diverged and o for others, and values beyond the upper edge."""
    edge = blended_transform_factory(axes.transData, axes.transAxes)
    inches = axes.get_figure(root=True).dpi_scale_trans  # type: ignore[union-attr]  # these axes have a figure
    first = panel.lines[0].x[0] if panel.lines else 1.0
    reach = 0.0  # of the marks of the first b0 to its left
    for gap, (aside, line) in zip(panel.gaps, places, strict=True):
        move = ScaledTranslation(_MARK * aside, -_STRIP - _MARK * line, inches)
        axes.plot(
            [gap.b0], [0.0], transform=edge + move, clip_on=False, marker="x" if gap.is_diverged else "o",
            markersize=7, color=gap.colour, markerfacecolor="none", markeredgewidth=2, label="_gap",
        )  # fmt: skip
        reach = max(reach, -_MARK * aside) if gap.b0 == first else reach
    if kinds := {"x diverged" if gap.is_diverged else "o no value" for gap in panel.gaps}:
        axes.text(
            first, 0.0, "\n".join(sorted(kinds)), transform=edge + ScaledTranslation(-reach - 0.25, -_STRIP, inches),
            ha="right", va="center", fontsize=8.5, color=GREY,
        )  # fmt: skip
    for mark in panel.beyond:
        text = f"{mark.text} $\\uparrow$"
        axes.text(mark.b0, 0.99, text, transform=edge, color=mark.colour, fontsize=8.5, ha="center", va="top")


def _label_ends(axes: Axes, lines: Sequence[Line], gap: float) -> None:
    """Names each line beside its last point, moved apart where lines meet."""
    to_axes = axes.transData + axes.transAxes.inverted()
    ends = []
    for line in lines:
        known = np.flatnonzero(~np.isnan(line.mean))
        end = (line.x[known[-1]], line.mean[known[-1]]) if known.size else None
        ends.append((float(to_axes.transform(end)[1]) if end else 0.0, end, line))
    ends.sort(key=lambda one: one[0])
    for (_, end, line), height in zip(ends, _spread([height for height, _, _ in ends], gap), strict=True):
        arrow = {"arrowstyle": "-", "color": line.colour, "alpha": 0.6, "linewidth": 0.9, "relpos": (0, 0.5)}
        axes.annotate(
            _plain(line.label) if end else f"{_plain(line.label)} (no value)",
            end or (1.0, height), xycoords="data" if end else "axes fraction",
            xytext=(1.03, height), textcoords="axes fraction", annotation_clip=False,
            color=line.colour, va="center", fontsize=10, fontweight="bold", arrowprops=arrow if end else None,
        )  # fmt: skip


def _spread(heights: Sequence[float], gap: float) -> list[float]:
    """Ascending heights at least `gap` apart, from 0 to 1: clusters are widened around their middle."""
    clusters: list[tuple[float, int]] = []  # mean of height - index * gap, which must not fall, and size
    for index, height in enumerate(heights):
        mean, size = height - index * gap, 1
        while clusters and clusters[-1][0] > mean:
            other, count = clusters.pop()
            mean, size = (mean * size + other * count) / (size + count), size + count
        clusters.append((mean, size))
    highest = 1 - (len(heights) - 1) * gap
    flat = [max(0.0, min(mean, highest)) for mean, size in clusters for _ in range(size)]
    return [mean + index * gap for index, mean in enumerate(flat)]


def _curves_title(results: Results, most_seeds: int | None, b0s: int, rows: int) -> str:
    parts = [f"{_plain(results.experiment)}: mean and range over seeds"]
    if most_seeds is not None:
        parts.append(f"{most_seeds} of {len(results.seeds)} seeds are drawn")
    if b0s < len(results.b0s):
        parts.append(f"{b0s} of {len(results.b0s)} $b_0$ are drawn")
    if shown := _rows_text(rows):
        parts.append(shown)
    return "; ".join(parts)


def _rows_text(rows: int) -> str:
    return f"{_MOST_ROWS} of {rows} rows are drawn" if rows > _MOST_ROWS else ""


def _legend(results: Results, curves: Sequence[Curves], b0s: Sequence[float]) -> list[Line2D]:
    shades = {b0: shade_of(results.b0s.index(b0), len(results.b0s)) for b0 in b0s}
    lines = [Line2D([], [], color=shade, linewidth=2, label=f"$b_0$ = {b0:g}") for b0, shade in shades.items()]
    if any(curve.is_diverged for one in curves for curve in one.by_point.values()):
        lines.append(Line2D([], [], color=GREY, linestyle=":", marker="x", markersize=7, label="diverged"))
    return lines


def _plain(text: str) -> str:
    """A user's text as matplotlib shows it letter by letter: a dollar sign would start a formula."""
    return printed(text).replace("$", r"\$")
