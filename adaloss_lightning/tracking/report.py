"""`adaloss report`: the table and the figure of a sweep, as text, Markdown and PNG."""

from pathlib import Path

from adaloss_lightning.tracking.errors import StoreError
from adaloss_lightning.tracking.results import Cell, Results, is_share

TABLE_FILE, FIGURE_FILE = "report.md", "report.png"


def text_table(results: Results) -> str:
    """The table for a terminal: aligned columns, then what is missing."""
    rows = [["method", *(f"b0={b0:g}" for b0 in results.b0s), "worst", "best"], *_rows(results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    rule = "-" * len(lines[0])
    return "\n".join([_caption(results), "", lines[0], rule, *lines[1:], *_notes(results)])


def markdown_table(results: Results) -> str:
    """The same table in Markdown."""
    head = ["method", *(f"b0 = {b0:g}" for b0 in results.b0s), "worst", "best"]
    rule = ["---", *("---:" for _ in head[1:])]
    lines = ["| " + " | ".join(row) + " |" for row in (head, rule, *_rows(results))]
    notes = [f"- {note}" if note else "" for note in _notes(results)]
    return "\n".join([_caption(results), "", *lines, *notes]) + "\n"


def write_report(results: Results, folder: Path) -> list[Path]:
    """Writes `report.md` and `report.png` into `folder`, which is made where it does not exist.

    Raises:
        StoreError: The folder cannot be written.
    """
    from adaloss_lightning.tracking.figure import draw

    table, picture = folder / TABLE_FILE, folder / FIGURE_FILE
    try:
        folder.mkdir(parents=True, exist_ok=True)
        table.write_text(markdown_table(results) + f"\n![{results.metric} against b0]({FIGURE_FILE})\n")
        draw(results).savefig(picture, dpi=160)
    except OSError as error:
        raise StoreError(f"Cannot write the report to {folder}: {error}. Choose another folder with --out.") from error
    return [table, picture]


def _caption(results: Results) -> str:
    unit = " in %" if is_share(results.metric) else ""
    spread = f", mean ± standard deviation over {len(results.seeds)} seeds" if len(results.seeds) > 1 else ""
    return f"Experiment {results.experiment}: {results.metric}{unit}{spread}"


def _rows(results: Results) -> list[list[str]]:
    rows = []
    for method in results.methods:
        cells = results.row(method)
        worst, best = results.worst_and_best(method)
        worst_text = _value(worst, results.metric)
        if worst is None and any(cell.is_diverged for cell in cells):
            worst_text = "diverged"
        rows.append([method, *(_cell(cell, results) for cell in cells), worst_text, _value(best, results.metric)])
    return rows


def _cell(cell: Cell, results: Results) -> str:
    if cell.mean is None:
        return "diverged" if cell.is_diverged else "-"
    text = _value(cell.mean, results.metric)
    if cell.deviation is not None:
        text += f" ± {_value(cell.deviation, results.metric)}"
    return text + (f" ({len(cell.values)}/{len(results.seeds)})" if cell.gaps else "")


def _value(value: float | None, metric: str) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if is_share(metric) else f"{value:.4g}"


def _notes(results: Results) -> list[str]:
    gaps = results.gaps()
    return ["", "Not every point has a value:", *gaps] if gaps else []
