"""The figure of sharpness over training: b against its critical value, and the rate against 2 / lambda_max."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_PANELS = (("effective_lr", "critical_lr", "rate"), ("b", "critical_b", "b"), ("lambda_max", "", "sharpness"))


def write_figure(history: Sequence[dict[str, float]], path: Path) -> None:
    """Draw the history of a ``SharpnessCallback``; solid is what a group has, dashed what is critical for it.

    Args:
        history: Entries with ``step`` and values by name.
        path: File, whose suffix is the format. Its folder is made.
    """
    from matplotlib.figure import Figure  # an extra, and slow to import

    names = sorted({name for entry in history for name in entry})
    groups = sorted({_group(name) for name in names if _is(name, "effective_lr")})
    panels = [panel for panel in _PANELS if any(_is(name, panel[0]) for name in names)]
    figure = Figure(figsize=(7, 2.4 * len(panels)), layout="constrained")
    for axes, (own, critical, label) in zip(figure.subplots(len(panels), squeeze=False)[:, 0], panels, strict=True):
        for name in names:
            if _is(name, own) or _is(name, critical):
                points = [(entry["step"], entry[name]) for entry in history if 0 < entry.get(name, 0.0) < math.inf]
                style: dict[str, Any] = {"linestyle": "-" if _is(name, own) else "--", "marker": "."}
                style["color"] = f"C{groups.index(_group(name))}" if _group(name) in groups else "black"
                axes.plot(*zip(*points, strict=True), label=name, **style) if points else None
        axes.set(yscale="log", ylabel=label)
        axes.legend()
    axes.set_xlabel("step")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _is(name: str, quantity: str) -> bool:
    return name.partition("/")[0] == quantity


def _group(name: str) -> str:
    return name.partition("/")[2]
