"""The page of a report: one HTML file that carries its data, its styles and plotly's script, and loads nothing."""

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from adaloss_lightning.tracking.reports import plots, provenance
from adaloss_lightning.tracking.reports.curves import Curves
from adaloss_lightning.tracking.reports.panels import shade_of, spread_over
from adaloss_lightning.tracking.reports.results import Results
from adaloss_lightning.tracking.reports.tables import Table, printed

_FIRST_SHOWN = 5  # curves of a panel that are visible at first
_FIRST_PANELS = 8  # rows whose panels are visible at first
_FOLDER = Path(__file__).parent


def build_page(results: Results, table: Table, curves: Sequence[Curves]) -> bytes:
    """The whole page.

    Its content security policy keeps browsers from loading anything and from running any script but the two of the
    page, and every name of a run is escaped: none can become a script.
    """
    shown = spread_over(results.b0s, _FIRST_SHOWN)
    drawn = {method for one in curves for method, _ in one.by_point}
    methods = [method for method in results.methods if method in drawn]
    figures = {"against-b0": plots.against_b0(results).to_json()}
    quantities = []
    for number, one in enumerate(curves):
        panels = {row: f"curves-{number}-{row}" for row, method in enumerate(methods) if one.has(method)}
        for row, name in panels.items():
            figures[name] = plots.over_steps(results, one, methods[row], shown).to_json()
        metric = "" if one.metric in one.title else one.metric
        quantities.append({"title": one.heading, "metric": metric, "panels": panels})
    plotly, script = get_plotlyjs(), _FOLDER.joinpath("page.js").read_text()
    page = _environment().get_template("page.html")
    return page.render(
        results=results,
        table=table,
        rows=dict(zip(table.names, table.rows, strict=True)),
        quantities=quantities,
        methods=methods,
        first_panels=_FIRST_PANELS,
        most_seeds=curves[0].most_seeds if curves else None,
        shades={b0: shade_of(index, len(results.b0s)) for index, b0 in enumerate(results.b0s)},
        shown=shown,
        origin=provenance.facts(results),
        params=provenance.params(results),
        policy=Markup(_policy(plotly, script)),
        style=Markup(_FOLDER.joinpath("page.css").read_text()),
        plotly=Markup(plotly),
        script=Markup(script),
        figures=Markup(_json(figures)),
    ).encode()


def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: printed(value) if type(value) is str else value,  # Markup is the page's own
    )


def _policy(*scripts: str) -> str:
    digests = [base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests)
    return f"default-src 'none'; style-src 'unsafe-inline'; img-src data: blob:; script-src {allowed}"


def _json(figures: dict[str, str]) -> str:
    """Figures that are JSON already, as one object; a `<` in it could end the script that holds it."""
    return ("{" + ",".join(f'"{name}":{figure}' for name, figure in figures.items()) + "}").replace("<", "\\u003c")
