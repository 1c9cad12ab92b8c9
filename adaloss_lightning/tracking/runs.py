"""Runs as MLflow keeps them: what a report of a recipe may know of MLflow."""

from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.errors import SweepError
from adaloss_lightning.tracking.store import redacted

__all__ = ["MlflowClient", "Run", "all_runs", "find_experiment", "history"]

_PAGE = 1000


def find_experiment(client: MlflowClient, name: str) -> str:
    """Identifier of an experiment.

    Raises:
        SweepError: There is none of that name; the message lists those that there are.
    """
    found = client.get_experiment_by_name(name)
    if found is None:
        names = ", ".join(sorted(other.name for other in client.search_experiments())) or "none"
        raise SweepError(f"Unknown experiment {name!r} in {redacted(client.tracking_uri)}. There are: {names}.")
    return str(found.experiment_id)


def all_runs(
    client: MlflowClient, experiment_id: str, query: str = "", *, order: str = "attributes.start_time ASC"
) -> list[Run]:
    """Every run of an experiment that fits MLflow's filter `query`, page by page."""
    runs: list[Run] = []
    token: str | None = None
    while True:
        page = client.search_runs([experiment_id], query, max_results=_PAGE, order_by=[order], page_token=token)
        runs += page
        token = page.token
        if not token:
            return runs


def history(client: MlflowClient, run: Run, metric: str) -> tuple[list[int], list[float]]:
    """Steps, ascending, and values of a metric; of a step that was logged twice the last value."""
    points = {point.step: point.value for point in client.get_metric_history(run.info.run_id, metric)}
    steps = sorted(points)
    return steps, [points[step] for step in steps]
