"""Parts that tests of sweeps share: a project that is not ours, its command line, and its runs as MLflow has them."""

import shutil
from pathlib import Path

import psutil
import pytest
import yaml
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from tests.limits import wait_for as wait_for
from tests.tracking import project

METHOD = {
    "trainer": {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1, "num_sanity_val_steps": 0},
    "optimizer": {"class_path": "adaloss_lightning.AdaLoss", "init_args": {"lr": 0.05}},
}
BEHAVIOURS = ("well", "raise", "rank", "die", "need", "gate")


def make_project(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable module in the working folder; its name is the test's, as Python imports a name once."""
    name = f"project_{folder.name}"
    shutil.copy(project.__file__, folder / f"{name}.py")
    for behave in BEHAVIOURS:
        (folder / f"{behave}.yaml").write_text(yaml.safe_dump(METHOD | {"model": {"behave": behave}}))
    monkeypatch.syspath_prepend(str(folder))
    return name


def sweep(module: str, methods: str, *more: str) -> list[str]:
    return ["sweep", "--recipe", module, "--methods", methods, "--experiment", "e", *more]


def all_of(client: MlflowClient) -> list[Run]:
    """Runs of the experiment, oldest first."""
    experiment = client.get_experiment_by_name("e")
    return client.search_runs([experiment.experiment_id], order_by=["start_time ASC"]) if experiment else []


def parent_and_children(client: MlflowClient) -> tuple[Run, dict[tuple[str, float, str], Run]]:
    runs = all_of(client)
    (parent,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    keyed = {(c.data.params["method"], float(c.data.params["b0"]), c.data.params["seed"]): c for c in children}
    assert len(keyed) == len(children) == len(runs) - 1
    return parent, keyed


def is_alive(pid: int) -> bool:
    """A dead process whose parent has not asked for its end yet still has its number."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False
