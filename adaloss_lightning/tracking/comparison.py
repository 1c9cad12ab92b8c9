"""The comparison page of the MLflow UI for the runs of the newest sweep."""

import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest
from urllib.parse import quote

from adaloss_lightning.tracking.address import without_user_info
from adaloss_lightning.tracking.reporting.metrics import is_lower_better, metric_of
from adaloss_lightning.tracking.reporting.results import gap_of
from adaloss_lightning.tracking.runs import MlflowClient, Run, all_runs, newest_sweep
from adaloss_lightning.tracking.tags import PARENT_TAG

# The page has a table column a run; its address has 41 characters a run and is handed to the browser as one argument.
MAX_RUNS = 100


@dataclass(frozen=True)
class Comparison:
    """Address of the page, and a line for people that says what it shows."""

    url: str
    text: str


def compare_last_sweep(client: MlflowClient, server: str) -> Comparison | None:
    """The page that compares the runs of the newest sweep in the store, whatever its experiment.

    Of more than `MAX_RUNS` runs the best of each method are shown, then the second best of each, and so on.

    Args:
        client: Client of the store.
        server: Address of the MLflow UI, `http://127.0.0.1:5000`. A user name and password in it are left out.

    Returns:
        None for a store without a sweep, or whose newest sweep has no runs yet.
    """
    sweep = _newest_of_all(client)
    if sweep is None:
        return None
    of_sweep = f"tags.`{PARENT_TAG}` = '{sweep.info.run_id}'"
    runs = all_runs(client, sweep.info.experiment_id, of_sweep)
    if not runs:
        return None
    shown = best_of_each_method(runs, MAX_RUNS)
    best_of = f"{len(shown)} best of the " if len(shown) < len(runs) else ""
    what = f"{best_of}{len(runs)} runs" if len(runs) > 1 else "only run"
    url = compare_url(server, [run.info.run_id for run in shown], sweep.info.experiment_id)
    return Comparison(url, f"The {what} of {sweep.info.run_name!r}: {url}")


def compare_url(server: str, run_ids: Sequence[str], experiment_id: str) -> str:
    """Address of the comparison of runs of one experiment, or of the page of a single run, in the UI of `server`."""
    base = f"{without_user_info(server).rstrip('/')}/#"
    if len(run_ids) == 1:  # the plots of MLflow's comparison show an error then
        return f"{base}/experiments/{experiment_id}/runs/{run_ids[0]}"
    lists = {"runs": list(run_ids), "experiments": [experiment_id]}
    query = "&".join(f"{key}={quote(json.dumps(ids, separators=(',', ':')))}" for key, ids in lists.items())
    return f"{base}/compare-runs?{query}"


def best_of_each_method(runs: Sequence[Run], limit: int) -> list[Run]:
    """At most `limit` of the runs, in the given order; those without a result are the first to be left out."""
    if len(runs) <= limit:
        return list(runs)
    metric = metric_of(runs)
    methods: defaultdict[str | None, list[Run]] = defaultdict(list)
    for run in sorted(runs, key=lambda run: _rank(run, metric)):
        methods[run.data.params.get("method")].append(run)
    rounds = chain.from_iterable(zip_longest(*methods.values()))
    chosen = {run.info.run_id for run in [run for run in rounds if run is not None][:limit]}
    return [run for run in runs if run.info.run_id in chosen]


def _rank(run: Run, metric: str | None) -> tuple[bool, float]:
    if metric is None or gap_of(run, metric) is not None:
        return True, 0.0
    value = run.data.metrics[metric]
    return False, value if is_lower_better(metric) else -value


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
