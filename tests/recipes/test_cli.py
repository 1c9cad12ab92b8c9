"""RecipeCLI: what every recipe inherits, shown on the digits."""

import shutil
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import mlflow.pytorch
import pytest
import torch.distributed as dist
import yaml
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.console.app import main as tracking_console
from adaloss_lightning.tracking.grid import Point
from adaloss_lightning.tracking.sweeps.project import Project
from recipes.digits.data import DigitsData
from recipes.shared.params import run_params
from tests.limits import HANG_S, wait_for
from tests.ports import free_port
from tests.recipes.runs import TINY, config, only_run, run_recipe
from tests.recipes.runs import fit as fit_recipe

ADALOSS = config("digits", "adaloss")
fit = partial(fit_recipe, "digits")


def test_config_artifact_repeats_the_run(client: MlflowClient, folder: Path) -> None:
    fit("adaloss", "--optimizer.b0=0.5", "--seed_everything=3", "--model.net=mlp")
    first = only_run(client)
    file = Path(first.info.artifact_uri, "config.yaml")
    assert yaml.safe_load(file.read_text())["optimizer"]["init_args"]["b0"] == 0.5
    run_recipe("digits", "fit", f"--config={file}")
    runs = client.search_runs([first.info.experiment_id])
    again = next(run for run in runs if run.info.run_id != first.info.run_id)
    assert again.data.params == first.data.params
    assert again.data.metrics == first.data.metrics


def test_best_checkpoint_is_an_artifact_and_repeats_the_test_metric(client: MlflowClient, folder: Path) -> None:
    fit("adamloss", "--trainer.max_epochs=4")
    run = only_run(client)
    accuracies = {metric.step: metric.value for metric in client.get_metric_history(run.info.run_id, "val/acc")}
    (checkpoint,) = Path(run.info.artifact_uri, "checkpoints").iterdir()
    steps_per_epoch = 3
    best_epoch = max(range(4), key=lambda epoch: accuracies[(epoch + 1) * steps_per_epoch - 1])  # first of equals
    assert checkpoint.name == f"epoch={best_epoch}.ckpt"
    run_recipe("digits", "test", config("digits", "adamloss"), f"--ckpt_path={checkpoint}", *TINY["digits"])
    runs = client.search_runs([run.info.experiment_id])
    tested = next(other for other in runs if other.info.run_id != run.info.run_id)
    assert tested.data.metrics["test/acc"] == run.data.metrics["test/acc"]
    assert tested.info.status == "FINISHED"
    assert not [
        path for path in folder.iterdir() if path.name not in (".adaloss", "mlflow.db", "mlflow.db.lock", "mlruns")
    ]


def test_evaluations_have_runs_of_their_own_that_reports_leave_out(
    client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    fit("adaloss")
    accuracy = only_run(client).data.metrics["test/acc"]
    for command in ("validate", "test"):
        run_recipe("digits", command, ADALOSS, *TINY["digits"])
        assert f"initial parameters. To {command} a trained one give its --ckpt_path." in caplog.text
    tested, validated, _ = client.search_runs([client.get_experiment_by_name("digits").experiment_id])  # newest first
    assert validated.data.metrics.keys() >= {"val/loss", "val/acc"}
    assert tested.data.metrics.keys() >= {"test/loss", "test/acc"}
    assert tracking_console(["report", "--experiment", "digits", "--out", "out"]) == 0
    assert f"{100 * accuracy:.1f}" in capsys.readouterr().out


def test_last_of_several_configs_names_the_method(client: MlflowClient, folder: Path) -> None:
    (folder / "mine.yaml").write_text("method: mine\noptimizer:\n  init_args:\n    b0: 8.0\n")
    fit("adaloss", "--config=mine.yaml", "--trainer.logger.experiment_name=other")
    run = only_run(client)
    assert (run.data.params["method"], run.data.params["b0"], run.data.params["lr"]) == ("mine", "8.0", "10.0")
    assert client.get_experiment(run.info.experiment_id).name == "other"


def test_without_a_logger_nothing_is_written(folder: Path) -> None:
    fit("adaloss", "--trainer.logger=false", "--trainer.enable_checkpointing=false")
    fit("adaloss", "--trainer.logger=false", "--trainer.fast_dev_run=true")
    assert not list(folder.iterdir())


def test_process_group_ends_with_the_run(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    # left to the end of the process, a thread of gloo may abort it
    fit("adaloss", "--trainer.strategy=ddp", "--trainer.devices=1", "--model.net=mlp")
    assert not dist.is_initialized()


def test_non_finite_loss_ends_the_run_with_a_tag(client: MlflowClient) -> None:
    fit("sgd_constant", "--optimizer.lr=1e38", "--model.net=mlp", "--trainer.max_epochs=50")
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert run.data.tags["diverged"].startswith("epoch ")
    assert run.data.metrics["epoch"] < 5
    assert "loss" in run.data.tags["non_finite"]


def test_error_in_the_data_is_a_failed_run(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: DigitsData, stage: str) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr(DigitsData, "setup", broken)
    with pytest.raises(OSError, match="the disk is gone"):
        fit("adaloss")
    assert only_run(client).info.status == "FAILED"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.process
def test_stopped_run_is_killed_in_the_store_too(client: MlflowClient, folder: Path, number: signal.Signals) -> None:
    command = ["fit", ADALOSS, *TINY["digits"], "--trainer.max_epochs=100000"]
    errors = folder / "stderr"
    with errors.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "recipes.digits", *command], stderr=file
        )

    def is_training() -> bool:
        assert process.poll() is None
        found = client.search_runs([experiment.experiment_id for experiment in client.search_experiments()])
        return bool(found and found[0].data.metrics.get("train/loss"))

    try:
        wait_for(is_training)
        process.send_signal(number)
        assert process.wait(HANG_S) != 0
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGABRT)  # says where each thread is
        process.wait(HANG_S)
        pytest.fail(errors.read_text()[-5000:])
    finally:
        process.kill()
    assert tracking_console(["sync"]) == 0  # what a loaded machine did not deliver in time
    assert only_run(client).info.status == "KILLED"


def run_with_store(uri: str) -> "subprocess.CompletedProcess[str]":
    command = ["fit", ADALOSS, *TINY["digits"], f"--trainer.logger.tracking_uri={uri}"]
    return subprocess.run([sys.executable, "-m", "recipes.digits", *command], capture_output=True, text=True)


@pytest.mark.process
def test_invalid_store_address_is_one_line(folder: Path) -> None:
    ended = run_with_store("htp://here")
    assert ended.returncode == 2
    error = ended.stderr.strip().splitlines()[-1]
    assert error.startswith("error: Cannot use the MLflow store htp://here")
    assert "MLFLOW_TRACKING_URI" in error
    assert "Traceback" not in ended.stderr


@pytest.mark.process
def test_unusable_store_does_not_end_the_run(folder: Path) -> None:
    (folder / "file").touch()
    ended = run_with_store("sqlite:///file/mlflow.db")
    assert ended.returncode == 0
    assert ended.stderr.count("Training goes on") == 1
    assert "Traceback" not in ended.stderr
    assert tracking_console(["sync", "--tracking-uri=sqlite:///mlflow.db"]) == 0
    client = MlflowClient(f"sqlite:///{folder}/mlflow.db")  # MLflow keeps a store for each address, in whatever folder
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["test/acc"] > 0
    artifacts = {item.path for item in client.list_artifacts(run.info.run_id)}
    assert artifacts == {"config.yaml", "checkpoints"}


def test_log_model_logs_the_tested_network(client: MlflowClient) -> None:
    fit("adaloss", "--log_model=true")
    run = only_run(client)
    assert run.info.status == "FINISHED"
    (output,) = run.outputs.model_outputs
    assert run.data.params.keys().isdisjoint({"log_model"})
    model = mlflow.pytorch.load_model(f"models:/{output.model_id}")
    data = DigitsData()
    data.setup("test")
    hits = total = 0
    for images, labels in data.test_dataloader():
        hits += int((model(images).argmax(1) == labels).sum())
        total += len(labels)
    assert hits / total == pytest.approx(run.data.metrics["test/acc"], abs=1e-6)  # torchmetrics averages in float32


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_checkpoint_path_resumes_the_run_of_the_checkpoint(client: MlflowClient) -> None:
    fit("adaloss", "--checkpoint.save_weights_only=false", "--checkpoint.save_last=true", "--trainer.max_epochs=2")
    first = only_run(client)
    last = Path(first.info.artifact_uri, "checkpoints", "last.ckpt")
    fit("adaloss", f"--ckpt_path={last}", "--trainer.max_epochs=4", "--checkpoint.save_last=true")
    run = only_run(client)  # still one
    assert run.info.run_id == first.info.run_id
    assert run.info.status == "FINISHED"
    # Lightning validates once more where the checkpoint was made.
    steps = {point.step for point in client.get_metric_history(run.info.run_id, "val/acc")}
    assert steps == {2, 5, 8, 11}
    assert run.data.params["trainer.max_epochs"] == "2"  # MLflow never changes a param
    file = Path(run.info.artifact_uri, "config.yaml")
    assert yaml.safe_load(file.read_text()).get("ckpt_path") is None  # else `fit` with that file would resume this run


ADAPTING = {"class_path": "adaloss_lightning.AdaLossCallback", "init_args": {"b0": 4.0, "rule": None}}


@pytest.mark.parametrize("callbacks", [[ADAPTING], [{"class_path": "a.B"}, ADAPTING], ADAPTING])
def test_run_params_take_b0_from_the_callback_that_makes_the_optimizer_adaptive(callbacks: Any) -> None:
    config = {
        "seed_everything": 3,
        "optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.1, "foreach": None}},
        "trainer": {"callbacks": callbacks, "max_epochs": 5},
        "model": {"net": "cnn", "inner": {"class_path": "a.B", "init_args": {"x": 1}}},
    }
    assert run_params("r", config) == {
        "recipe": "r", "method": "adamw", "b0": 4.0, "lr": 0.1, "seed": 3, "optimizer": "AdamW",
        "model.net": "cnn", "model.inner": "B", "model.inner.x": 1, "trainer.max_epochs": 5,
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
@pytest.mark.parametrize("ckpt_path", ["last", "hpc"])
def test_symbolic_checkpoint_path_resumes_its_run(client: MlflowClient, folder: Path, ckpt_path: str) -> None:
    kept = ["--checkpoint.dirpath=kept", "--checkpoint.save_last=true"]
    fit("adaloss", "--trainer.max_epochs=1", *kept)
    shutil.copy("kept/last.ckpt", "hpc_ckpt_1.ckpt")
    fit("adaloss", "--trainer.max_epochs=2", f"--ckpt_path={ckpt_path}", *kept)
    run = only_run(client)
    assert run.info.status == "FINISHED"
    assert len(client.get_metric_history(run.info.run_id, "val/loss")) == 2


def test_a_sweep_gives_b0_to_the_callback_that_adapts_torchs_optimizer() -> None:
    point = Point("auto", "0.5", "1")
    settings = Project.find("tabular").settings(point, ["--trainer.callbacks+=lightning.pytorch.callbacks.Timer"])
    adapting, added = settings["trainer"]["callbacks"]
    assert adapting["init_args"]["b0"] == 0.5
    assert adapting["init_args"]["auto"] is True
    assert added["class_path"].endswith("Timer")


def test_the_short_name_of_an_optimizer_is_torchs(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run_recipe("digits", "fit", "--optimizer=Adam", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["optimizer"]["class_path"] == "torch.optim.Adam"
