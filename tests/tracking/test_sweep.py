"""Sweeps, through the console, over a project that is not ours; read back with MLflow's own client."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from threading import Thread

import pytest
import yaml
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.grid import Grid
from adaloss_lightning.tracking.logger.run_end import Status
from adaloss_lightning.tracking.sweeps.executors.in_process import InProcess
from adaloss_lightning.tracking.sweeps.executors.task import Outcome
from adaloss_lightning.tracking.sweeps.ledger import Ledger
from adaloss_lightning.tracking.sweeps.project import Project
from adaloss_lightning.tracking.sweeps.sweep import Sweep
from tests.limits import HANG_S
from tests.tracking.sweeping import METHOD, all_of, parent_and_children, sweep, wait_for


def test_a_sweep_is_a_parent_run_and_a_child_for_each_point(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = sweep(module, "well,raise", "--b0", "0.1,1", "--seeds", "1,2", "--", "--trainer.max_epochs=1")
    assert main(arguments) == 1  # some points failed
    parent, children = parent_and_children(client)
    assert parent.info.status == "FINISHED"
    assert set(children) == {(m, b0, s) for m in ("well", "raise") for b0 in (0.1, 1.0) for s in ("1", "2")}
    for (method, b0, _), child in children.items():
        # MLflow's filters drop children that lack the parent's params.
        assert parent.data.params.items() <= child.data.params.items()
        assert child.data.params["recipe"] == module
        assert child.data.params["lr"] == "0.05"
        config = yaml.safe_load(Path(child.info.artifact_uri, "config.yaml").read_text())
        assert config["optimizer"]["init_args"]["b0"] == b0
        assert config["trainer"]["max_epochs"] == 1
        if method == "raise":
            assert child.info.status == "FAILED"
            assert child.data.tags["error"] == "ValueError: this model is broken"
            assert "Traceback" in Path(child.info.artifact_uri, "error.txt").read_text()
        else:
            assert child.info.status == "FINISHED"
            # x = (0, 1) and y = 2x, so the first loss is 2 whatever b0 is, and its gradient is -2.
            weight = 0.05 / (b0**2 + 2.0) ** 0.5 * 2.0
            second = ((weight - 2) * 2) ** 2 / 2 + ((weight - 2) * 3) ** 2 / 2
            losses = [metric.value for metric in client.get_metric_history(child.info.run_id, "train/loss")]
            assert len(losses) == 4
            assert losses[:2] == pytest.approx([2.0, second], rel=1e-5)  # float32 weights
            assert 0.5 < child.data.metrics["val/acc"] < 0.6
    names = {artifact.path for artifact in client.list_artifacts(parent.info.run_id)}
    assert names >= {"report.md", "report.png"}
    terminal = capsys.readouterr()
    assert "adaloss ui" in terminal.out
    assert "raise, b0 = 0.1: seed 1 failed, seed 2 failed" in terminal.out
    assert "failed: raise b0=1 seed=2: ValueError: this model is broken" in terminal.err
    assert "8/8" in terminal.err
    assert "best" in terminal.err


def test_any_option_can_be_swept_too(client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]) -> None:
    grid = ["--grid", "optimizer.lr=0.05,1e-1", "--grid", "trainer.max_epochs=1,2"]
    assert main(sweep(module, "well", "--b0", "1", *grid)) == 0
    runs = all_of(client)
    (parent,) = [run for run in runs if run.data.tags["adaloss.kind"] == "sweep"]
    points = [run for run in runs if run.data.tags["adaloss.kind"] == "point"]
    assert len(points) == 4
    assert parent.data.params["sweep.grid.optimizer.lr"] == "0.05,1e-1"
    assert parent.data.params["sweep.grid.trainer.max_epochs"] == "1,2"
    for lr, epochs in (("0.05", "1"), ("0.05", "2"), ("1e-1", "1"), ("1e-1", "2")):
        query = f"params.`grid.optimizer.lr` = '{lr}' and params.`grid.trainer.max_epochs` = '{epochs}'"
        (run,) = client.search_runs([parent.info.experiment_id], query)
        assert run.info.run_name == f"well b0=1 seed=1 optimizer.lr={lr} trainer.max_epochs={epochs}"
        assert parent.data.params.items() <= run.data.params.items()
        assert run.data.params["lr"] == str(float(lr))
        config = yaml.safe_load(Path(run.info.artifact_uri, "config.yaml").read_text())
        assert config["optimizer"]["init_args"]["lr"] == float(lr)
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 4 * int(epochs)
    assert "well, lr=1e-1, max_epochs=2" in capsys.readouterr().out


def test_a_recipe_that_diverges_is_marked_and_stops_nothing(
    client: MlflowClient, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = ["--trainer.max_epochs=3", "--trainer.limit_train_batches=4", "--optimizer.lr=1e36", "--model.net=mlp"]
    arguments = ["sweep", "--recipe", "digits", "--methods", "sgd_constant,adaloss", "--b0", "1e-3,1e37"]
    assert main([*arguments, "--experiment", "e", "--", *tiny]) == 0
    parent, children = parent_and_children(client)
    assert parent.info.status == "FINISHED"
    assert {key: "diverged" in run.data.tags for key, run in children.items()} == {
        ("sgd_constant", 1e-3, "1"): True,
        ("sgd_constant", 1e37, "1"): False,
        ("adaloss", 1e-3, "1"): True,
        ("adaloss", 1e37, "1"): False,
    }
    bad = children["sgd_constant", 1e-3, "1"]
    assert bad.data.metrics["epoch"] < 3  # it was stopped early
    assert "val/loss" in bad.data.tags["non_finite"]
    terminal = capsys.readouterr()
    assert "sgd_constant, b0 = 0.001: seed 1 diverged" in terminal.out
    assert "2 diverged" in terminal.err
    # A diverged point is a result: the same command has nothing to run again.
    assert main([*arguments, "--experiment", "e", "--", *tiny]) == 0
    assert "Nothing is left to do" in capsys.readouterr().out
    assert parent_and_children(client)[1].keys() == children.keys()


def test_several_processes_of_which_one_dies_and_one_is_told_to_stop(
    module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    # Without the fixture of a database: a brand-new store is where parallel runs break.
    def stop_the_one_at_the_gate() -> None:
        wait_for(lambda: list(Path.cwd().glob("at-the-gate-*")))
        (file,) = Path.cwd().glob("at-the-gate-*")
        os.kill(int(file.name.rpartition("-")[2]), signal.SIGTERM)

    stopper = Thread(target=stop_the_one_at_the_gate)
    stopper.start()
    assert main(sweep(module, "well,die,gate", "--b0", "0.1", "--jobs", "2")) == 1
    stopper.join()
    parent, children = parent_and_children(MlflowClient())
    assert parent.info.status == "FINISHED"
    assert {key[0]: run.info.status for key, run in children.items()} == {
        "well": "FINISHED",
        "die": "FAILED",
        "gate": "KILLED",
    }
    assert "exit code -9 (SIGKILL)" in children["die", 0.1, "1"].data.tags["error"]
    assert "failed: gate b0=0.1 seed=1: its process was told to stop\n" in capsys.readouterr().err


def test_an_executor_that_is_there_already_serves_one_sweep_after_another(client: MlflowClient, module: str) -> None:
    class Counting(InProcess):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    def run(method: str, b0: str) -> Status:
        grid = Grid.parse(method, b0, "1")
        return Sweep(Project.find(module), grid, extra=["--trainer.max_epochs=1"], executor=executor).run()

    executor = Counting()
    assert [run("well", "0.1"), run("raise", "1"), run("well", "1")] == ["FINISHED", "FAILED", "FINISHED"]
    assert executor.closed == 0
    Path("interrupt.yaml").write_text(yaml.safe_dump(METHOD | {"model": {"behave": "interrupt"}}))
    assert run("interrupt", "1") == "KILLED"
    assert executor.closed == 1


@pytest.mark.parametrize(("number", "jobs"), [(signal.SIGINT, "1"), (signal.SIGTERM, "2")])
def test_stopped_it_keeps_what_is_done(client: MlflowClient, module: str, number: signal.Signals, jobs: str) -> None:
    command = sweep(module, "well,gate", "--b0", "0.1,1", "--jobs", jobs)
    process = subprocess.Popen([sys.executable, "-m", "adaloss_lightning.tracking.console.app", *command])

    def in_the_middle() -> bool:
        assert process.poll() is None
        return len(list(Path.cwd().glob("at-the-gate-*"))) == int(jobs)

    try:
        wait_for(in_the_middle)
        process.send_signal(number)
        assert process.wait(HANG_S) == 130
    finally:
        process.terminate()  # no more than a formality, unless the test has failed
        process.wait(HANG_S)
    parent, children = parent_and_children(client)
    assert parent.info.status == "KILLED"
    statuses = {(key[0], run.info.status) for key, run in children.items()}
    assert statuses == {("well", "FINISHED"), ("gate", "KILLED")}
    assert len(children) < 4 or jobs == "2"


def test_a_long_error_is_cut_to_what_a_tag_holds(client: MlflowClient) -> None:
    ledger = Ledger(client, "e", "identity", {})
    run_id = ledger.start_point("well", {})
    ledger.settle(run_id, Outcome("FAILED", "x" * 8001))
    assert client.get_run(run_id).data.tags["error"] == "x" * 8000


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"--recipe": "nonesuch"}, ["Unknown recipe 'nonesuch'", "digits"]),
        ({"--recipe": "../digits"}, ["Unknown recipe '../digits'"]),
        ({"--recipe": "json"}, ["Unknown recipe 'json'", "main(args)"]),
        ({"--methods": "adalos"}, ["Unknown method 'adalos'", "adagrad_norm, adaloss, adam"]),
        ({"--methods": "defaults"}, ["Unknown method 'defaults'"]),
        ({"--b0": "0.1,x"}, ["--b0=x"]),
        ({"--seeds": "one"}, ["--seeds=one"]),
        ({"--jobs": "0"}, ["--jobs=0"]),
        ({"--tracking-uri": "sqlite:///file/mlflow.db"}, ["file", "MLFLOW_TRACKING_URI"]),
        ({"--": "--trainer.max_epoks=1"}, ["max_epoks"]),
        ({"--": "--optimizer.alpa=1"}, ["alpa"]),
        ({"--grid": "optimizer.lr"}, ["--grid optimizer.lr", "optimizer.lr=0.1,0.01"]),
        ({"--grid": "optimizer.lrr=0.1,0.2"}, ["--grid optimizer.lrr=0.1", "'lrr' is not accepted"]),
        ({"--grid": "optimizer.lr=0.1,o.2"}, ["--grid optimizer.lr=o.2", "float"]),
        ({"--grid": "model.net=mlp,cmm"}, ["--grid model.net=cmm", "'cnn'"]),
        ({"--grid": "optimizer.b0=1,2"}, ["--grid optimizer.b0=1,2", "--b0"]),
    ],
)
def test_bad_input_is_one_line_before_anything_runs(
    client: MlflowClient, capsys: pytest.CaptureFixture[str], change: dict[str, str], named: list[str]
) -> None:
    Path("file").touch()
    options = {"--recipe": "digits", "--methods": "adaloss", "--b0": "1", "--experiment": "e"} | change
    assert main(["sweep", *(word for pair in options.items() for word in pair)]) == 2
    terminal = capsys.readouterr()
    assert terminal.err.startswith("adaloss: error: ")
    assert "Traceback" not in terminal.err
    assert all(word in terminal.err for word in named), terminal.err
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]
