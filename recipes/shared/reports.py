"""Entry points of the recipes' reports: their options, the runs they read, and how they write."""

import os
import platform
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from matplotlib.figure import Figure

from adaloss_lightning.tracking import open_store
from adaloss_lightning.tracking.errors import StoreError, SweepError
from adaloss_lightning.tracking.reports import kept
from adaloss_lightning.tracking.reports.report import REPORTS, folder_for, png, write_files
from adaloss_lightning.tracking.reports.results import Results, collect
from recipes.shared import numbers

_POINTS = 1000  # of a history that is long


@dataclass(frozen=True)
class Report:
    """A text in Markdown and its figures.

    Attributes:
        name: Name of the text's file.
        text: The text, which ends with a line break.
        figures: Figures by the names of their files.
    """

    name: str
    text: str
    figures: Mapping[str, Figure]

    def write(self, folder: Path, source: Mapping[str, bytes] | None = None) -> None:
        """Writes all files, prints the text, and the paths after it.

        Args:
            folder: Where to.
            source: The numbers that the report is made from, by the name of their file.

        Raises:
            StoreError: The folder cannot be written.
        """
        pictures = {name: png(figure) for name, figure in self.figures.items()}
        paths = write_files(folder, {self.name: self.text.encode(), **pictures, **(source or {})})
        sys.stdout.writelines([f"{self.text}\n", *(f"wrote {path}\n" for path in paths)])


def computing_parser(recipe: str, description: str) -> ArgumentParser:
    """Options of a report that computes everything itself: `--out` and `--numbers`."""
    parser = _parser(recipe, description)
    help_numbers = "numbers.json of an earlier report to draw from, instead of computing"
    parser.add_argument("--numbers", type=Path, metavar="FILE", help=help_numbers)
    parser.add_argument("--out", type=Path, default=REPORTS / recipe, help="folder to write to (default: %(default)s)")
    return parser


def report_on_numbers(options: Namespace, compute: Callable[[], object], build: Callable[[Any], Report]) -> None:
    """Computes what a report shows, or takes it from `--numbers`, and writes the report beside it.

    Args:
        options: Of :func:`computing_parser`.
        compute: The numbers, in the types of `recipes.shared.numbers`.
        build: Makes the report from them, as they are in the file.

    Raises:
        StoreError: The folder cannot be written, which is found out before anything is computed, or the file of
            `--numbers` cannot be read.
    """
    require_writable(options.out)
    if options.numbers is None:
        text = numbers.dumps(compute())
        write_files(options.out, {numbers.FILE: text.encode()})  # kept, whatever happens while the report is drawn
        found = numbers.loads(text)
    else:
        text, found = _read(options.numbers)
    build(found).write(options.out, {numbers.FILE: text.encode()})


def _read(file: Path) -> tuple[str, Any]:
    try:
        text = file.read_text("utf-8")
        return text, numbers.loads(text)
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ImportError) as error:
        raise StoreError(f"Cannot read {file}: {error!r}. Must be a {numbers.FILE} of this report.") from error


def report_on_runs(
    recipe: str,
    description: str,
    build: Callable[[Results], Report],
    args: list[str] | None = None,
    metric: str | None = None,
    histories: Sequence[str] = (),
) -> None:
    """Reports on the newest sweep of an experiment, or on all its runs where there is no sweep, or on those in a file.

    Args:
        recipe: Name of the recipe.
        description: What `--help` says.
        build: Makes the report.
        args: Command line; None takes the one of the process.
        metric: What the runs are compared by; None takes that of the sweep.
        histories: Metrics whose histories the report draws.

    Raises:
        TrackingError: The experiment cannot be read, has no such runs or runs of another recipe, or the folder cannot
            be written.
    """
    parser = _parser(recipe, description)
    source = parser.add_mutually_exclusive_group()
    source.add_argument("--experiment", default=recipe, help="MLflow experiment (default: %(default)s)")
    help_runs = f"{kept.FILE} of an earlier report to draw from, instead of the store"
    source.add_argument("--runs", type=Path, metavar="FILE", help=help_runs)
    parser.add_argument("--out", type=Path, help=f"folder to write to (default: {REPORTS}/<experiment>)")
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db)"
    )
    options = parser.parse_args(args)
    if options.runs is None:
        stored = collect(open_store(options.tracking_uri, reading=True), options.experiment, metric)
        results = kept.loads(kept.dumps(kept.keep(stored, histories, _POINTS)))  # drawn as it will be from the file
    elif options.tracking_uri is not None:
        parser.error("argument --tracking-uri: not allowed with argument --runs")
    else:
        results = kept.read(options.runs)
    _require_runs_of(recipe, results)
    build(results).write(options.out or folder_for(results.experiment), {kept.FILE: kept.dumps(results)})


def require_writable(folder: Path) -> None:
    """Makes the folder and tries it, before work whose results would have no place.

    Raises:
        StoreError: The folder cannot be written.
    """
    write_files(folder, {})


def table(head: Sequence[str], rows: Iterable[Sequence[str]], names: int = 1) -> str:
    """A table in Markdown: the first `names` columns hold text, the others numbers, which stand to the right."""
    rule = ["---"] * names + ["---:"] * (len(head) - names)
    return "".join(f"| {' | '.join(row)} |\n" for row in (head, rule, *rows))


def this_machine() -> str:
    """The machine a report is computed on."""
    return f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}"


def _parser(recipe: str, description: str) -> ArgumentParser:
    return ArgumentParser(f"python -m recipes.{recipe}.report", description=description, allow_abbrev=False)


def _require_runs_of(recipe: str, results: Results) -> None:
    """Raises SweepError for runs of another recipe: what the report says about its own would not hold for them."""
    others = {run.data.params.get("recipe", "no recipe") for run in results.runs.values()} - {recipe}
    if others:
        raise SweepError(
            f"Experiment {results.experiment!r} has runs of {', '.join(sorted(others))}. Must be of {recipe} alone: "
            f"give another --experiment. Start: adaloss sweep --recipe {recipe}."
        )
