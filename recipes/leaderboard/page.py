"""The page of the leaderboard, `leaderboard.md` and `leaderboard.html`, from the JSON of its tasks.

`python -m recipes.leaderboard.page benchmarks/results/leaderboard --out docs` writes it again without a run.
"""

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from adaloss_lightning.tracking.reports import report
from recipes.leaderboard.measures import Cell, Difference, Row, Table, table_of
from recipes.leaderboard.methods import AUTO, DECADES, METHODS
from recipes.leaderboard.records import TaskResults
from recipes.leaderboard.summary import standings, targets, versus
from recipes.leaderboard.tasks import TASKS
from recipes.shared.claims import SEEDS

NOTES = "notes.md"  # beside the JSON: what people make of the results, kept as it is
_UNITS = {
    "acc": "test accuracy in %, large is good; the margin is 1 point",
    "loss": "test loss in nats, small is good; the margin is 3 % of the best",
    "rmse": "root mean squared error on test data, small is good; the margin is 10 % of the best",
    "return": "mean return of the test episodes, large is good; the margin is 10 % of the best",
}
_LABELS = {method.name: method.label for method in METHODS}


def write_page(source: Path, folder: Path) -> list[Path]:
    """Writes the page of all results in `source`.

    Raises:
        StoreError: The folder cannot be written.
    """
    tables = read_tables(source)
    notes = source / NOTES
    context = _context(tables, notes.read_text() if notes.exists() else "")
    files = {f"leaderboard.{kind}": _render(f"page.{kind}", context) for kind in ("md", "html")}
    return report.write_files(folder, files)


def read_tables(folder: Path) -> list[Table]:
    """The tables of all tasks that have a file in `folder`, in the order of `TASKS`."""
    files = [folder / f"{task.name}.json" for task in TASKS]
    return [table_of(TaskResults.read(file)) for file in files if file.exists()]


def _context(tables: Sequence[Table], notes: str) -> dict[str, Any]:
    run = {table.results.task for table in tables}
    shown = {method for table in tables for method in table.rows}
    return {
        "decades": DECADES,
        "standings": standings(tables),
        "targets": targets(tables),
        "labels": _LABELS,
        "tasks": [_task(table) for table in tables],
        "absent": [task.name for task in TASKS if task.name not in run],
        "left_out": [method.label for method in METHODS if method.name not in shown],
        "paragraphs": [part for part in notes.strip().split("\n\n") if part],
        "notes": notes.strip(),
    }


def _task(table: Table) -> dict[str, Any]:
    results = table.results
    return {
        "name": results.task,
        "unit": _UNITS[results.measure],
        "margin": _points(table.margin, results.measure),
        "reference": _number(table.reference, results.measure),
        "seeds": len({record.seed for record in results.records}),
        "runs": len(results.records),
        "hours": sum(record.seconds for record in results.records) / 3600,
        "facts": results.facts,
        "rows": [_row(table, row) for row in table.rows.values()],
    }


def _row(table: Table, row: Row) -> dict[str, Any]:
    measure = table.results.measure
    ours = table.rows.get(AUTO)
    is_other = ours is not None and row.method != AUTO
    return {
        "label": _LABELS.get(row.method, row.method),
        "is_ours": row.method == AUTO,
        "default": _cell(row.default, measure),
        "best": _cell(row.best, measure),
        "worst": _cell(row.worst, measure),
        "decades": f"{row.decades} of {row.values}" if row.method != AUTO else ("yes" if row.decades else "no"),
        "diverged": f"{100 * row.diverged:.0f} %",
        "step": "-" if row.step_seconds is None else f"{1000 * row.step_seconds:.2f}",
        "batches": "-" if math.isnan(row.batches) else f"{row.batches:,.0f}",
        "in_all": f"{row.batches_in_all:,.0f}",
        "at_default": compared(versus(table, row.default), measure) if is_other else None,
        "tuned": compared(versus(table, row.best), measure) if is_other else None,
    }


def compared(one: Difference | None, measure: str) -> dict[str, str] | None:
    """A difference to ours for people: the outcome and the numbers behind it."""
    if one is None or math.isnan(one.mean):
        return None
    if math.isinf(one.mean):
        who = "it diverged" if one.mean > 0 else "ours diverged"
        return {"outcome": one.outcome, "text": who}
    text = f"{_points(one.mean, measure, sign=True)}"
    if math.isfinite(one.low):
        text += f" [{_points(one.low, measure, sign=True)}, {_points(one.high, measure, sign=True)}]"
    few = f", of {one.seeds} seeds" if one.seeds < SEEDS else ""
    unsure = "" if one.outcome == "tie" else few if one.is_clear else ", the interval has 0"
    return {"outcome": one.outcome, "text": text + unsure}


def _cell(cell: Cell, measure: str) -> str:
    at = "" if cell.value is None else f" at {cell.value:g}"
    if cell.has_diverged:
        lost = sum(result is None for result in cell.by_seed.values())
        return f"diverged ({lost} of {len(cell.by_seed)}){at}"
    if cell.mean is None:
        return "not run"
    deviation = "" if cell.deviation is None else f" ± {_points(cell.deviation, measure)}"
    return f"{_number(cell.mean, measure)}{deviation}{at}"


def _number(value: float | None, measure: str) -> str:
    if value is None:
        return "-"
    return f"{100 * value:.1f}" if measure == "acc" else f"{value:.4g}"


def _points(value: float, measure: str, sign: bool = False) -> str:
    plus = "+" if sign else ""
    return f"{100 * value:{plus}.1f}" if measure == "acc" else f"{value:{plus}.3g}"


def _render(name: str, context: dict[str, Any]) -> bytes:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=name.endswith(".html"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    style = Path(report.__file__).with_name("page.css").read_text()
    return environment.get_template(name).render(**context, style=Markup(style)).encode()


def main(args: Sequence[str] | None = None) -> None:
    """Writes the page again from files that are there."""
    parser = argparse.ArgumentParser("python -m recipes.leaderboard.page", description=__doc__, allow_abbrev=False)
    parser.add_argument("results", type=Path, help="folder of the JSON files")
    parser.add_argument("--out", type=Path, default=Path("docs"), help="folder to write to (default: %(default)s)")
    options = parser.parse_args(args)
    sys.stdout.writelines(f"wrote {path}\n" for path in write_page(options.results, options.out))


if __name__ == "__main__":
    main()
