"""Runs for the tests of reports, written with MLflow's own client."""

from collections.abc import Mapping

from mlflow.entities import Metric, Param, RunTag
from mlflow.tracking import MlflowClient

Key = tuple[str, str, str]  # method, b0, seed
Value = float | str | None
SWEEP = {"sweep.methods": "adaloss,adam", "sweep.b0": "0.1,10", "sweep.seeds": "1,2"}

FULL: dict[Key, Value] = {
    ("adaloss", "0.1", "1"): 0.98,
    ("adaloss", "0.1", "2"): 0.96,
    ("adaloss", "10.0", "1"): 0.99,
    ("adaloss", "10.0", "2"): 0.99,
    ("adam", "0.1", "1"): 0.5,
    ("adam", "0.1", "2"): 0.7,
    ("adam", "10.0", "1"): 0.9,
    ("adam", "10.0", "2"): 0.92,
}
GAPS = FULL | {
    ("adam", "0.1", "1"): "diverged",
    ("adam", "0.1", "2"): "diverged",
    ("adam", "10.0", "2"): "FAILED",
    ("adaloss", "0.1", "2"): None,
    ("adaloss", "10.0", "1"): "KILLED",
}


def write_parent(client: MlflowClient, experiment: str = "e", params: Mapping[str, str] = SWEEP) -> tuple[str, str]:
    """Experiment and parent run of a sweep."""
    found = client.get_experiment_by_name(experiment)
    identifier = str(found.experiment_id if found else client.create_experiment(experiment))
    parent = str(client.create_run(identifier, tags={"adaloss.kind": "sweep"}).info.run_id)
    client.log_batch(parent, params=[Param(*pair) for pair in params.items()])
    return identifier, parent


def write_point(
    client: MlflowClient,
    parent: tuple[str, str],
    params: Mapping[str, str],
    value: Value,
    histories: Mapping[str, Mapping[int, float]] | None = None,
    start_time: int | None = None,
) -> str:
    """A run of a sweep that ended with a value, diverged, or with another status."""
    tags = {"mlflow.parentRunId": parent[1], "adaloss.kind": "point"}
    run = str(client.create_run(parent[0], tags=tags, start_time=start_time).info.run_id)
    metrics = []
    if isinstance(value, float):
        metrics = [Metric("test/acc", value, 1, 0), Metric("val/loss", 1 - value, 1, 0)]
    elif value == "diverged":
        metrics = [Metric("test/acc", 0.1, 1, 0)]  # of an untrained epoch; it must not count
    for name, history in (histories or {}).items():
        metrics += [Metric(name, point, 1000 + step, step) for step, point in history.items()]
    divergence = [RunTag("diverged", "epoch 0")] if value == "diverged" else []
    client.log_batch(run, metrics, [Param(*pair) for pair in params.items()], divergence)
    client.set_terminated(run, value if isinstance(value, str) and value.isupper() else "FINISHED")
    return run


def write_sweep(
    client: MlflowClient,
    values: Mapping[Key, Value],
    experiment: str = "e",
    grid: Mapping[str, str] = SWEEP,
    histories: Mapping[str, Mapping[int, float]] | None = None,
) -> str:
    """A sweep by method, b0 and seed; a text is a tag or a status, None no run at all."""
    parent = write_parent(client, experiment, grid)
    for (method, b0, seed), value in values.items():
        if value is not None:
            write_point(client, parent, {**grid, "method": method, "b0": b0, "seed": seed}, value, histories)
    client.set_terminated(parent[1])
    return parent[1]
