"""What the reports of the recipes share: their options, whose runs they take, and how they write."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.reports.report import REPORTS, folder_for, write_files
from adaloss_lightning.tracking.reports.results import Results


def report_parser(recipe: str, description: str | None) -> ArgumentParser:
    """Options of a report that computes everything itself: `--out`."""
    parser = _parser(recipe, description)
    parser.add_argument("--out", type=Path, default=REPORTS / recipe, help="folder to write to (default: %(default)s)")
    return parser


def store_report_parser(recipe: str, description: str | None) -> ArgumentParser:
    """Options of a report on runs in MLflow: `--experiment`, `--out` (see `folder_of`), `--tracking-uri`."""
    parser = _parser(recipe, description)
    parser.add_argument("--experiment", default=recipe, help="MLflow experiment (default: %(default)s)")
    parser.add_argument("--out", type=Path, help=f"folder to write to (default: {REPORTS}/<experiment>)")
    parser.add_argument(
        "--tracking-uri", metavar="URI", help="MLflow store (default: MLFLOW_TRACKING_URI, else mlflow.db)"
    )
    return parser


def folder_of(options: Namespace) -> Path:
    """Where the report of `store_report_parser`'s options goes."""
    folder: Path = options.out or folder_for(options.experiment)
    return folder


def require_runs_of(recipe: str, results: Results) -> None:
    """Raises SweepError for runs of another recipe: the report would say of them what only holds of its own."""
    others = {run.data.params.get("recipe", "no recipe") for run in results.runs.values()} - {recipe}
    if others:
        raise SweepError(
            f"Experiment {results.experiment!r} has runs of {', '.join(sorted(others))}. Must be of {recipe} alone: "
            f"give another --experiment. Start: adaloss sweep --recipe {recipe}."
        )


def require_writable(folder: Path) -> None:
    """Makes the folder and tries it, before work whose results would have no place.

    Raises:
        StoreError: The folder cannot be written.
    """
    write_files(folder, {})


def _parser(recipe: str, description: str | None) -> ArgumentParser:
    return ArgumentParser(f"python -m recipes.{recipe}.report", description=description, allow_abbrev=False)
