"""Trainings and sweeps against PostgreSQL, directly and through a tracking server."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException
from mlflow.store.db.utils import _get_latest_schema_revision, _get_schema_version
from mlflow.tracking import MlflowClient
from sqlalchemy import create_engine

from adaloss_lightning.tracking import BufferedMLFlowLogger, ensure_experiment, open_store
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.refusals import is_final, is_refusal
from tests.limits import HANG_S
from tests.servers.postgres import Postgres
from tests.servers.servers import TrackingServer
from tests.tracking.training import runs_of


def run_python(*arguments: str) -> str:
    """What a process of its own prints; fails where it does."""
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_four_processes_may_open_a_new_database_at_once(folder: Path, postgres: Postgres) -> None:
    uri = postgres.create_database("new")
    (experiment_id,) = set(json.loads(run_python("-m", "tests.servers.rush", uri)))
    client = open_store(uri)
    assert {found.name: found.experiment_id for found in client.search_experiments()}.items() >= {
        ("new", experiment_id)
    }
    engine = create_engine(uri)
    assert _get_schema_version(engine) == _get_latest_schema_revision()
    engine.dispose()
    assert client.get_run(client.create_run(experiment_id).info.run_id).info.status == "RUNNING"


def test_three_trainings_at_once_arrive_complete(
    folder: Path, server: TrackingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    names = ["first", "second", "third"]
    run_python("-m", "tests.servers.train", *names)
    client = MlflowClient(server.url)
    runs = {run.info.run_name: run for run in runs_of(client, "together")}
    assert sorted(runs) == names
    for name, run in runs.items():
        assert run.info.status == "FINISHED"
        with (folder / "csv" / name / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert len(rows) == 100
        for metric in ("train/loss", "epoch"):
            points = client.get_metric_history(run.info.run_id, metric)
            assert [(p.step, p.value) for p in points] == [(int(row["step"]), float(row[metric])) for row in rows]


@pytest.mark.parametrize("through", ["a server", "nothing"])
def test_a_database_that_is_read_only_for_a_while_loses_nothing(
    folder: Path, postgres: Postgres, server: TrackingServer, caplog: pytest.LogCaptureFixture, through: str
) -> None:
    uri = server.url if through == "a server" else postgres.create_database("failover")
    logger = BufferedMLFlowLogger(f"through {through}", tracking_uri=uri, finalize_timeout=HANG_S)
    logger.log_metrics({"a": 0.0}, 0)
    assert logger.flush()
    step = 0
    with postgres.read_only():
        while "read-only transaction" not in caplog.text and step < 1000:  # the server notices a moment later
            step += 1
            logger.log_metrics({"a": float(step)}, step)
            logger.flush(0.1)
    assert logger.flush()
    logger.finalize("success")
    client = MlflowClient(uri)
    (run,) = runs_of(client, f"through {through}")
    assert [point.step for point in client.get_metric_history(run.info.run_id, "a")] == list(range(step + 1))
    assert run.info.status == "FINISHED"
    with pytest.raises(MlflowException, match="value too long") as caught:
        client.create_run(run.info.experiment_id, run_name="r" * 300)
    assert (is_refusal(caught.value), is_final(caught.value)) == (True, True)


def test_texts_that_a_column_cannot_hold_are_cut_and_reported(
    folder: Path, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    uri = postgres.create_database("long")
    experiment = "e" * 300
    logger = BufferedMLFlowLogger(
        experiment, run_name="r" * 300, tracking_uri=uri, tags={"note": "x" * 9000, "k" * 300: "v"}
    )
    logger.log_metrics({"m" * 300: 1.0, "other": 2.0}, 0)
    logger.log_hyperparams({"p" * 300: 1, "w": "草" * 6001})
    logger.log_tags({"late": "x" * 9000, "l" * 300: "v"})
    logger.finalize("success")
    client = MlflowClient(uri)
    run = client.get_run(str(logger.run_id))
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "r" * 250
    assert (run.data.tags["note"], run.data.tags["late"]) == ("x" * 8000, "x" * 8000)
    assert (len(run.data.params["w"]), run.data.metrics["other"]) == (6000, 2.0)
    for first, entries in {"m": run.data.metrics, "p": run.data.params, "k": run.data.tags, "l": run.data.tags}.items():
        assert [len(name) for name in entries if name.startswith(3 * first)] == [250]
    name = client.get_experiment(run.info.experiment_id).name
    assert (len(name), name[:240]) == (256, "e" * 240)
    for cut in ("experiment's name has 300", "run's name has 300", "Tags are cut", "Params are cut"):
        assert cut in caplog.text
    assert ensure_experiment(client, experiment) == run.info.experiment_id  # by its full name too


def test_a_sweep_of_long_names_and_its_report(
    module: str, postgres: Postgres, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", postgres.create_database("long-sweep"))
    method = f"adaloss_{'very_' * 60}long"
    shutil.copy("adaloss.yaml", f"{method[:240]}.yaml")
    sweep = ["--recipe", module, "--methods", method[:240], "--b0", "0.123456789", "--experiment", "s" * 300]
    assert main(["sweep", *sweep]) == 0
    assert main(["report", "--experiment", "s" * 300]) == 0
    assert method[:30] in capsys.readouterr().out


def test_a_sweep_in_two_processes_and_its_report(
    module: str, server: TrackingServer, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.url)
    sweep = ["sweep", "--recipe", module, "--methods", "adaloss,adamloss", "--b0", "0.1,1", "--jobs", "2"]
    assert main([*sweep, "--experiment", "on a server"]) == 0
    client = MlflowClient(server.url)
    runs = runs_of(client, "on a server")
    (parent,) = [run for run in runs if run.info.run_name == f"sweep {module}"]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert len(children) == 4
    for run in runs:
        assert run.info.status == "FINISHED"
    for child in children:
        assert len(client.get_metric_history(child.info.run_id, "adaloss/b")) == 8
        config = Path(client.download_artifacts(child.info.run_id, "config.yaml")).read_text()
        assert f"b0: {child.data.params['b0']}" in config
    # Lightning's checkpoints and LightningCLI's config were staged in a local folder on their way.
    assert "report.md" in {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}

    assert not Path("reports").exists()
    capsys.readouterr()
    assert main(["report", "--experiment", "on a server"]) == 0
    table = capsys.readouterr().out
    for child in children:
        (line,) = [line for line in table.splitlines() if line.split()[:1] == [child.data.params["method"]]]
        assert f"{100 * child.data.metrics['val/acc']:.1f}" in line
    (written,) = Path("reports").iterdir()
    assert (written / "report.md").is_file()
    assert not Path("mlflow.db").exists()
