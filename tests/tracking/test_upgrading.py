"""A sweep that version 0.1.0 began is continued."""

import shutil
import socket
from pathlib import Path

import pytest
from mlflow.entities import Param
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import ensure_experiment
from adaloss_lightning.tracking.console.app import main
from tests.tracking import project

METHOD = """\
trainer: {max_epochs: 2, accelerator: cpu, log_every_n_steps: 1, num_sanity_val_steps: 0}
optimizer: {class_path: adaloss_lightning.AdaLoss, init_args: {lr: 0.05}}
"""
SWEEP_ID = "4d572a69e3b94490"  # what 0.1.0 made of the command below and of METHOD
PARAMS = {
    "recipe": "own_project", "sweep.methods": "well", "sweep.b0": "0.5,1", "sweep.seeds": "1",
    "sweep.grid.optimizer.lr": "0.05,0.1",
}  # fmt: skip


def test_a_sweep_goes_on(client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(project.__file__, folder / "own_project.py")
    (folder / "well.yaml").write_text(METHOD)
    monkeypatch.syspath_prepend(str(folder))
    experiment = ensure_experiment(client, "e")

    def run(name: str, tags: dict[str, str], params: dict[str, str], status: str) -> str:
        tags = {"adaloss.sweep_id": SWEEP_ID, "adaloss.host": socket.gethostname(), **tags}
        run_id = client.create_run(experiment, run_name=name, tags=tags).info.run_id
        client.log_batch(run_id, params=[Param(*pair) for pair in (PARAMS | params).items()])
        client.set_terminated(run_id, status)
        return str(run_id)

    parent = run("sweep own_project", {"adaloss.kind": "sweep"}, {}, "KILLED")
    tags = {"adaloss.kind": "point", "mlflow.parentRunId": parent}
    point = {"method": "well", "seed": "1", "grid.optimizer.lr": "0.05", "lr": "0.05"}
    done = run("well b0=0.5 seed=1 optimizer.lr=0.05", tags, point | {"b0": "0.5"}, "FINISHED")
    command = ["sweep", "--recipe", "own_project", "--methods", "well", "--b0", "0.5,1", "--experiment", "e"]
    assert main([*command, "--grid", "optimizer.lr=0.05,0.1"]) == 0
    runs = client.search_runs([experiment], f"tags.`mlflow.parentRunId` = '{parent}'")
    keys = {(child.data.params["grid.optimizer.lr"], child.data.params["b0"]) for child in runs}
    assert keys == {("0.05", "0.5"), ("0.05", "1.0"), ("0.1", "0.5"), ("0.1", "1.0")}
    assert len(runs) == 4
    assert done in {child.info.run_id for child in runs}
    assert client.get_run(parent).info.status == "FINISHED"
