"""The page of the MLflow UI that compares the runs of the newest sweep."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlencode

from mlflow.exceptions import MlflowException

from adaloss_lightning.tracking.address import without_user_info
from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.grid import LOG_B0, OPTION_PREFIX
from adaloss_lightning.tracking.names import run_label
from adaloss_lightning.tracking.reports.results import Results, collect, gap_of
from adaloss_lightning.tracking.runs import MlflowClient, Run, all_runs, newest_sweep
from adaloss_lightning.tracking.tags import PARENT_TAG

_VIEW_TAG = "mlflow.sharedViewState."  # of an experiment: a view that MLflow's page opens by its key
_MOST_LEFT_OUT = 50  # runs named in a filter: a tag has 5000 characters, an identifier 32
_SECTION = "adaloss"


@dataclass(frozen=True)
class Comparison:
    """Address of the page, and a line for people that says what it shows."""

    url: str
    text: str


def compare_last_sweep(client: MlflowClient, server: str) -> Comparison | None:
    """The page that compares the runs of the newest sweep in the store, whatever its experiment.

    It lists the runs, the best first, beside charts of the sweep's metric against b0 and method. MLflow's page reads
    these from a tag of the experiment, which is written here; for a store that refuses it shows charts of its own.

    Args:
        client: Client of the store.
        server: Address of the MLflow UI, `http://127.0.0.1:5000`. A user name and password in it are left out.

    Returns:
        None for a store without a sweep, or whose newest sweep has no runs yet.
    """
    sweep = _newest_of_all(client)
    if sweep is None:
        return None
    experiment_id, sweep_id = sweep.info.experiment_id, sweep.info.run_id
    label = run_label(sweep.info.run_name, sweep_id)
    runs = all_runs(client, experiment_id, f"tags.`{PARENT_TAG}` = '{sweep_id}'")
    if not runs:
        return None
    page = f"{without_user_info(server).rstrip('/')}/#/experiments/{experiment_id}/runs?compareRunsMode=CHART"
    try:
        results = collect(client, client.get_experiment(experiment_id).name, parent_id=sweep_id)
    except SweepError:  # no run has a metric that is compared without being named
        url = f"{page}&{urlencode({'searchFilter': _filter(sweep_id, [])})}"
        return Comparison(url, f"Points of {label}: {url}")
    facets, shown = _facets(sweep_id, runs, results)
    try:
        view = json.dumps(facets | _charts(results, runs))
        client.set_experiment_tag(experiment_id, _VIEW_TAG + sweep_id, view)
        url = f"{page}&viewStateShareKey={sweep_id}"
    except MlflowException:
        url = f"{page}&{urlencode(facets)}"
    how_many = f"{shown} of {len(runs)}" if shown < len(runs) else f"{shown}"
    return Comparison(url, f"Points of {label}, best {results.metric} first ({how_many}): {url}")


def _facets(sweep_id: str, runs: Sequence[Run], results: Results) -> tuple[dict[str, object], int]:
    """Filter and order of the list of runs, and how many it has.

    Once a run has a value, those that did not finish or diverged are left out: their last value may be the best.
    """
    metric, ascending = results.metric, results.direction.mode == "min"
    gaps = [(run, gap_of(run, metric)) for run in runs]
    values = {run.info.run_id: run.data.metrics.get(metric, 0.0) for run in runs}
    bad = [run.info.run_id for run, gap in gaps if gap == "diverged" and run.info.status == "FINISHED"]
    bad = sorted(bad, key=values.__getitem__, reverse=not ascending)[:_MOST_LEFT_OUT]
    has_values = any(gap is None for _, gap in gaps)
    finished = [run for run in runs if run.info.status == "FINISHED"]
    facets = {
        "searchFilter": _filter(sweep_id, bad, only_finished=True) if has_values else _filter(sweep_id, []),
        "orderByKey": f"metrics.`{metric}`",
        "orderByAsc": ascending,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
    }
    return facets, len(finished) - len(bad) if has_values else len(runs)


def _filter(sweep_id: str, left_out: Sequence[str], *, only_finished: bool = False) -> str:
    conditions = [f"tags.`{PARENT_TAG}` = '{sweep_id}'"]
    if only_finished:
        conditions.append("attributes.status = 'FINISHED'")
    if left_out:
        conditions.append(f"attributes.run_id NOT IN ({', '.join(map(repr, left_out))})")
    return " and ".join(conditions)


def _charts(results: Results, runs: Sequence[Run]) -> dict[str, object]:
    """Charts of the metric, as MLflow's page describes its own."""
    metric = results.metric
    has_log = all(LOG_B0 in run.data.params for run in runs)  # MLflow has no log axis here
    b0 = LOG_B0 if has_log else "b0"
    options = sorted({param for run in runs for param in run.data.params if param.startswith(OPTION_PREFIX)})
    charts: list[dict[str, object]] = [
        {"type": "SCATTER", "xaxis": {"key": b0, "type": "PARAM"}, "yaxis": {"key": metric, "type": "METRIC"}},
        {
            "type": "PARALLEL",
            "selectedParams": ["method", *options, b0],
            "selectedMetrics": [metric],
            "showAllRuns": True,
        },
        {"type": "BAR", "metricKey": metric},
    ]
    common = {"runsCountToCompare": 100, "metricSectionId": _SECTION, "deleted": False, "isGenerated": False}
    title = f"{metric} against b0 and method, {results.direction.text}"
    section = {"uuid": _SECTION, "name": title, "display": True, "columns": 2, "cardHeight": 480}
    return {
        "selectedColumns": ["params.`method`", "params.`b0`", "params.`seed`", f"metrics.`{metric}`"],
        "runsHiddenMode": "SHOW_ALL",
        "isAccordionReordered": True,  # our section first, MLflow's own below
        "compareRunSections": [section | {"isReordered": True, "deleted": False, "isGenerated": False}],
        "compareRunCharts": [common | {"uuid": f"{_SECTION}-{chart['type']}"} | chart for chart in charts],
    }


def _newest_of_all(client: MlflowClient) -> Run | None:
    experiments: list[str] = []
    token: str | None = None
    while True:
        page = client.search_experiments(page_token=token)
        experiments += [experiment.experiment_id for experiment in page]
        token = page.token
        if not token:
            break
    return newest_sweep(client, experiments)
