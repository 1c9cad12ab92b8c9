"""The interactive plots of a report's page, as plotly figures."""

import html
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from adaloss_lightning.tracking.reports.curves import Curve, Curves
from adaloss_lightning.tracking.metrics import as_text, is_share
from adaloss_lightning.tracking.tags import colour_of
from adaloss_lightning.tracking.reports.results import Results
from adaloss_lightning.tracking.reports.style import GREY, Floats, accuracy_ticks, log_helps, log_ticks, shade_of

_Singles = NDArray[np.floating[Any]]

_LARGEST = float(np.finfo(np.float32).max)
_CLOSEST = 0.05  # percent points from 100: an error of 0 has no place on a log axis
_SYMBOLS = ("circle", "square", "diamond", "triangle-down", "triangle-up", "star", "x")
_GRID = "#e6e6e6"
_MOST_TICKS = 5  # of an axis of values: a panel is 180 pixels high
_STRIP = 0.14  # share of the height that the marks of missing points take


def against_b0(results: Results) -> go.Figure:
    """The metric against b0: means over seeds with the range, and below them a mark for every point with a gap."""
    figure = go.Figure()
    share = is_share(results.metric)
    for index, method in reversed(list(enumerate(results.methods))):  # what the user named first lies on top
        _add_row(figure, results, index, method)
    marks = _gap_marks(results)
    for index, mark in marks:
        figure.add_trace(_gap_trace(results, index, mark))
    highest = results.highest_on_axis()
    values = results.values_on_axis()
    is_log = not share and log_helps(values)
    bottom = _STRIP if marks else 0.0
    figure.update_layout(
        _layout(440 + (12 * len({index for index, _ in marks}) if marks else 0)),
        hovermode="closest",
        xaxis=_axis("b0, log axis", type="log") | _b0_ticks(results.b0s),
        yaxis=_value_axis(results.metric, is_log=is_log, values=values) | {"domain": [bottom, 1]},
        legend={"traceorder": "reversed"},
        margin={"l": 70, "r": 10, "t": 34, "b": 50},
    )
    for index, method in enumerate(results.methods):
        for b0, cell in zip(results.b0s, results.row(method), strict=True):
            if cell.mean is not None and cell.mean > highest:
                figure.add_annotation(
                    x=math.log10(b0), y=1, yref="paper", yanchor="top", showarrow=False,
                    text=f"{as_text(cell.mean, results.metric)} ↑", font={"color": colour_of(index)},
                )  # fmt: skip
    scale = " in %, log axis of the error" if share else ", log axis" if is_log else ""
    figure.update_yaxes(title=f"{_text(results.metric)}{scale}")
    if marks:
        figure.update_layout(
            yaxis2={
                "domain": [0, _STRIP - 0.04], "range": [-0.6, len(results.methods) - 0.4], "fixedrange": True,
                "showgrid": False, "zeroline": False, "tickvals": [(len(results.methods) - 1) / 2],
                "ticktext": ["no value"], "tickfont": {"color": GREY},
            }
        )  # fmt: skip
        figure.update_xaxes(anchor="y2")
    return figure


def over_steps(results: Results, curves: Curves, method: str, shown: Sequence[float]) -> go.Figure:
    """The curves of one row: a shade for each b0, of which `shown` are visible at first. Traces carry their b0's index
    as `meta`.
    """
    figure = go.Figure()
    for index, b0 in enumerate(results.b0s):
        curve = curves.by_point.get((method, b0))
        if curve is not None and curve.steps.size:
            shade = shade_of(index, len(results.b0s))
            figure.add_traces(_curve_traces(curve, curves.metric, shade, f"b0 = {b0:g}", index, b0 in shown))
    limits = np.array(curves.limits) / (100 if is_share(curves.metric) else 1)
    last = max(float(one.steps[-1]) for one in curves.by_point.values() if one.steps.size)
    figure.update_layout(
        _layout(230),
        showlegend=False,
        hovermode="closest",
        xaxis=_axis("step", range=[-0.02 * last, 1.02 * last or 1.0], nticks=_MOST_TICKS),
        yaxis=_value_axis(curves.metric, is_log=curves.is_log, values=limits),
        margin={"l": 48, "r": 8, "t": 6, "b": 40},
    )
    return figure


def _add_row(figure: go.Figure, results: Results, index: int, method: str) -> None:
    known = [(b0, cell) for b0, cell in zip(results.b0s, results.row(method), strict=True) if cell.values]
    scale = 100.0 if is_share(results.metric) else 1.0
    b0s = _single(np.array([b0 for b0, _ in known]))
    low, mean, high = (
        _height(results.metric, scale * np.array([fold(cell.values) for _, cell in known], dtype=np.float64))
        for fold in (np.min, np.mean, np.max)
    )
    colour = colour_of(index)
    if any(len(cell.values) > 1 for _, cell in known):
        figure.add_trace(_band(b0s, low, high, colour, legendgroup=str(index)))
    # A line must not cross a b0 without a value: the mean there is a hole.
    holes = np.array([math.nan if not cell.values else 1.0 for cell in results.row(method)])
    heights = np.full(len(holes), np.nan, dtype=np.float32)
    heights[~np.isnan(holes)] = mean
    hover = [
        f"{_text(method)}, b0 = {b0:g}<br>{as_text(cell.mean, results.metric)} (mean of {len(cell.values)})"
        if cell.mean is not None
        else ""
        for b0, cell in zip(results.b0s, results.row(method), strict=True)
    ]
    figure.add_trace(
        go.Scatter(
            x=_single(np.array(results.b0s)), y=heights, name=_text(method), legendgroup=str(index),
            mode="lines+markers", hoverinfo="text", hovertext=hover, line={"color": colour, "width": 2},
            marker={"symbol": _SYMBOLS[(index + index // 7) % 7], "size": 8, "line": {"color": "white", "width": 1}},
        )
    )  # fmt: skip


def _gap_marks(results: Results) -> list[tuple[int, bool]]:
    """Rows that need a mark, of divergence (True) or of another gap."""
    return [
        (index, is_diverged)
        for index, method in enumerate(results.methods)
        for is_diverged in (True, False)
        if any(cell.gaps and cell.has_diverged == is_diverged for cell in results.row(method))
    ]


def _gap_trace(results: Results, index: int, mark: bool) -> go.Scatter:
    method = results.methods[index]
    found = [
        (b0, cell)
        for b0, cell in zip(results.b0s, results.row(method), strict=True)
        if cell.gaps and cell.has_diverged == mark
    ]
    hover = [
        f"{_text(method)}, b0 = {b0:g}<br>"
        + "<br>".join(f"seed {_text(seed)} {gap}" for seed, gap in list(cell.gaps.items())[:12])
        for b0, cell in found
    ]
    return go.Scatter(
        x=[b0 for b0, _ in found], y=[len(results.methods) - 1 - index] * len(found), yaxis="y2", mode="markers",
        showlegend=False, legendgroup=str(index), hoverinfo="text", hovertext=hover, cliponaxis=False,
        marker={"symbol": "x-thin" if mark else "circle-open", "size": 8, "color": colour_of(index),
                "line": {"width": 2, "color": colour_of(index)}},
    )  # fmt: skip


def _curve_traces(curve: Curve, metric: str, shade: str, label: str, meta: int, is_shown: bool) -> list[go.Scatter]:
    steps = curve.steps.astype(np.float32)
    mean, low, high = (_height(metric, values) for values in (curve.mean, curve.low, curve.high))
    traces = [_band(steps, low, high, shade, meta=meta, visible=is_shown)] if curve.seeds > 1 else []
    hover = f"{label}, step %{{x}}<br>%{{customdata:.4~g}}<extra></extra>"
    traces.append(
        go.Scatter(
            x=steps, y=mean, customdata=_single(curve.mean), meta=meta, visible=is_shown,
            mode="markers" if len(steps) == 1 else "lines", hovertemplate=hover,
            line={"color": shade, "width": 1.8, "dash": "dot" if curve.is_diverged else "solid"},
            marker={"color": shade},
        )
    )  # fmt: skip
    if curve.is_diverged:
        traces.append(
            go.Scatter(
                x=steps[-1:], y=mean[-1:], meta=meta, visible=is_shown, mode="markers",
                hovertemplate=f"{label}: diverged<extra></extra>",
                marker={"symbol": "x", "size": 9, "color": shade},
            )
        )  # fmt: skip
    return traces


def _band(x: _Singles, low: _Singles, high: _Singles, colour: str, **keywords: object) -> go.Scatter:
    red, green, blue = (int(colour[place : place + 2], 16) for place in (1, 3, 5))
    return go.Scatter(
        x=np.concatenate([x, x[::-1]]), y=np.concatenate([low, high[::-1]]), fill="toself", mode="lines",
        line={"width": 0, "color": colour}, fillcolor=f"rgba({red},{green},{blue},0.14)", hoverinfo="skip",
        showlegend=False, **keywords,
    )  # fmt: skip


def _height(metric: str, values: Floats) -> _Singles:
    """Where a value stands on its axis: accuracies, in percent, by their error. Single precision is enough to draw."""
    heights = np.maximum(100.0 - values, _CLOSEST) if is_share(metric) else values
    return _single(heights)


def _single(values: Floats) -> _Singles:
    """Numbers that single precision cannot hold as the largest it can: a loss of 1e300 is off the chart anyway."""
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)


def _value_axis(metric: str, *, is_log: bool, values: Sequence[float] | Floats) -> dict[str, object]:
    known = np.asarray(values, dtype=np.float64)
    known = known[np.isfinite(known)]
    if is_share(metric):
        heights = np.maximum(100.0 - 100.0 * known, _CLOSEST) if known.size else np.array([1.0, 100.0])
        low, high = np.log10(heights.min()), np.log10(heights.max())
        room = 0.06 * (high - low) or 0.1
        ticks = accuracy_ticks(*(100.0 - 10.0 ** np.array([high + room, low - room])))
        return _axis("", type="log", range=[high + room, low - room]) | {
            "tickvals": [100.0 - tick for tick in ticks],
            "ticktext": [f"{tick:g}" for tick in ticks],
        }
    if not known.size:
        return _axis("")
    low, high = (np.log10(known.min()), np.log10(known.max())) if is_log else (known.min(), known.max())
    room = 0.06 * (high - low) or abs(high) * 0.1 or 0.1
    axis = _axis("", range=[low - room, high + room])
    if not is_log:
        return axis | {"nticks": _MOST_TICKS}
    labels = log_ticks(10.0 ** (low - room), 10.0 ** (high + room), _MOST_TICKS)
    return axis | {"type": "log", "tickvals": list(labels), "ticktext": list(labels.values())}


def _axis(title: str, **keywords: object) -> dict[str, object]:
    return {
        "title": {"text": title, "standoff": 6}, "gridcolor": _GRID, "zeroline": False, "linecolor": "#999",
        "ticks": "outside", "tickcolor": "#999", **keywords,
    }  # fmt: skip


def _b0_ticks(b0s: Sequence[float]) -> dict[str, object]:
    ticks = {b0: f"{b0:g}" for b0 in b0s} if len(b0s) <= 12 else log_ticks(b0s[0], b0s[-1], 8)
    return {"tickvals": list(ticks), "ticktext": list(ticks.values())}


def _layout(height: int) -> dict[str, object]:
    font = {"family": "system-ui, sans-serif", "size": 12, "color": "#222"}
    return {"template": "none", "height": height, "font": font, "paper_bgcolor": "#fff", "plot_bgcolor": "#fff"}


def _text(text: str) -> str:
    """A user's text, for plotly reads its texts as a kind of HTML."""
    return html.escape("".join(character if character.isprintable() else "?" for character in text))
