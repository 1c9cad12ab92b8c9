"""Summary of a sweep that has ended: the table, the report, and what became of the rest."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import yaml
from mlflow.entities import Metric, Run, RunData, RunInfo
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.grid import Point
from adaloss_lightning.tracking.logger.recovery import waiting
from adaloss_lightning.tracking.logger.spool import Spool
from adaloss_lightning.tracking.sweeps.standing import Standing
from tests.tracking.sweeping import METHOD, all_of, parent_and_children, sweep

ONE_EPOCH = ["--", "--trainer.max_epochs=1"]
LAST_WORDS = """
import os, signal, sys
from pathlib import Path
from adaloss_lightning.tracking.logger.records import End, Metrics
from adaloss_lightning.tracking.logger.spool import Spool
for run in sys.argv[2:]:
    before = signal.getsignal(signal.SIGINT)
    header = {"tracking_uri": sys.argv[1], "experiment": "e", "run_id": run, "run_key": run, "is_owner": True}
    spool = Spool.create(Path("spools"), header)
    spool.append(Metrics({"test/acc": 0.75}, time=1, step=8))
    spool.append(End("KILLED", time=2))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(autouse=True)
def spools(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ADALOSS_SPOOL", str(folder / "spools"))


def die_with_words_for(*runs: str) -> None:
    """A process is killed that has logged to these runs and delivered nothing."""
    command = [sys.executable, "-c", LAST_WORDS, f"sqlite:///{Path.cwd()}/mlflow.db", *runs]
    assert subprocess.run(command, env=dict(os.environ), check=False).returncode == -signal.SIGKILL
    assert len(waiting()) == len(runs)


def report_of(parent: Run) -> str:
    return Path(parent.info.artifact_uri, "report.md").read_text()


def test_what_killed_processes_left_is_in_the_table_and_what_waits_still_is_said(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = sweep(module, "well", "--b0", "0.1", *ONE_EPOCH)
    assert main(command) == 0
    parent, children = parent_and_children(client)
    (point,) = children.values()
    deleted = client.create_run(parent.info.experiment_id, run_name="gone").info.run_id
    client.delete_run(deleted)
    die_with_words_for(point.info.run_id, deleted)
    capsys.readouterr()

    assert main(command) == 0
    terminal = capsys.readouterr()
    assert "Nothing is left to do" in terminal.out
    assert re.search(r"well +75\.0", terminal.out)
    assert "| well | 75.0 |" in report_of(parent)
    (said,) = [line for line in terminal.err.splitlines() if "adaloss sync" in line]
    assert said.startswith(f"Part of what runs have logged still waits: run 'gone' ({deleted}) was deleted.")
    assert [path.joinpath("header.json").read_text().count(deleted) for path in waiting()] == [2]
    assert client.get_run(point.info.run_id).info.status == "FINISHED"  # of which the sweep knew more than the spool


def test_after_ctrl_c_nothing_is_waited_for(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(signal.SIGINT)
    header = {"tracking_uri": f"sqlite:///{Path.cwd()}/mlflow.db", "experiment": "e", "run_id": "of nobody"}
    Spool.create(Path("spools"), header).close(delete=False)
    Path("stop.yaml").write_text(yaml.safe_dump(METHOD | {"model": {"behave": "interrupt"}}))
    assert main(sweep(module, "stop", "--b0", "1")) == 130
    terminal = capsys.readouterr()
    assert "The same command continues it" in terminal.err
    assert "adaloss sync" not in terminal.err
    assert "method" not in terminal.out
    assert signal.getsignal(signal.SIGINT) == before  # Lightning had switched it off
    parent, children = parent_and_children(client)
    assert {parent.info.status, *(run.info.status for run in children.values())} == {"KILLED"}


def test_a_sweep_that_is_not_the_newest_shows_and_keeps_its_own_report(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    older = sweep(module, "well,need", "--b0", "0.1", *ONE_EPOCH)
    assert main(older) == 1
    assert main(sweep(module, "well", "--b0", "10", *ONE_EPOCH)) == 0
    first, second = [run for run in all_of(client) if run.data.tags["adaloss.kind"] == "sweep"]
    of_second = report_of(second)
    assert "need, b0 = 0.1: seed 1 failed" in report_of(first)
    Path("gate").touch()
    capsys.readouterr()

    assert main(older) == 0
    output = capsys.readouterr().out
    assert "b0=0.1" in output
    assert "b0=10" not in output
    assert re.search(r"need +5\d\.\d", output)  # val/acc is 0.55 to 0.6
    assert "newer sweep, which is what adaloss report --experiment e shows. " in output
    assert f"This one is run 'sweep {module}' ({first.info.run_id})." in output
    assert "failed" not in report_of(first)
    assert report_of(second) == of_second
    assert main(["report", "--experiment", "e"]) == 0
    assert "b0=10" in capsys.readouterr().out


def test_the_best_so_far_is_in_percent_however_accuracies_are_logged() -> None:
    for scale in (1.0, 100.0):
        standing = Standing("val/acc")
        for place, accuracy in enumerate((0.5, 0.974, 0.009), 1):
            data = RunData([Metric("val/acc", scale * accuracy, 0, 0)], [], [])
            run = Run(RunInfo("id", "", "", "FINISHED", 0, 1, "active"), data)
            standing.add_finished(Point("adam", "1", str(place)), run)
        assert str(standing) == "best 97.4 % (adam b0=1 seed=2)"


def test_a_run_that_ended_in_nan_is_no_result(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """`breaks` is the better one for three epochs, and NaN for the rest; nothing in the project looks for that."""
    Path("breaks.yaml").write_text(yaml.safe_dump(METHOD | {"model": {"behave": "break"}}))
    command = sweep(module, "well,breaks", "--b0", "1", "--", "--trainer.max_epochs=5")
    assert main(command) == 0
    terminal = capsys.readouterr()
    assert "breaks, b0 = 1: seed 1 diverged" in terminal.out
    assert re.search(r"breaks +diverged +diverged +- ", terminal.out)
    assert "1 diverged" in terminal.err
    parent, children = parent_and_children(client)
    breaks, well = children["breaks", 1.0, "1"].data, children["well", 1.0, "1"].data
    assert breaks.metrics["val/acc"] > well.metrics["val/acc"]
    assert "train/loss (step 12, to the end at step 19)" in breaks.tags["diverged"]
    assert "diverged" not in well.tags
    assert "seed 1 diverged" in report_of(parent)


def test_the_metric_and_the_direction_of_a_sweep_stay_with_it(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*sweep(module, "well", "--b0", "0.1,10"), "--metric", "train/loss", "--maximize", *ONE_EPOCH]
    assert main(command) == 0
    terminal = capsys.readouterr()
    parent, children = parent_and_children(client)
    losses = [run.data.metrics["train/loss"] for run in children.values()]
    assert f"best {max(losses):.4g} (well" in terminal.err
    assert main(["report", "--experiment", "e"]) == 0
    for table in (terminal.out, report_of(parent), capsys.readouterr().out):
        assert "train/loss, higher is better" in table
        assert "asked for with --maximize" in table
        row = next(line for line in table.splitlines() if line.lstrip("| ").startswith("well"))
        worst, best = re.split(r"[ |]+", row.strip("| "))[3:5]
        assert (worst, best) == (f"{min(losses):.4g}", f"{max(losses):.4g}")


def test_a_direction_that_is_a_guess_is_not_kept_as_one_that_was_asked_for(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    command = sweep(module, "well", "--b0", "1")
    guess, told = "a guess from the name {}; ", "asked for with --{}imize"
    for asked, said, mode in (
        (["--metric", "val/acc"], guess.format("val/acc"), None),
        (["--metric", "val/acc", "--minimize"], told.format("min"), "min"),
        (["--metric", "train/loss"], guess.format("train/loss"), None),  # the direction was that of another metric
        (["--maximize"], told.format("max"), "max"),
    ):
        assert main([*command, *asked, *ONE_EPOCH]) == 0
        assert main(["report", "--experiment", "e"]) == 0
        by_sweep, _, by_report = capsys.readouterr().out.partition("Table and figure are artifacts")
        assert said in by_sweep
        assert said in by_report
        assert parent_and_children(client)[0].data.tags.get("adaloss.mode") == mode


def test_the_report_of_a_sweep_that_was_stopped_compares_what_was_asked_for(
    client: MlflowClient, module: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("interrupt.yaml").write_text(yaml.safe_dump(METHOD | {"model": {"behave": "interrupt"}}))
    command = sweep(module, "well,interrupt", "--b0", "1")
    for asked, expected in (
        (["--metric", "train/loss", "--maximize"], "experiment e: train/loss, higher is better"),
        (["--metric", "val/acc"], "experiment e: val/acc in %, higher is better"),
    ):
        assert main([*command, *asked, *ONE_EPOCH]) == 130
        report = capsys.readouterr().err.strip().rpartition(": adaloss ")[2]
        assert main(report.split()) == 0
        assert expected in capsys.readouterr().out.lower()


def test_a_report_that_cannot_be_kept_does_not_hide_that_the_sweep_is_done(
    client: MlflowClient, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = sweep(module, "well", "--b0", "0.1", *ONE_EPOCH)
    assert main(command) == 0
    parent, _ = parent_and_children(client)
    capsys.readouterr()

    def said() -> str:
        assert main(command) == 2
        terminal = capsys.readouterr()
        assert "well" in terminal.out  # the table was there before the fault
        assert "artifacts" not in terminal.out
        assert terminal.err.startswith("adaloss: error: The sweep is done, but its report is not: ")
        assert terminal.err.count("\n") == 1
        return terminal.err

    place = Path(parent.info.artifact_uri)
    shutil.rmtree(place)
    place.touch()
    error = said()
    assert str(place) in error
    assert error.endswith(". Make it with: adaloss report --experiment e\n")
    assert main(["report", "--experiment", "e"]) == 0
    # Once there is a newer sweep, that command would show the other one.
    assert main(sweep(module, "well", "--b0", "10", *ONE_EPOCH)) == 0
    capsys.readouterr()
    monkeypatch.setattr(tempfile, "tempdir", "/nowhere")
    error = said()
    assert "/nowhere" in error
    assert error.endswith(". The same command makes it\n")
