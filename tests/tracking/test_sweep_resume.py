"""Sweeps that were stopped, killed or only partly successful, and the same command again."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.grid import Grid
from adaloss_lightning.tracking.sweeps.identity import sweep_id
from adaloss_lightning.tracking.sweeps.project import Project
from tests.limits import HANG_S
from tests.tracking.sweeping import all_of, is_alive, parent_and_children, sweep, wait_for

WELL, GATE = ("well", 0.1, "1"), ("gate", 0.1, "1")


def start(arguments: list[str]) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([sys.executable, "-m", "adaloss_lightning.tracking.console.app", *arguments])


def at_the_gate() -> list[int]:
    """Processes that wait for the file `gate` in the middle of training."""
    return [int(path.name.rpartition("-")[2]) for path in Path.cwd().glob("at-the-gate-*")]


def unchanged(before: list[Run], after: list[Run]) -> bool:
    ends = {run.info.run_id: (run.info.status, run.info.start_time, run.info.end_time) for run in after}
    return all(ends[run.info.run_id] == (run.info.status, run.info.start_time, run.info.end_time) for run in before)


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_after_sigkill_the_same_command_runs_only_what_is_not_finished(
    client: MlflowClient, module: str, jobs: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = sweep(module, "well,gate", "--b0", "0.1,1", "--seeds", "1,2", "--jobs", jobs)
    killed = start(command)
    try:
        wait_for(lambda: killed.poll() is not None or len(at_the_gate()) == int(jobs))
        # Beside the living one it is refused, and the store stays as it is.
        before = [run.info.run_id for run in all_of(client)]
        assert main(command) == 2
        assert "is running on this machine already" in capsys.readouterr().err
        assert [run.info.run_id for run in all_of(client)] == before
    finally:
        killed.kill()
        killed.wait()
    # No worker outlives the sweep: each notices that it is gone, and stops in the middle of its training.
    wait_for(lambda: not any(is_alive(pid) for pid in at_the_gate()))
    dead = all_of(client)
    finished = [run for run in dead if run.info.status == "FINISHED"]
    assert {run.data.params["method"] for run in finished} == {"well"}
    assert len(finished) == 2
    assert dead[0].info.status == "RUNNING"  # the parent: no process was left to end it

    Path("gate").touch()
    assert main(command[:-2]) == 0  # how many run at a time is not what a sweep is
    terminal = capsys.readouterr()
    assert "Continuing a sweep: 2 of 8 points are done." in terminal.err
    assert "8/8" in terminal.err
    after = all_of(client)
    assert unchanged(finished, after)
    assert after[0].info.run_id == dead[0].info.run_id
    assert after[0].info.status == "FINISHED"
    children = after[1:]
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {after[0].info.run_id}
    by_status: dict[str, list[tuple[str, ...]]] = {}
    for run in children:
        point = tuple(run.data.params[name] for name in ("method", "b0", "seed"))
        by_status.setdefault(run.info.status, []).append(point)
    assert sorted(by_status.pop("FINISHED")) == sorted(
        (method, b0, seed) for method in ("well", "gate") for b0 in ("0.1", "1.0") for seed in ("1", "2")
    )
    stopped = by_status.pop("KILLED")
    assert len(stopped) == int(jobs)
    assert {method for method, _, _ in stopped} == {"gate"}
    assert not by_status
    assert {path.name for path in Path.cwd().glob("*.lock")} == {"mlflow.db.lock"}


TESTS_TOO = """
class Tested(Model):
    def test_step(self, batch, batch_idx):
        if not Path("gate").exists():
            os.kill(os.getpid(), signal.SIGKILL)
        self.log("test/acc", 0.75)

class TestedData(Data):
    test_dataloader = Data.train_dataloader

def main(args):
    cli = LightningCLI(Tested, TestedData, run=False, args=args)
    cli.trainer.fit(cli.model, cli.datamodule)
    cli.trainer.test(cli.model, cli.datamodule)
"""


def test_a_point_that_is_killed_after_its_fit_is_not_finished(client: MlflowClient, module: str) -> None:
    with Path(f"{module}.py").open("a") as file:
        file.write(TESTS_TOO)
    command = sweep(module, "well", "--b0", "0.1", "--", "--trainer.max_epochs=1")
    assert start(command).wait(HANG_S) == -signal.SIGKILL  # with one job a point runs in the sweep's own process
    Path("gate").touch()
    assert main(command) == 0
    _, killed, finished = all_of(client)
    assert [run.info.status for run in (killed, finished)] == ["KILLED", "FINISHED"]
    assert "test/acc" not in killed.data.metrics
    assert finished.data.metrics["test/acc"] == 0.75
    assert main(command) == 0
    assert len(all_of(client)) == 3  # nothing was left to do


def test_failed_points_are_run_again_and_finished_ones_are_not(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = sweep(module, "well,need", "--b0", "0.1", "--", "--trainer.max_epochs=1")
    assert main(command) == 1
    first = all_of(client)
    assert [run.info.status for run in first] == ["FINISHED", "FINISHED", "FAILED"]
    Path("gate").touch()
    capsys.readouterr()
    assert main(command) == 0
    terminal = capsys.readouterr()
    assert "1 of 2 points are done" in terminal.err
    assert "seed 1 failed" not in terminal.out
    second = all_of(client)
    assert unchanged(first[1:], second)
    assert [run.info.status for run in second] == ["FINISHED", "FINISHED", "FAILED", "FINISHED"]
    assert second[3].data.params == second[2].data.params

    # Nothing is left: nothing changes.
    assert main(command) == 0
    terminal = capsys.readouterr()
    assert "Nothing is left to do" in terminal.out
    assert "need" in terminal.out  # the table
    assert unchanged(second, all_of(client))
    assert len(all_of(client)) == 4

    # Another question, or other settings, are another sweep; --fresh too.
    assert main([*command, "--trainer.limit_val_batches=1"]) == 0
    Path("need.yaml").write_text(Path("need.yaml").read_text().replace("0.05", "0.06"))
    assert main(command) == 0
    assert main(["sweep", "--fresh", *command[1:]]) == 0
    assert unchanged(second, all_of(client))
    assert len(all_of(client)) == 4 + 3 * 3


def test_a_sweep_that_runs_on_another_host_is_left_alone(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = sweep(module, "well", "--b0", "0.1", "--", "--trainer.max_epochs=1")
    assert main(command) == 0
    parent, _ = parent_and_children(client)
    client.set_tag(parent.info.run_id, "adaloss.host", "elsewhere")
    client.update_run(parent.info.run_id, status="RUNNING")
    capsys.readouterr()
    assert main(command) == 2
    error = capsys.readouterr().err
    assert f"RUNNING on the host elsewhere: run 'sweep {module}' ({parent.info.run_id}). " in error
    assert "--fresh" in error
    assert client.get_run(parent.info.run_id).info.status == "RUNNING"
    # What the message tells for a host that is gone works.
    code = error.partition("python -c ")[2].strip().strip('"')
    subprocess.run([sys.executable, "-c", code], check=True, timeout=HANG_S)
    assert main(command) == 0
    assert "Nothing is left to do" in capsys.readouterr().out
    assert len(all_of(client)) == 2
    # ... and the sweep, all of whose points are done, is no longer one that was killed.
    assert client.get_run(parent.info.run_id).info.status == "FINISHED"


def test_a_sweep_that_was_killed_before_it_began_gets_its_params(client: MlflowClient, module: str) -> None:
    extra = ["--trainer.max_epochs=1"]
    identity = sweep_id(Project.find(module), Grid.parse("well", "0.1", "1"), extra)
    tags = {"adaloss.kind": "sweep", "adaloss.sweep_id": identity}
    killed = client.create_run(client.create_experiment("e"), tags=tags).info.run_id  # and nothing else was written
    assert main(sweep(module, "well", "--b0", "0.1", "--", *extra)) == 0
    parent, children = parent_and_children(client)
    assert parent.info.run_id == killed
    assert parent.data.params == {"recipe": module, "sweep.methods": "well", "sweep.b0": "0.1", "sweep.seeds": "1"}
    assert parent.data.params.items() <= children[WELL].data.params.items()


def test_every_yaml_file_of_the_command_is_part_of_what_a_sweep_is(module: str, folder: Path) -> None:
    def identity() -> str:
        grid = Grid.parse("well", "0.1", "1", ["model=swept.yaml,gone.yaml"])
        return sweep_id(Project.find(module), grid, ["--config", "more.yaml", "--data=data.yml"])

    Path("deep").mkdir()
    read = ["well.yaml", "defaults.yaml", "swept.yaml", "more.yaml", "data.yml", "deep/named.yaml", "deep/further.yml"]
    for name in [*read, "other.yaml", "further.yml"]:
        Path(name).write_text("a: 1\n")
    # Paths in a file count from its folder, as LightningCLI reads them.
    Path("more.yaml").write_text("model: deep/named.yaml\nlist: [other.yam, 7, more.yaml]\n")
    Path("deep/named.yaml").write_text("inner: {path: further.yml}\n")
    known = [identity()]
    for name in read:
        Path(name).write_text(f"{Path(name).read_text()}b: 2\n")
        assert identity() not in known, name
        known.append(identity())
    for name in ("other.yaml", "further.yml"):
        Path(name).write_text("b: 2\n")
    assert identity() == known[-1]
    Path("swept.yaml").write_text("broken: [")
    assert identity() not in known
