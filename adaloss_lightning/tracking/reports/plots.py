"""The figures of a report as interactive plots, for its page."""

import html
import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray

from adaloss_lightning.tracking.reports import panels
from adaloss_lightning.tracking.reports.axes import Axis, Floats, error_of
from adaloss_lightning.tracking.reports.curves import Curves
from adaloss_lightning.tracking.reports.panels import GREY, Line, Mark, Panel
from adaloss_lightning.tracking.reports.results import Results
from adaloss_lightning.tracking.reports.tables import printed

_LARGEST = float(np.finfo(np.float32).max)
_SYMBOLS = ("circle", "square", "diamond", "triangle-down", "triangle-up", "star", "x")
_STRIP = 0.14  # share of the height that the marks of missing points take


def against_b0(results: Results) -> go.Figure:
    """The metric against b0: means over seeds with the range, and below them a mark for every point with a gap."""
    panel = panels.against_b0(results)
    figure = go.Figure()
    for line in reversed(panel.lines):  # what the user named first lies on top
        symbol = _SYMBOLS[(line.index + line.index // 7) % 7]
        marker = {"symbol": symbol, "size": 8, "line": {"color": "white", "width": 1}}
        group = {"legendgroup": str(line.index)}
        figure.add_traces(_traces(line, panel.y, group, mode="lines+markers", marker=marker, name=_text(line.label)))
    for _, marks in groupby(sorted(panel.gaps, key=_kind), key=_kind):
        figure.add_trace(_gap_trace(list(marks), len(results.methods)))
    for mark in panel.beyond:
        figure.add_annotation(
            x=math.log10(mark.b0), y=1, yref="paper", yanchor="top", showarrow=False,
            text=f"{mark.text} ↑", font={"color": mark.colour},
        )  # fmt: skip
    height = 440 + 12 * len({mark.row for mark in panel.gaps})
    _lay_out(figure, panel, height, legend={"traceorder": "reversed"}, margin={"l": 70, "r": 10, "t": 34, "b": 50})
    figure.update_yaxes(title=f"{_text(panel.y.title)}{panel.y.scale_text}")
    figure.update_xaxes(title=f"b0{panel.x.scale_text}")
    if panel.gaps:
        middle = (len(results.methods) - 1) / 2
        strip = {"range": [-0.6, 2 * middle + 0.6], "fixedrange": True, "showgrid": False, "zeroline": False}
        strip |= {"tickvals": [middle], "ticktext": ["no value"], "tickfont": {"color": GREY}}
        figure.update_layout(yaxis={"domain": [_STRIP, 1]}, yaxis2=strip | {"domain": [0, _STRIP - 0.04]})
        figure.update_xaxes(anchor="y2")
    return figure


def over_steps(results: Results, curves: Curves, method: str, shown: Sequence[float]) -> go.Figure:
    """The curves of one row: a shade for each b0, of which `shown` are visible at first. Traces carry their b0's index
    as `meta`.
    """
    panel = panels.over_steps(results, curves, method, results.b0s)
    figure = go.Figure()
    for line in panel.lines:
        group = {"meta": line.index, "visible": results.b0s[line.index] in shown}
        mode = "markers" if len(line.x) == 1 else "lines"
        figure.add_traces(_traces(line, panel.y, group, mode=mode, marker={"color": line.colour}))
    _lay_out(figure, panel, 230, showlegend=False, margin={"l": 48, "r": 8, "t": 6, "b": 40})
    return figure


def _traces(line: Line, axis: Axis, group: Mapping[str, object], **style: object) -> list[go.Scatter]:
    x, (mean, low, high) = _single(line.x), (_single(_height(axis, one)) for one in (line.mean, line.low, line.high))
    traces = []
    if line.has_range:
        known = ~np.isnan(mean)  # a band must not cross a b0 without a value
        red, green, blue = (int(line.colour[place : place + 2], 16) for place in (1, 3, 5))
        traces.append(
            go.Scatter(
                x=np.concatenate([x[known], x[known][::-1]]), y=np.concatenate([low[known], high[known][::-1]]),
                fill="toself", mode="lines", line={"width": 0, "color": line.colour}, hoverinfo="skip",
                fillcolor=f"rgba({red},{green},{blue},0.14)", showlegend=False, **group,
            )
        )  # fmt: skip
    if line.notes is None:
        note = f"{line.label}, step %{{x}}<br>%{{customdata:.4~g}}<extra></extra>"
        hover = {"customdata": _single(line.mean), "hovertemplate": note}
    else:
        hover = {"hoverinfo": "text", "hovertext": list(map(_text, line.notes))}
    stroke = {"color": line.colour, "width": 2, "dash": "dot" if line.is_diverged else "solid"}
    traces.append(go.Scatter(x=x, y=mean, line=stroke, **hover, **group, **style))
    if line.is_diverged:
        cross = {"symbol": "x", "size": 9, "color": line.colour}
        note = f"{line.label}: diverged<extra></extra>"
        traces.append(go.Scatter(x=x[-1:], y=mean[-1:], mode="markers", hovertemplate=note, marker=cross, **group))
    return traces


def _kind(mark: Mark) -> tuple[int, bool]:
    return mark.row, mark.is_diverged


def _gap_trace(marks: Sequence[Mark], rows: int) -> go.Scatter:
    """Gaps of one row that look the same."""
    first = marks[0]
    symbol = "x-thin" if first.is_diverged else "circle-open"
    return go.Scatter(
        x=[mark.b0 for mark in marks], y=[rows - 1 - first.row] * len(marks), yaxis="y2", mode="markers",
        showlegend=False, legendgroup=str(first.row), hoverinfo="text", cliponaxis=False,
        hovertext=[_text(mark.text) for mark in marks],
        marker={"symbol": symbol, "size": 8, "color": first.colour, "line": {"width": 2, "color": first.colour}},
    )  # fmt: skip


def _lay_out(figure: go.Figure, panel: Panel, height: int, **more: object) -> None:
    font = {"family": "system-ui, sans-serif", "size": 12, "color": "#222"}
    x, y = _axis(panel.x), _axis(panel.y)
    x["title"] = {"text": panel.x.title, "standoff": 6}
    figure.update_layout(
        template="none", height=height, font=font, paper_bgcolor="#fff", plot_bgcolor="#fff", hovermode="closest",
        xaxis=x, yaxis=y, **more,
    )  # fmt: skip


def _axis(axis: Axis) -> dict[str, object]:
    ends = np.array(axis.limits) if axis.scale == "linear" else np.log10(_height(axis, np.array(axis.limits)))
    settings: dict[str, object] = {
        "type": "linear" if axis.scale == "linear" else "log", "range": ends.tolist(), "nticks": 5,
        "gridcolor": "#e6e6e6", "zeroline": False, "linecolor": "#999", "ticks": "outside", "tickcolor": "#999",
    }  # fmt: skip
    if axis.ticks is not None:
        places = _height(axis, np.array(list(axis.ticks)))
        settings |= {"tickvals": places.tolist(), "ticktext": list(axis.ticks.values())}
    return settings


def _height(axis: Axis, values: Floats) -> Floats:
    """Where a value stands on its axis: percentages by their error, which grows downwards."""
    return error_of(values) if axis.scale == "error" else values


def _single(values: Floats) -> NDArray[np.floating[Any]]:
    """Numbers in single precision, enough to draw; what it cannot hold as the largest it can."""
    return np.clip(values, -_LARGEST, _LARGEST).astype(np.float32)


def _text(text: str) -> str:
    """A user's text, as plotly reads its texts as a kind of HTML."""
    return "<br>".join(html.escape(printed(line)) for line in text.split("\n"))
