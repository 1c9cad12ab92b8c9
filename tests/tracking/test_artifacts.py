"""Models, checkpoints and files as artifacts of a run, and the machine's metrics."""

import contextlib
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import lightning.pytorch as pl
import mlflow.pytorch
import pytest
import torch
import yaml
from lightning.pytorch.callbacks import ModelCheckpoint
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger, RememberRun, TrackingError, log_model
from adaloss_lightning.tracking.console.app import main
from tests.tracking.test_logger import only_run
from tests.tracking.training import Line, trainer


class Network(Line):
    """`Line` with a network that can be called."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.Dropout(0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x)


def test_a_model_of_a_finished_run_is_loaded_back(client: MlflowClient) -> None:
    logger, network = BufferedMLFlowLogger("x"), Network()
    trainer(logger, enable_checkpointing=False).fit(network)
    before = only_run(client).info
    uri = log_model(str(logger.run_id), network, torch.randn(2, 4))
    assert network.training
    run = only_run(client)
    assert (run.info.status, run.info.end_time) == ("FINISHED", before.end_time)
    assert [output.model_id for output in run.outputs.model_outputs] == [uri.removeprefix("models:/")]
    inputs = torch.randn(7, 4)  # another batch size than the example's
    assert torch.equal(mlflow.pytorch.load_model(uri)(inputs), network.eval()(inputs))
    signature = mlflow.models.get_model_info(uri).signature
    assert signature.inputs.to_dict() == [{"type": "tensor", "tensor-spec": {"dtype": "float32", "shape": (-1, 4)}}]
    assert signature.outputs.to_dict()[0]["tensor-spec"]["shape"] == (-1, 3)
    files = [path for path in Path("mlruns").rglob("*") if path.is_file()]
    assert [path.name for path in files if path.suffix == ".pt2"] == ["model.pt2"]
    assert not [path for path in files if path.suffix in (".pkl", ".pth", ".pickle")]


@pytest.mark.parametrize("inputs", [4, 5])  # of which 5 cannot be exported
def test_logging_a_model_leaves_each_part_of_it_as_it_was(client: MlflowClient, inputs: int) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"a": 1.0})
    logger.finalize("success")
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4), torch.nn.Dropout())
    network[1].eval()  # frozen
    network(torch.randn(3, 4)).sum().backward()
    parts = [*network.parameters(), *(parameter.grad for parameter in network.parameters()), *network.buffers()]
    before = [(id(tensor), tensor.data_ptr(), tensor.clone()) for tensor in parts]
    with contextlib.nullcontext() if inputs == 4 else pytest.raises(TrackingError):
        log_model(str(logger.run_id), network, torch.randn(3, inputs))
    assert [part.training for part in network.modules()] == [True, True, False, True]
    after = [*network.parameters(), *(parameter.grad for parameter in network.parameters()), *network.buffers()]
    assert [(id(tensor), tensor.data_ptr()) for tensor in after] == [where[:2] for where in before]
    assert all(torch.equal(tensor, was) for tensor, (_, _, was) in zip(after, before, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_logging_a_model_leaves_each_part_on_its_device(client: MlflowClient) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"a": 1.0})
    logger.finalize("success")
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.BatchNorm1d(4).cuda(), torch.nn.Linear(4, 1).cuda())
    tensors = [*network.parameters(), *network.buffers()]
    before = [(id(tensor), tensor.device, tensor.data_ptr()) for tensor in tensors]
    log_model(str(logger.run_id), network, torch.randn(3, 4))
    after = [*network.parameters(), *network.buffers()]
    assert [(id(tensor), tensor.device, tensor.data_ptr()) for tensor in after] == before


def test_what_cannot_be_exported_is_said_and_the_run_is_as_it_was(client: MlflowClient) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"a": 1.0})
    logger.finalize("success")
    with pytest.raises(TrackingError, match="Cannot log Linear as an MLflow model"):
        log_model(str(logger.run_id), torch.nn.Linear(3, 1), torch.randn(2, 4))
    assert client.search_logged_models([only_run(client).info.experiment_id]) == []


@pytest.mark.parametrize(("log_model", "kept"), [(True, 2), ("all", 6), (False, 0)])
def test_checkpoints_kept_elsewhere_follow_as_artifacts(
    client: MlflowClient, folder: Path, log_model: bool | str, kept: int
) -> None:
    logger = BufferedMLFlowLogger("x", log_model=log_model)
    best = ModelCheckpoint(folder / "elsewhere", monitor="train/loss", save_top_k=2)
    trainer(logger, max_epochs=6, callbacks=[best]).fit(Line())
    artifacts = Path(only_run(client).info.artifact_uri)
    found = {path.relative_to(artifacts).as_posix() for path in artifacts.rglob("*") if path.is_file()}
    assert len([name for name in found if name.endswith(".ckpt")]) == kept
    assert len(found) == 3 * kept
    if log_model is True:
        assert found > {f"{Path(path).stem}/{Path(path).name}" for path in best.best_k_models}
        for path, score in best.best_k_models.items():
            copy = artifacts / Path(path).stem
            assert (copy / Path(path).name).read_bytes() == Path(path).read_bytes()
            metadata = yaml.safe_load((copy / "metadata.yaml").read_text())
            assert metadata["score"] == pytest.approx(score.item())
            assert metadata["original_filename"] == Path(path).name
            assert metadata["Checkpoint"]["monitor"] == "train/loss"
            aliases = "['latest', 'best']" if path == best.best_model_path else "['latest']"  # as Lightning writes them
            assert (copy / "aliases.txt").read_text() == aliases


def checkpoints_in(run: Run) -> dict[str, bytes]:
    artifacts = Path(run.info.artifact_uri)
    return {path.relative_to(artifacts).as_posix(): path.read_bytes() for path in artifacts.rglob("*.ckpt")}


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_the_artifacts_are_what_each_of_several_callbacks_keeps(client: MlflowClient, folder: Path) -> None:
    def fit(path: str | None, epochs: int) -> list[ModelCheckpoint]:
        callbacks = [
            ModelCheckpoint("best", monitor="train/loss", save_last=True),
            ModelCheckpoint("every", filename="every-{epoch}", save_top_k=-1),
            ModelCheckpoint("latest", filename="newest-{epoch}", monitor="epoch", mode="max", save_last="link"),
        ]
        logger = BufferedMLFlowLogger("x", log_model=True)
        every = [RememberRun(), *callbacks]
        trainer(logger, max_epochs=epochs, callbacks=every).fit(Line(), ckpt_path=path)
        return callbacks

    for path, epochs in ((None, 3), ("every/every-epoch=2.ckpt", 5)):  # what the resumed run deletes is deleted too
        fit(path, epochs)
        kept = sorted(file.read_bytes() for file in folder.glob("*/*.ckpt"))
        found = checkpoints_in(only_run(client))
        assert sorted(found.values()) == kept
        assert len(kept) >= epochs + 4
        assert {name for name in found if "last" in name} == {"last/last.ckpt", "last-2/last.ckpt"}


@pytest.mark.filterwarnings("ignore:The dirpath has changed from")
def test_an_artifact_whose_checkpoint_is_lost_stays(client: MlflowClient, folder: Path) -> None:
    """As on another node, whose disk has none of the checkpoints, a run goes on from their only copies."""

    def fit(where: str, epochs: int, run_id: str | None = None, path: str | None = None) -> BufferedMLFlowLogger:
        logger = BufferedMLFlowLogger("x", run_id=run_id, log_model=True)
        keep = ModelCheckpoint(where, filename="{epoch}", save_last=True)
        trainer(logger, max_epochs=epochs, callbacks=[keep]).fit(Line(), ckpt_path=path)
        return logger

    first = fit("one", 1)
    before = checkpoints_in(only_run(client))
    assert before.keys() == {"epoch=0/epoch=0.ckpt", "last/last.ckpt"}
    shutil.rmtree(folder / "one")
    artifact = Path(only_run(client).info.artifact_uri, "epoch=0", "epoch=0.ckpt")
    fit("two", 3, first.run_id, str(artifact))
    found = checkpoints_in(only_run(client))
    assert found.keys() == before.keys() | {"epoch=2/epoch=2.ckpt", "last-2/last.ckpt"}  # and of its own the newest
    assert {name: found[name] for name in before} == before


def test_checkpoints_of_lightnings_default_folder_do_not_repeat_the_runs_path(client: MlflowClient) -> None:
    logger = BufferedMLFlowLogger("x")
    trainer(logger).fit(Line())
    assert list(checkpoints_in(only_run(client))) == ["checkpoints/epoch=0-step=4.ckpt"]
    assert (logger.name, logger.version) == (logger.experiment_id, logger.run_id)


BAD_NAMES = ["../../escaped.txt", "/tmp/escaped.txt", "", "a\0b.txt", "caf\udce9", "a" * 256, f"{'a' * 300}/b.txt"]


def test_files_of_ones_own_stay_inside_the_artifacts(client: MlflowClient, folder: Path) -> None:
    (folder / "a.txt").write_text("hello")
    logger = BufferedMLFlowLogger("x")
    there = Path(str(logger.save_dir), "plot.txt")
    there.write_text("x")
    logger.log_artifact(there)  # it is an artifact already
    logger.log_artifact("a.txt", "notes")
    logger.log_text("text", "notes/b.txt")
    with pytest.raises(ValueError, match=r"Invalid artifact_path='\.\./\.\.'"):
        logger.log_artifact("a.txt", "../..")
    for bad in BAD_NAMES:
        with pytest.raises(ValueError, match="Invalid artifact_file="):
            logger.log_text("text", bad)
    logger.finalize("success")
    names = [artifact.path for artifact in client.list_artifacts(str(logger.run_id))]
    notes = [artifact.path for artifact in client.list_artifacts(str(logger.run_id), "notes")]
    assert (names, notes) == (["notes", "plot.txt"], ["notes/a.txt", "notes/b.txt"])
    assert there.read_text() == "x"
    assert not list(folder.rglob("escaped.txt"))
    assert only_run(client).info.status == "FINISHED"


def test_an_artifact_that_the_disk_does_not_take_ends_no_training(
    client: MlflowClient, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "big.bin").write_bytes(bytes(100_000))
    logger = BufferedMLFlowLogger("x")
    assert logger.save_dir is not None
    assert logger.flush()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))  # a disk that takes 1000 bytes of a file
    try:
        logger.log_artifact("big.bin", "data")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "Cannot keep big.bin as an artifact of run" in caplog.text
    assert not list(Path(logger.save_dir).rglob("big.bin"))
    logger.log_artifact("big.bin", "data")
    with pytest.raises(FileNotFoundError, match="nothing"):
        logger.log_artifact("nothing.bin")
    logger.finalize("success")
    assert [artifact.path for artifact in client.list_artifacts(str(logger.run_id), "data")] == ["data/big.bin"]


def test_an_experiments_name_cannot_leave_its_folder(folder: Path) -> None:
    logger = BufferedMLFlowLogger("../../out", tracking_uri="http://127.0.0.1:9", finalize_timeout=0.1)
    assert Path(str(logger.save_dir)).is_relative_to(folder / ".adaloss" / "artifacts")


def test_the_machines_metrics_are_those_of_mlflow(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    logger = BufferedMLFlowLogger("x", log_system_metrics=True, prefix="p")  # which theirs do not get
    logger.log_metrics({"a": 1.0})
    logger.finalize("success")  # as a trainer does that has validated before it fits
    sampled = [False]

    class Long(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            metrics = client.get_run(str(logger.run_id)).data.metrics
            trainer.should_stop = sampled[0] = any(name.startswith("system/") for name in metrics)

    trainer(logger, max_epochs=100_000, callbacks=[Long()], enable_checkpointing=False).fit(Line())
    assert sampled == [True]
    name, run_id = "system/system_memory_usage_megabytes", str(logger.run_id)
    first = {point.step for point in client.get_metric_history(run_id, name)}
    again = BufferedMLFlowLogger("x", run_id=run_id, log_system_metrics=True)
    again.log_metrics({"a": 1.0})
    while len(steps := [point.step for point in client.get_metric_history(run_id, name)]) <= len(first):
        again.flush(1.0)
    again.finalize("success")
    assert sorted(steps) == list(range(len(steps)))  # those of the machine's metrics go on
    metrics = only_run(client).data.metrics
    assert {"system/cpu_utilization_percentage", "system/system_memory_usage_megabytes"} <= metrics.keys()
    assert 0 < metrics["system/system_memory_usage_percentage"] < 100


LOGS_A_TEXT = """
import os
from pathlib import Path
from adaloss_lightning.tracking import BufferedMLFlowLogger
from tests.limits import wait_for
logger = BufferedMLFlowLogger("x", finalize_timeout=1.0)
logger.log_text("a: 1", "config.yaml")
logger.log_metrics({"a": 1.0}, 1)
wait_for(lambda: list(Path(".adaloss").glob("*/artifacts.json")))  # it is noted that they wait
assert not logger.flush(0.1)
logger.finalize("success")
os._exit(0)
"""


def test_artifacts_that_wait_in_memory_alone_are_promised_to_this_process_alone(
    client: MlflowClient, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / "storage").touch()
    client.create_experiment("x", artifact_location=str(folder / "storage"))
    monkeypatch.setenv("ADALOSS_SPOOL", str(folder / "storage"))  # no folder can be made there either
    logger = BufferedMLFlowLogger("x")
    logger.log_text("a", "a.txt")
    logger.finalize("success")
    assert "Cannot store artifacts of run" in caplog.text
    assert "lost if it ends before" in caplog.text
    assert "adaloss sync" not in caplog.text


@pytest.mark.process
def test_artifacts_whose_storage_fails_hold_up_nothing_else_and_arrive_later(
    client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = folder / "storage"
    storage.touch()  # a file where the folder of artifacts should be
    client.create_experiment("x", artifact_location=str(storage))
    done = subprocess.run([sys.executable, "-c", LOGS_A_TEXT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Cannot store artifacts of run") == 1
    assert main(["sync"]) == 1
    assert "artifacts wait for their storage" in capsys.readouterr().out
    run = only_run(client)
    assert (run.data.metrics, run.info.status) == ({"a": 1.0}, "FINISHED")
    storage.unlink()
    assert main(["sync"]) == 0
    assert (storage / run.info.run_id / "artifacts" / "config.yaml").read_text() == "a: 1"
    assert main(["sync"]) == 0
    assert "Nothing waits" in capsys.readouterr().out
