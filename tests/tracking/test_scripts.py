"""A run that no Trainer ends, begins or finds a folder for: what a script of somebody's own may rely on."""

import contextlib
import functools
import random
import shutil
import sqlite3
import stat
import subprocess
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger, RememberRun, StoreError, open_store
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.logger import delivery
from adaloss_lightning.tracking.logger.delivery import Delivery
from adaloss_lightning.tracking.logger.recovery import waiting
from tests.limits import HANG_S
from tests.tracking.test_logger import only_run
from tests.tracking.training import Line, end_of_process, runs_of, trainer

SCRIPTS = """
import os, sys
import mlflow.store.tracking.sqlalchemy_store
from adaloss_lightning.tracking import BufferedMLFlowLogger
for end in sys.argv[1:]:  # a process each, whose imports are done
    if not os.fork():
        logger = BufferedMLFlowLogger("x", run_name=end, finalize_timeout=1.0)
        logger.log_metrics({"a": 1.0}, 1)
        exec(end)
        break
    os.wait()
"""
ENDS = {
    "pass": "FINISHED",
    "sys.exit(0)": "FINISHED",
    "raise ValueError('no')": "FAILED",
    "raise KeyboardInterrupt": "KILLED",
    "sys.ps1 = '>>> '; sys.last_value = ValueError('in an earlier cell')": "FINISHED",  # a session at a prompt
    "logger.finalize('failed'); raise KeyboardInterrupt": "FAILED",  # the end was known before
}


@pytest.mark.process
@pytest.mark.parametrize("is_away", [False, True])
def test_a_script_that_ends_ends_its_run(client: MlflowClient, monkeypatch: pytest.MonkeyPatch, is_away: bool) -> None:
    with monkeypatch.context() as patch:
        if is_away:
            patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        subprocess.run([sys.executable, "-c", SCRIPTS, *ENDS], capture_output=True, check=True)
        assert bool(waiting()) >= is_away
    assert main(["sync", "--tracking-uri", client.tracking_uri]) == 0  # also what a loaded machine did not deliver
    runs = {run.info.run_name: run for run in runs_of(client, "x")}
    assert {end: run.info.status for end, run in runs.items()} == ENDS
    assert all(run.data.metrics == {"a": 1.0} for run in runs.values())
    assert not waiting()


FORKS = """
import os, sys
import mlflow.store.tracking.sqlalchemy_store
from adaloss_lightning.tracking import BufferedMLFlowLogger
from adaloss_lightning.tracking.logger.recovery import waiting
from adaloss_lightning.tracking.logger.spool import Spool
logger = BufferedMLFlowLogger("x")
logger.log_metrics({"a": 0.0}, 0)
assert logger.flush()
for code in sys.argv[1:]:
    logger.log_metrics({"b": 1.0})  # it is still to be delivered, by this process
    if not os.fork():
        exec(code)
        sys.exit(0)
    assert os.wait()[1] == 0
    (folder,) = waiting()
    assert Spool.adopt(folder) is None  # it is still this process's
for step in range(1, 11):
    logger.log_metrics({"a": float(step)}, step)
assert logger.flush()
run_id = logger.run_id
logger.finalize("success")
assert not waiting()
print(run_id)
"""


@pytest.mark.process
def test_the_end_of_a_forked_child_takes_nothing_from_its_parent(client: MlflowClient) -> None:
    children = ["pass", "logger.flush()", "logger = None; import gc; gc.collect()"]
    done = subprocess.run([sys.executable, "-c", FORKS, *children], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    run = only_run(client)
    assert done.stdout.strip() == run.info.run_id
    assert [point.step for point in client.get_metric_history(run.info.run_id, "a")] == list(range(11))
    assert run.info.status == "FINISHED"


@pytest.mark.process
def test_what_a_forked_child_logs_does_not_end_its_parents_run(client: MlflowClient) -> None:
    code = """
import os, sys
import mlflow.store.tracking.sqlalchemy_store
from mlflow import MlflowClient
from adaloss_lightning.tracking import BufferedMLFlowLogger
logger = BufferedMLFlowLogger("x")
logger.log_metrics({"a": 0.0}, 0)
assert logger.flush()
if not os.fork():
    logger.log_metrics({"a": 1.0}, 1)
    sys.exit(0)
assert os.wait()[1] == 0
print(MlflowClient().get_run(logger.run_id).info.status)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "RUNNING", done.stderr
    run = only_run(client)
    assert len(client.get_metric_history(run.info.run_id, "a")) == 2
    assert run.info.status == "FINISHED"


KILLED_IN = """
import os, signal, sys
from mlflow import MlflowClient
from torch.utils.data import DataLoader
from adaloss_lightning.tracking import BufferedMLFlowLogger
from tests.tracking.training import Line, trainer

class Evaluated(Line):
    def evaluation_step(self, batch, batch_idx):
        self.disturb(batch_idx)
        self.log("loss", self.weight.sum())

    validation_step = test_step = evaluation_step
    val_dataloader = test_dataloader = Line.train_dataloader

def kill(batch_idx):
    logger.log_metrics({"now": 1.0})
    assert logger.flush()
    print(MlflowClient().get_run(logger.run_id).info.status)
    if sys.argv[2] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)

*before, last = sys.argv[1].split(" then ")
logger = BufferedMLFlowLogger("x")
module = Evaluated()
for call in before:
    getattr(trainer(logger, enable_checkpointing=False, num_sanity_val_steps=0), call)(module)
    assert logger.flush()
    logger.log_metrics({"between": 1.0})  # of no call that would end the run again
    assert logger.flush()
    print(MlflowClient().get_run(logger.run_id).info.status)
module.disturb = kill
getattr(trainer(logger, enable_checkpointing=False, num_sanity_val_steps=0), last)(module)
"""


@pytest.mark.process
@pytest.mark.parametrize("how", ["killed", "to the end"])
@pytest.mark.parametrize("calls", ["validate then fit", "fit then test", "fit then fit"])
def test_a_run_goes_on_with_each_call_of_a_trainer(client: MlflowClient, calls: str, how: str) -> None:
    command = [sys.executable, "-c", KILLED_IN, calls, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert [line for line in done.stdout.splitlines() if line.isupper()][:2] == ["FINISHED", "RUNNING"], done.stderr
    assert main(["sync"]) == 0
    assert only_run(client).info.status == ("KILLED" if how == "killed" else "FINISHED")


def test_starting_a_run_draws_no_random_number_of_the_training(client: MlflowClient) -> None:
    random.seed(1)
    before = random.getstate()
    for _ in range(2):
        logger = BufferedMLFlowLogger("x")
        logger.log_metrics({"a": 1.0}, 1)
        logger.finalize("success")
    assert random.getstate() == before
    assert len({run.info.run_name for run in runs_of(client, "x")}) == 2


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


SLURM = {"JOB_ID": "1", "NTASKS": "1", "JOB_NAME": "train", "NODELIST": "localhost", "PROCID": "0", "LOCALID": "0",
         "NODEID": "0", "NTASKS_PER_NODE": "1", "NNODES": "1"}  # fmt: skip


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.filterwarnings("ignore:`.fit.ckpt_path=None.` was called without a model")
@pytest.mark.filterwarnings("ignore:.*but there is no last checkpoint available")
@pytest.mark.parametrize("ckpt_path", ["kept/last.ckpt", "file:", "last", "hpc", "requeued", "after a fault"])
def test_a_fit_continues_the_run_of_the_checkpoint_it_resumes(
    client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch, ckpt_path: str
) -> None:
    """However the checkpoint is named. The first ModelCheckpoint has no folder yet when Lightning looks for `last`."""

    def fit(given: str | None, epochs: int) -> BufferedMLFlowLogger:
        logger = BufferedMLFlowLogger("x")
        callbacks = [RememberRun(), ModelCheckpoint(every_n_epochs=9), ModelCheckpoint("kept", save_last=True)]
        if ckpt_path == "after a fault":
            callbacks.append(OnExceptionCheckpoint("faults"))
        fitted = trainer(logger, callbacks=callbacks, max_epochs=epochs, default_root_dir=str(folder))
        fitted.fit(Line(), ckpt_path=given)
        fitted.save_checkpoint(folder / "hpc_ckpt_1.ckpt")
        return logger

    first = fit(None, 1)
    for name, value in SLURM.items() if ckpt_path == "requeued" else ():
        monkeypatch.setenv(f"SLURM_{name}", value)
    address = (folder / "kept" / "last.ckpt").as_uri() if ckpt_path == "file:" else ckpt_path
    second = fit(None if ckpt_path in ("requeued", "after a fault") else address, 2)
    assert second.run_id == first.run_id
    run = only_run(client)
    assert run.info.status == "FINISHED"
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "train/loss")]
    assert sorted(steps) == list(range(8))


def test_a_logger_of_a_callbacks_own_has_a_run_of_its_own_when_a_fit_resumes(client: MlflowClient) -> None:
    own = BufferedMLFlowLogger("own")

    class Logs(pl.Callback):
        def on_train_batch_end(self, trainer: pl.Trainer, *_: object) -> None:
            own.log_metrics({"a": 1.0}, trainer.global_step)

    fit(BufferedMLFlowLogger("x"), None, 1, RememberRun())
    fit(BufferedMLFlowLogger("x"), "last.ckpt", 2, RememberRun(), Logs())
    own.finalize("success")
    assert len(client.get_metric_history(str(own.run_id), "a")) == 4
    assert len(runs_of(client, "x")) == len(runs_of(client, "own")) == 1


class Outer:
    class Inner:
        pass


def test_a_checkpoint_with_objects_of_any_class_names_its_run(client: MlflowClient) -> None:
    """As `save_hyperparameters` leaves them there; none of their classes is imported to read it."""
    odd = {pl.Trainer: Path("x"), "partial": functools.partial(print, Fraction(1, 2)), "weight": torch.zeros(3)}
    odd["nested"] = Outer.Inner()
    torch.save({"mlflow_run": [{"run_key": "of the first one"}], "hyper_parameters": odd}, "odd.ckpt")
    assert BufferedMLFlowLogger("x", resume_from="odd.ckpt").run_state["run_key"] == "of the first one"


def fit(loggers: Any, path: str | None, epochs: int, *callbacks: pl.Callback) -> None:
    """Leaves `last.ckpt` behind."""
    fitted = trainer(loggers, callbacks=list(callbacks), max_epochs=epochs, enable_checkpointing=False)
    fitted.fit(Line(), ckpt_path=path)
    fitted.save_checkpoint("last.ckpt")


def test_two_stores_each_continue_their_own_run(client: MlflowClient, folder: Path) -> None:
    shutil.copy("mlflow.db", "other.db")
    stores = [f"sqlite:///{folder}/{name}.db" for name in ("mlflow", "other")]
    for order, path, epochs in ((stores, None, 1), (stores[::-1], "last.ckpt", 2)):
        fit([BufferedMLFlowLogger("x", tracking_uri=uri) for uri in order], path, epochs, RememberRun())
    for uri in stores:
        run = only_run(MlflowClient(uri))
        steps = [point.step for point in MlflowClient(uri).get_metric_history(run.info.run_id, "train/loss")]
        assert sorted(steps) == list(range(8))
        assert run.info.status == "FINISHED"


def test_a_store_without_the_checkpoints_run_gets_a_new_one(
    client: MlflowClient, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.copy("mlflow.db", "other.db")
    other = MlflowClient(f"sqlite:///{folder}/other.db")
    for uri, path, epochs in (("sqlite:///mlflow.db", None, 1), ("sqlite:///other.db", "last.ckpt", 2)):
        fit(BufferedMLFlowLogger("x", tracking_uri=uri), path, epochs, RememberRun())
    assert len(other.get_metric_history(only_run(other).info.run_id, "train/loss")) == 4
    assert f"run {only_run(client).info.run_id} is not in sqlite:////" in caplog.text


def test_what_keeps_a_checkpoint_from_its_run_is_named(client: MlflowClient, caplog: pytest.LogCaptureFixture) -> None:
    first = BufferedMLFlowLogger("x")
    fit(first, None, 1)
    fit(BufferedMLFlowLogger("x"), "last.ckpt", 2, RememberRun())
    assert "from adaloss_lightning.tracking import RememberRun" in caplog.text
    begun = BufferedMLFlowLogger("x")
    begun.log_hyperparams({"before": "fit"})
    with pytest.warns(UserWarning, match="begun before fit.*resume_from="):
        fit(begun, "last.ckpt", 3, RememberRun())
    fresh = BufferedMLFlowLogger("x", resume_from=False)
    with pytest.warns(UserWarning, match=f"is of run {begun.run_id} in MLflow"):
        fit(fresh, "last.ckpt", 4, RememberRun())
    assert len({logger.run_id for logger in (first, begun, fresh)}) == 3


@pytest.mark.parametrize("is_there", [True, False])
def test_nothing_is_put_where_mlflow_lists_experiments(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_there: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """An `mlruns` folder may be a file store of MLflow 2, to which every folder in it is an experiment."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    files = MlflowClient(f"file:{folder}/mlruns")
    files.log_metric(files.create_run(files.create_experiment("thesis")).info.run_id, "acc", 0.9)
    before = sorted((folder / "mlruns").iterdir())
    uri = f"sqlite:///{folder}/other.db" if is_there else "http://127.0.0.1:1"
    logger = BufferedMLFlowLogger("new", tracking_uri=uri, finalize_timeout=0.5)
    trainer(logger).fit(Line())
    end_of_process()
    assert list(Path(str(logger.save_dir)).rglob("*.ckpt"))
    assert sorted((folder / "mlruns").iterdir()) == before
    assert sorted(found.name for found in files.search_experiments()) == ["Default", "thesis"]
    assert "Malformed" not in caplog.text


def test_a_database_that_fails_is_one_line_a_minute_and_no_traceback(
    client: MlflowClient,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Here for a table that is missing for a while: SQLite raises the same for a lock, after 20 seconds each time."""
    monkeypatch.setattr(delivery, "SILENCE_S", HANG_S)
    logger = BufferedMLFlowLogger("x", finalize_timeout=60)
    logger.log_metrics({"a": 0.0}, 0)
    assert logger.flush()
    asked: list[str] = []
    log_batch = MlflowClient.log_batch
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *args, **rest: (asked.append(""), log_batch(*args, **rest)))
    for step in (1, 2):  # two outages
        with contextlib.closing(sqlite3.connect(folder / "mlflow.db")) as other:
            other.execute("ALTER TABLE metrics RENAME TO away")
            logger.log_metrics({"a": float(step)}, step)
            asked.clear()
            while len(asked) < 2:
                logger.flush(0.1)
            other.execute("ALTER TABLE away RENAME TO metrics")
        assert logger.flush()
    logger.finalize("success")
    printed = caplog.text + "".join(capfd.readouterr())
    assert printed.count("no such table: metrics") == 1
    assert "Traceback" not in printed
    assert "[SQL" not in printed
    assert len(client.get_metric_history(str(logger.run_id), "a")) == 3


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
