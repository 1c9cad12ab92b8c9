"""A run that no Trainer ends, begins or finds a folder for: what a script of somebody's own may rely on."""

import os
import random
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger, RememberRun, StoreError, open_store
from adaloss_lightning.tracking.app import main
from adaloss_lightning.tracking.spooling.delivery import Delivery
from adaloss_lightning.tracking.spooling.leftovers import waiting
from tests.tracking.test_logger import only_run
from tests.tracking.training import Line, trainer

SCRIPT = """
import os, sys
from adaloss_lightning.tracking import BufferedMLFlowLogger
logger = BufferedMLFlowLogger("x", finalize_timeout=1.0)
logger.log_metrics({"a": 1.0}, 1)
"""
ENDS = {
    "the end": ("", "FINISHED"),
    "exit 0": ("sys.exit(0)", "FINISHED"),
    "an exception": ("raise ValueError('no')", "FAILED"),
    "Ctrl-C": ("raise KeyboardInterrupt", "KILLED"),
    "a session at a prompt": ("sys.ps1 = '>>> '; sys.last_value = ValueError('in an earlier cell')", "FINISHED"),
    "finalize": ("logger.finalize('failed'); raise KeyboardInterrupt", "FAILED"),  # it was said before
}


@pytest.mark.parametrize("end", ENDS)
def test_a_script_that_ends_ends_its_run(client: MlflowClient, end: str) -> None:
    last, status = ENDS[end]
    subprocess.run([sys.executable, "-c", SCRIPT + last], capture_output=True, check=False)
    assert main(["sync"]) == 0  # what a loaded machine did not deliver in time
    run = only_run(client)
    assert (run.info.status, run.data.metrics) == (status, {"a": 1.0})
    assert not waiting()


@pytest.mark.parametrize("end", ["the end", "an exception"])
def test_it_ends_the_same_where_no_server_was_there(
    client: MlflowClient, end: str, capsys: pytest.CaptureFixture[str]
) -> None:
    last, status = ENDS[end]
    environment = os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    subprocess.run([sys.executable, "-c", SCRIPT + last], capture_output=True, check=False, env=environment)
    assert main(["sync", "--tracking-uri", client.tracking_uri]) == 0
    assert only_run(client).info.status == status


def test_starting_a_run_draws_no_random_number_of_the_training(client: MlflowClient) -> None:
    random.seed(1)
    before = random.getstate()
    for _ in range(2):
        logger = BufferedMLFlowLogger("x")
        logger.log_metrics({"a": 1.0}, 1)
        logger.finalize("success")
    assert random.getstate() == before
    runs = client.search_runs([client.get_experiment_by_name("x").experiment_id])
    assert len({run.info.run_name for run in runs}) == 2


def test_where_no_folder_can_be_made_the_training_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "file").touch()
    monkeypatch.setenv("ADALOSS_SPOOL", str(folder / "file" / "spool"))
    logger = BufferedMLFlowLogger("x", tracking_uri="http://127.0.0.1:1", finalize_timeout=0.5)
    fitted = trainer(logger, default_root_dir=str(folder / "root"))
    fitted.fit(Line())
    assert fitted.state.finished
    assert logger.save_dir is None
    assert list((folder / "root").rglob("*.ckpt"))
    assert caplog.text.count("Cannot make the folder") == 1
    logger.log_artifact(__file__)


def test_a_database_that_cannot_be_opened_is_waited_for_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "d.db").mkdir()
    with pytest.raises(StoreError, match="is a folder"):
        open_store("sqlite:///d.db")
    logger = BufferedMLFlowLogger("x", tracking_uri="sqlite:///d.db", finalize_timeout=0.5)
    waits: list[float] = []
    wait = Delivery.wait_until_tried
    monkeypatch.setattr(Delivery, "wait_until_tried", lambda self, limit: (waits.append(limit), wait(self, limit))[1])
    assert (logger.run_id, logger.experiment_id) == (None, None)
    assert (logger.name, logger.version) == ("x", logger.run_state["run_key"])
    assert (waits[0] > 0, set(waits[1:])) == (True, {0.0})  # one question is waited for, and not each
    logger.finalize("success")


def test_resuming_in_another_run_is_said(client: MlflowClient, folder: Path) -> None:
    def fit(path: str | None = None, resume_from: str | None = None, epochs: int = 1) -> BufferedMLFlowLogger:
        logger = BufferedMLFlowLogger("x", resume_from=resume_from)
        fitted = trainer(logger, callbacks=[RememberRun()], max_epochs=epochs, enable_checkpointing=False)
        fitted.fit(Line(), ckpt_path=path)
        fitted.save_checkpoint(folder / "last.ckpt")
        return logger

    first = fit()
    path = str(folder / "last.ckpt")
    assert fit(path, resume_from=path, epochs=2).run_id == first.run_id
    with pytest.warns(UserWarning, match=rf"is of the MLflow run {first.run_id}.*resume_from="):
        assert fit(path, epochs=3).run_id != first.run_id


def test_artifacts_are_their_users_alone(folder: Path) -> None:
    (folder / "mlruns").mkdir(0o755)  # as in a checkout
    for uri in ("sqlite:///mlflow.db", "sqlite:///sub/mlflow.db"):
        logger = BufferedMLFlowLogger("x", tracking_uri=uri)
        trainer(logger).fit(Line())
        checkpoint = next(Path(str(logger.save_dir)).rglob("*.ckpt"))
        above = [parent for parent in checkpoint.parents if parent.is_relative_to(folder)]
        assert any(stat.S_IMODE(parent.stat().st_mode) == 0o700 for parent in above), checkpoint
    assert stat.S_IMODE((folder / "sub").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*.lock")} == {0o600}


def test_the_name_that_belongs_to_a_password_is_in_no_spool(
    folder: Path, monkeypatch: pytest.MonkeyPatch, client: MlflowClient
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice-of-the-server")
    logger = BufferedMLFlowLogger("x", tracking_uri="http://127.0.0.1:1", finalize_timeout=0.5)
    logger.log_metrics({"a": 1.0}, 1)
    logger.finalize("success")
    (spool,) = waiting()
    assert not [path for path in spool.iterdir() if "alice" in path.read_text()]
    logger = BufferedMLFlowLogger("y")
    logger.log_metrics({"a": 1.0}, 1)
    logger.finalize("success")
    assert only_run(client).data.tags["mlflow.user"] == "alice-of-the-server"
