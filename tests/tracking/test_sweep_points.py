"""Points of a sweep leave nothing to one another: checkpoints that Lightning resumes, and ranks it starts."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.console.app import main
from tests.limits import HANG_S
from tests.ports import free_port
from tests.tracking.sweeping import all_of, parent_and_children, sweep, wait_for

SLURM = {
    "SLURM_JOB_ID": "4321", "SLURM_NTASKS": "1", "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "127.0.0.1",
    "SLURM_PROCID": "0", "SLURM_LOCALID": "0", "SLURM_NODEID": "0", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "1",
}  # fmt: skip


def test_a_requeued_job_resumes_no_point_from_the_checkpoint_of_another(
    client: MlflowClient, module: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scontrol = folder / "bin" / "scontrol"
    scontrol.parent.mkdir()
    scontrol.write_text(f"#!/bin/sh\necho $* > {folder}/requeued\n")
    scontrol.chmod(0o700)
    monkeypatch.setenv("PATH", str(scontrol.parent), prepend=os.pathsep)
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    command = sweep(module, "gate", "--b0", "0.1,1")
    job = subprocess.Popen([sys.executable, "-m", "adaloss_lightning.tracking.console.app", *command])
    try:
        wait_for(lambda: job.poll() is not None or (folder / f"at-the-gate-{job.pid}").exists())
        job.send_signal(signal.SIGUSR1)  # Lightning saves hpc_ckpt_1.ckpt and asks for another turn
        wait_for(lambda: (folder / "requeued").exists() and (folder / "requeued").read_text().endswith("\n"))
        assert (folder / "requeued").read_text().split() == ["requeue", "4321"]
        (stopped,) = [run for run in all_of(client) if run.data.tags["adaloss.kind"] == "point"]
        (saved,) = folder.rglob("hpc_ckpt_1.ckpt")
        assert saved.parent.name == stopped.info.run_id
        (folder / "hpc_ckpt_1.ckpt").hardlink_to(saved)  # as a run by hand leaves one
        job.terminate()
        assert job.wait(HANG_S) == 130
    finally:
        job.kill()
        job.wait()
    (folder / "gate").touch()
    assert main(command) == 0
    finished = [run for run in all_of(client) if run.info.status == "FINISHED" and "b0" in run.data.params]
    assert sorted(run.data.params["b0"] for run in finished) == ["0.1", "1.0"]
    for run in finished:
        steps = [metric.step for metric in client.get_metric_history(run.info.run_id, "train/loss")]
        assert steps == list(range(8))  # all of its two epochs
    assert list(folder.rglob("hpc_ckpt_*")) == [folder / "hpc_ckpt_1.ckpt"]
    assert not (folder / ".adaloss" / "points").exists()


def test_no_point_resumes_the_checkpoint_of_one_that_failed(client: MlflowClient, module: str, folder: Path) -> None:
    callback = "--trainer.callbacks+=lightning.pytorch.callbacks.OnExceptionCheckpoint"
    saves = ["--", callback, "--trainer.callbacks.dirpath=."]
    assert main(sweep(module, "well", "--b0", "1", "--grid", "model.behave=late,well", *saves)) == 1
    steps = {
        run.data.params["grid.model.behave"]: [m.step for m in client.get_metric_history(run.info.run_id, "train/loss")]
        for run in all_of(client)
        if run.data.tags["adaloss.kind"] == "point"
    }
    assert steps == {"late": list(range(4)), "well": list(range(8))}  # all of its two epochs
    assert not list(folder.rglob("on_exception*"))
    assert not (folder / ".adaloss" / "points").exists()


def test_points_train_on_two_ranks_and_a_rank_that_dies_ends_its_point_alone(
    client: MlflowClient, module: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    two = ["--trainer.devices=2", "--trainer.strategy=ddp", "--trainer.max_epochs=1"]
    assert main(sweep(module, "rank,well", "--b0", "1", "--", *two)) == 1
    parent, children = parent_and_children(client)
    broken, well = children["rank", 1.0, "1"], children["well", 1.0, "1"]
    assert [run.info.status for run in (parent, broken, well)] == ["FINISHED", "FAILED", "FINISHED"]
    assert "only the second rank is broken" in Path(broken.info.artifact_uri, "error.txt").read_text()
    # Each rank has two of the four batches.
    assert len(client.get_metric_history(well.info.run_id, "train/loss")) == 2
