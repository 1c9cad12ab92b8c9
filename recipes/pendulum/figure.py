"""Figure 3: return against frames, one panel for each method, one curve for each b0."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from recipes.pendulum.curves import SWING_UP, Curve

# Okabe and Ito's palette, told apart by colour-blind readers.
_COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def draw(curves: Sequence[Curve]) -> Figure:
    """Draws the mean over seeds and the range from the worst to the best seed."""
    panels = list(dict.fromkeys(curve.panel for curve in curves))
    b0s = sorted({curve.b0 for curve in curves})
    figure = Figure(figsize=(0.6 + 3.2 * len(panels), 3.6), layout="constrained")
    row = figure.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for axes, panel in zip(row, panels, strict=True):
        for index, b0 in enumerate(b0s):
            members = [curve for curve in curves if (curve.panel, curve.b0) == (panel, b0) and not curve.gap]
            _draw_mean(axes, members, f"$b_0$ = {b0:g}", _COLOURS[index % len(_COLOURS)])
        _dress(axes, panel)
    row[0].set_ylabel("mean return of the last 50 episodes")
    entries = {label: line for axes in row for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(
        entries.values(), entries.keys(), loc="outside lower center", ncols=max(1, len(entries)), frameon=False
    )
    return figure


def _draw_mean(axes: Axes, curves: Sequence[Curve], label: str, colour: str) -> None:
    """Draws what all of `curves` have seen: runs of another length are cut to the shortest."""
    by_frame = [dict(zip(curve.frames, curve.returns, strict=True)) for curve in curves]
    frames = sorted(set.intersection(*(set(known) for known in by_frame))) if by_frame else []
    if not frames:
        return
    returns = np.array([[known[frame] for frame in frames] for known in by_frame])
    axes.fill_between(frames, returns.min(axis=0), returns.max(axis=0), color=colour, alpha=0.15, linewidth=0)
    axes.plot(frames, returns.mean(axis=0), color=colour, linewidth=1.8, label=label)


def _dress(axes: Axes, title: str) -> None:
    axes.set_title(title, loc="left", fontsize=11)
    axes.axhline(SWING_UP, color="#888888", linewidth=0.9, linestyle="--", zorder=1)
    axes.set_xlabel("frames, thousands")
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / 1000:g}"))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
