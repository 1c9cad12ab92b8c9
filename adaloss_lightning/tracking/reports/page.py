"""The page of a report: one HTML file that carries its data, its styles and plotly's script, and loads nothing."""

import base64
import hashlib
import html
from collections.abc import Sequence

from plotly.offline import get_plotlyjs

from adaloss_lightning.tracking.reports import plots, provenance
from adaloss_lightning.tracking.reports.curves import Curves
from adaloss_lightning.tracking.reports.curves_figure import spread_over
from adaloss_lightning.tracking.reports.page_assets import SCRIPT, STYLE
from adaloss_lightning.tracking.reports.results import Results
from adaloss_lightning.tracking.reports.style import shade_of
from adaloss_lightning.tracking.reports.tables import Entry, Table

_FIRST_SHOWN = 5  # curves of a panel that are visible at first
_FIRST_PANELS = 8  # rows whose panels are visible at first


def build_page(results: Results, table: Table, curves: Sequence[Curves]) -> bytes:
    """The whole page. Its content security policy keeps browsers from loading anything and from running any script
    but the two of the page, so that no name of a run can become one.
    """
    figures = {"against-b0": plots.against_b0(results).to_json()}
    sections = [_table_section(table), _against_section(results), *_curve_sections(results, curves, figures)]
    sections += [_gaps_section(table), _origin_section(results)]
    data = "{" + ",".join(f'"{name}":{figure}' for name, figure in figures.items()) + "}"
    plotly = get_plotlyjs()
    title = f"Robustness over b0: {_text(results.experiment)}"
    return _PAGE.format(
        title=title,
        policy=f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; "
        f"script-src {_digest(plotly)} {_digest(SCRIPT)}",
        style=STYLE,
        lead=_text(table.caption),
        sections="\n".join(sections),
        data=data.replace("<", "\\u003c"),
        plotly=plotly,
        script=SCRIPT,
    ).encode()


_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
<header><h1>{title}</h1><p>{lead}</p></header>
<main>
<noscript><p class="warning">The plots need JavaScript; the tables do not.</p></noscript>
{sections}
</main>
<script type="application/json" id="figures">{data}</script>
<script>{plotly}</script>
<script>{script}</script>
</body>
</html>
"""


def _table_section(table: Table) -> str:
    head = "".join(f'<th scope="col">{_name(name)}</th>' for name in table.head)
    rows = "\n".join(
        f'<tr><th scope="row">{_name(name)}</th>{"".join(map(_field, row))}</tr>'
        for name, row in zip(table.names, table.rows, strict=True)
    )
    notes = "".join(f'<p class="note">{_text(note)}</p>' for note in [*table.notes, "Bold: best of its kind."])
    body = (
        f'<div class="scroll"><table class="results"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>'
    )
    return _section("table", "Robustness", body + notes)


def _against_section(results: Results) -> str:
    note = (
        f"Mean over seeds; the band is the range from the lowest to the highest seed ({results.spread_text()} a point)."
        " Marks below the axis: x, a seed diverged; o, a seed has no value for another reason. A value with an arrow "
        "is off the axis. Hover for the seeds; click the legend to hide a row, double-click to see it alone."
    )
    plot = '<div class="plot" data-figure="against-b0"></div>'
    title = f"{results.metric} against b0, {results.direction.text}"
    return _section("b0", title, f'{plot}<p class="note">{note}</p>')


def _curve_sections(results: Results, curves: Sequence[Curves], figures: dict[str, str]) -> list[str]:
    if not curves:
        return [_section("curves", "Curves over steps", "<p>No run has a history of loss, accuracy or b.</p>")]
    methods = [
        (index, method)
        for index, method in enumerate(results.methods)
        if any((method, b0) in one.by_point for one in curves for b0 in results.b0s)
    ]
    shown = spread_over(results.b0s, _FIRST_SHOWN)
    parts = [_controls(results, curves, methods, shown)]
    for number, one in enumerate(curves):
        panels = []
        for place, (index, method) in enumerate(methods):
            if not any((method, b0) in one.by_point for b0 in results.b0s):
                continue
            figures[name := f"curves-{number}-{index}"] = plots.over_steps(results, one, method, shown).to_json()
            hidden = "" if place < _FIRST_PANELS else " hidden"
            panels.append(
                f'<figure class="panel" data-row="{index}"{hidden}><figcaption>{_text(method)}</figcaption>'
                f'<div class="plot" data-figure="{name}"></div></figure>'
            )
        scale = ", log axis" if one.is_log else ", log axis of the error" if one.title.endswith(" in %") else ""
        name = "" if one.metric in one.title else f" <small>{_text(one.metric)}</small>"
        parts.append(f'<h3>{_text(one.title)}{scale}{name}</h3><div class="panels">{"".join(panels)}</div>')
    return [_section("curves", "Curves over steps", "\n".join(parts))]


def _controls(
    results: Results, curves: Sequence[Curves], methods: Sequence[tuple[int, str]], shown: Sequence[float]
) -> str:
    b0s = "".join(
        f'<label><input type="checkbox" data-b0="{index}"{" checked" if b0 in shown else ""}>'
        f'<i style="background:{shade_of(index, len(results.b0s))}"></i>{b0:g}</label>'
        for index, b0 in enumerate(results.b0s)
    )
    rows = "".join(
        f'<label><input type="checkbox" data-row="{index}"{" checked" if place < _FIRST_PANELS else ""}>'
        f"{_text(method)}</label>"
        for place, (index, method) in enumerate(methods)
    )
    limit = curves[0].most_seeds
    part = f", of each point the first {limit} of its {len(results.seeds)}" if limit else ""
    everything = '<button type="button" data-all="{0}">all</button><button type="button" data-none="{0}">none</button>'
    return (
        f'<p class="note">Mean and range over seeds{part}; a step is averaged over the seeds that reached it. Runs '
        f"without a value of {_text(results.metric)} are left out, but where every seed of a point diverged its curve "
        "is dotted and ends in an x. Such points, and those whose loss stays above ten times what the others start at, "
        'set no scale: their curves may leave the axes.</p><div class="controls">'
        f"<fieldset><legend>b0</legend>{b0s}{everything.format('b0')}</fieldset>"
        f"<fieldset><legend>rows</legend>{rows}{everything.format('row')}</fieldset></div>"
    )


def _gaps_section(table: Table) -> str:
    if not table.gaps:
        return _section("gaps", "Missing points", "<p>None: every point has a value for every seed.</p>")
    items = "".join(f"<li>{_text(gap)}</li>" for gap in table.gaps)
    points = f"{len(table.gaps)} point{'s have' if len(table.gaps) > 1 else ' has'} fewer values than seeds."
    return _section("gaps", "Missing points", f'<p>{points}</p><ul class="gaps">{items}</ul>')


def _origin_section(results: Results) -> str:
    rows, params = (
        "".join(f"<tr><th scope='row'>{_text(name)}</th><td>{_text(value)}</td></tr>" for name, value in pairs)
        for pairs in (provenance.facts(results), provenance.params(results))
    )
    details = f'<details><summary>Params of the runs</summary><table class="facts">{params}</table></details>'
    return _section("origin", "What was run", f'<table class="facts">{rows}</table>{details if params else ""}')


def _section(name: str, title: str, body: str) -> str:
    return f'<section id="{name}"><h2>{_text(title)}</h2>{body}</section>'


def _field(entry: Entry) -> str:
    kind = " class=best" if entry.is_best else " class=diverged" if entry.text == "diverged" else ""
    deviation = f" <small>± {_text(entry.deviation)}</small>" if entry.deviation else ""
    note = f" <small>{_text(entry.note)}</small>" if entry.note else ""
    return f"<td{kind}>{_text(entry.text)}{deviation}{note}</td>"


def _name(name: str) -> str:
    b0 = name.removeprefix("b0=")
    return _text(name) if b0 == name else f'<span class="b0"><i>b</i><sub>0</sub> = {_text(b0)}</span>'


def _text(text: str) -> str:
    return html.escape("".join(character if character.isprintable() else "?" for character in text))


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
