"""Accuracy against b0, the paper's beside ours."""

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from recipes.vit_cifar100.comparison import Comparison, Point
from recipes.vit_cifar100.table1 import TITLES, Accuracy

_MARKERS = "osD^vP"
_FOOT = 0.03  # height of the crosses, in units of the axes


def draw(comparison: Comparison) -> Figure:
    """Two panels, each with its own scale: runs on made-up images end elsewhere. Bars are standard deviations."""
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2, sharex=True)
    other = " (not the settings of Table 1)" if comparison.differences else ""
    values = {
        left: ("the paper's" if comparison.paper else "the paper has no such runs", comparison.theirs),
        right: (f"ours, {comparison.results.experiment}{other}", comparison.ours),
    }
    for axes, (title, value) in values.items():
        for index, method in enumerate(comparison.methods):
            _curve(axes, index, method, {b0: value(method, b0) for b0 in comparison.b0s})
        _dress(axes, title, comparison)
    return figure


def _curve(axes: Axes, index: int, method: str, points: dict[float, Point]) -> None:
    colour = f"C{index}"
    known = {b0: point for b0, point in points.items() if isinstance(point, Accuracy)}
    lost = [b0 for b0, point in points.items() if point == "diverged"]
    means = [point.mean for point in known.values()]
    bars = [point.deviation or 0.0 for point in known.values()]
    if known or lost:
        axes.errorbar(
            list(known), means, bars, color=colour, marker=_MARKERS[index % len(_MARKERS)], markersize=5, capsize=3,
            label=TITLES.get(method, method),
        )  # fmt: skip
    # The limits of the axes are not known yet, so crosses stand at a height of the axes.
    axes.plot(lost, [_FOOT] * len(lost), "x", color=colour, markersize=8, transform=axes.get_xaxis_transform())


def _dress(axes: Axes, title: str, comparison: Comparison) -> None:
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(comparison.b0s))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel("$b_0$ (x at the foot: diverged)")
    axes.set_ylabel("test accuracy in %")
    axes.set_title(title)
    axes.grid(axis="y", color="#dddddd")
    axes.margins(y=0.1)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8)
