"""Runs as MLflow keeps them: what a report of a recipe may know of MLflow."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.address import redacted
from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.names import experiment_name
from adaloss_lightning.tracking.store import mlflow_command
from adaloss_lightning.tracking.tags import EVALUATIONS, KIND_TAG
from adaloss_lightning.tracking.terminal import progress

__all__ = ["MlflowClient", "Run", "all_runs", "find_experiment", "newest_sweep"]

_PAGE = 1000


def find_experiment(client: MlflowClient, name: str) -> str:
    """Identifier of an experiment.

    Raises:
        SweepError: There is none of that name, and the message lists those that there are; or it was deleted.
    """
    name = experiment_name(name)
    found = client.get_experiment_by_name(name)
    if found is None:
        names = ", ".join(sorted(other.name for other in client.search_experiments())) or "none"
        raise SweepError(f"Unknown experiment {name!r} in {redacted(client.tracking_uri)}. There are: {names}.")
    if found.lifecycle_stage == "deleted":
        restore = mlflow_command(f"mlflow experiments restore -x {found.experiment_id}", client.tracking_uri)
        raise SweepError(f"Experiment {name!r} was deleted. To see its runs again restore it: {restore}")
    return str(found.experiment_id)


def all_runs(
    client: MlflowClient, experiment_id: str, query: str = "", *, order: str = "attributes.start_time ASC"
) -> list[Run]:
    """Runs of an experiment that trained and fit MLflow's filter `query`, page by page; a long read shows its progress.

    Runs that only evaluated a checkpoint have the params of the run it is of, and would replace that run.
    """
    runs: list[Run] = []
    token: str | None = None
    with progress("reading runs", "run") as bar, _no_garbage_collection():
        while True:
            page = client.search_runs([experiment_id], query, max_results=_PAGE, order_by=[order], page_token=token)
            runs += [run for run in page if run.data.tags.get(KIND_TAG) not in EVALUATIONS]
            bar.update(len(page))
            token = page.token
            if not token:
                return runs


def newest_sweep(client: MlflowClient, experiment_ids: list[str], condition: str = "") -> Run | None:
    """The own run of the sweep that was started last in these experiments; None where there is none.

    Args:
        client: Client of the store.
        experiment_ids: Identifiers of the experiments.
        condition: What more must hold, in MLflow's filter language.
    """
    query = f"tags.`{KIND_TAG}` = 'sweep'" + (f" and {condition}" if condition else "")
    found = client.search_runs(experiment_ids, query, order_by=["attributes.start_time DESC"], max_results=1)
    return found[0] if found else None


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    # Half the time of reading 10,000 runs went into looking for garbage among the objects just made.
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
