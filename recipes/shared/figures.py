"""The look of the recipes' figures."""

from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure

from adaloss_lightning.tracking.tags import COLOURS as COLOURS

MARKERS = "osD^vP"
styled = rc_context(
    {
        "axes.axisbelow": True,
        "axes.grid": True,
        "axes.spines.right": False,
        "axes.spines.top": False,
        "axes.titlelocation": "left",
        "axes.titlesize": 10,
        "figure.titlesize": 11,
        "grid.color": "#dddddd",
        "grid.linewidth": 0.7,
        "legend.fontsize": 8,
        "legend.frameon": False,
    }
)
"""Decorator of the functions that draw."""


def panels(width: float, height: float, rows: int, columns: int, **shared: Any) -> tuple[Figure, np.ndarray]:
    """A figure of `width` x `height` inches and its axes, `[rows, columns]`; `sharex` and `sharey` as in matplotlib."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **shared)


def shared_legend(figure: Figure, place: Any, columns: int = 1) -> None:
    """One legend for all panels of a figure, each label once; `place` is matplotlib's location."""
    entries = {
        label: line for axes in figure.axes for line, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(list(entries.values()), list(entries), loc=place, ncols=columns)
