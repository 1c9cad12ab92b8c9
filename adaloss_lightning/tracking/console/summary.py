"""Summary of a sweep that has ended: its table, and its report as artifacts of its run."""

import shlex
import sys
import tempfile
from pathlib import Path

from mlflow.exceptions import MlflowException

from adaloss_lightning.tracking.address import redacted
from adaloss_lightning.tracking.errors import TrackingError, one_line
from adaloss_lightning.tracking.logger.recovery import catch_up
from adaloss_lightning.tracking.names import run_label
from adaloss_lightning.tracking.reports.report import text_table, write_report
from adaloss_lightning.tracking.reports.results import collect
from adaloss_lightning.tracking.retry import impatient
from adaloss_lightning.tracking.runs import find_experiment, newest_sweep
from adaloss_lightning.tracking.store import resolve_uri
from adaloss_lightning.tracking.sweeps.sweep import Sweep
from adaloss_lightning.tracking.tags import METRIC_TAG, MODE_TAG
from adaloss_lightning.tracking.terminal import show


def store_option(uri: str) -> str:
    """` --tracking-uri URI` for a command that would not find the store by itself; nothing for one that does.

    Called before the first point runs in this process: what a point sets is not set in the user's shell.
    """
    return "" if uri == resolve_uri() else f" --tracking-uri {shlex.quote(redacted(uri))}"


def show_summary(sweep: Sweep, store: str) -> None:
    """Delivers what the points could not, prints the table, and logs the report's files to the sweep's run.

    Args:
        sweep: It has run.
        store: The sweep's `store_option`.

    Raises:
        TrackingError: There is no report. The message says that the sweep is done all the same, and the way to one.
    """
    uri, report = sweep.client.tracking_uri, f"adaloss report --experiment {shlex.quote(sweep.experiment)}{store}"
    way_out, note = f"Make it with: {report}", ""
    label = run_label(f"sweep {sweep.project.name}", sweep.parent_id)
    with impatient():
        for sentence in catch_up(uri, sweep.run_ids):
            print(sentence, file=sys.stderr)
        try:
            if not _is_newest(sweep):
                way_out = "The same command makes it"
                note = f"The experiment has a newer sweep, which is what {report} shows. This one is {label}."
            _report(sweep)
        except (OSError, TrackingError, MlflowException) as error:
            reason = one_line(error, uri, 500).rstrip(".")
            raise TrackingError(f"The sweep is done, but its report is not: {reason}. {way_out}") from error
    if note:
        show(f"\n{note}")
    show(f"\nTable and figure are artifacts of {label}. Open the MLflow UI: adaloss ui{store}")


def _is_newest(sweep: Sweep) -> bool:
    newest = newest_sweep(sweep.client, [find_experiment(sweep.client, sweep.experiment)])
    return newest is None or newest.info.run_id == sweep.parent_id


def _report(sweep: Sweep) -> None:
    results = collect(sweep.client, sweep.experiment, sweep.metric, sweep.parent_id, sweep.mode)
    show("\n" + text_table(results))
    if sweep.metric or sweep.mode:
        _keep_compared(sweep, results.metric)
    with tempfile.TemporaryDirectory() as folder:
        for file in write_report(results, Path(folder)):
            sweep.client.log_artifact(sweep.parent_id, str(file))


def _keep_compared(sweep: Sweep, metric: str) -> None:
    """Makes the sweep's run say what it compares; a direction that is a guess from the name is not kept."""
    client, run = sweep.client, sweep.parent_id
    before = client.get_run(run).data.tags
    client.set_tag(run, METRIC_TAG, metric)
    if sweep.mode:
        client.set_tag(run, MODE_TAG, sweep.mode)
    elif MODE_TAG in before and before.get(METRIC_TAG) != metric:  # it was that of another metric
        client.delete_tag(run, MODE_TAG)
