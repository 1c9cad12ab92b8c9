"""Every command that a message tells a user to give: it exists, it is whole, and it does what the message says."""

import ast
import re
import shlex
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import alembic.command
import click
import pytest
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base
from mlflow.tracking import MlflowClient
from packaging.requirements import Requirement

import adaloss_lightning
import recipes
from adaloss_lightning.tracking import (
    BufferedMLFlowLogger,
    StoreError,
    SweepError,
    ensure_experiment,
    open_store,
    store,
)
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.logger.recovery import waiting
from adaloss_lightning.tracking.runs import find_experiment
from tests.limits import HANG_S
from tests.tracking.sweeping import make_project, sweep
from tests.tracking.training import end_of_process

pytestmark = pytest.mark.process

OF_2_9 = "7f2a7d5fae7d"  # the tables of MLflow 2.9


def shell(command: str) -> str:
    """What a user's shell prints for it; an error of the command is one of the test."""
    path = f"PATH={shlex.quote(str(Path(sys.executable).parent))}:$PATH"
    done = subprocess.run(["bash", "-c", f"{path}; {command}"], capture_output=True, text=True, timeout=HANG_S)
    assert done.returncode == 0, done.stderr
    return done.stdout


def command_in(message: str) -> str:
    """A message ends with the command, after a colon and a space."""
    return message.strip().splitlines()[-1].rpartition(": ")[2]


@pytest.fixture
def train(folder: Path, caplog: pytest.LogCaptureFixture) -> Callable[..., str]:
    """Logs one value that cannot be delivered with a logger of these arguments; returns what is reported."""

    def train(**settings: str) -> str:
        logger = BufferedMLFlowLogger("e", **settings)
        logger.log_metrics({"a": 1.0}, 3)
        logger.finalize("success")
        end_of_process()
        return caplog.text

    return train


def messages() -> Iterator[tuple[Path, str]]:
    """Texts of the package and its recipes; whatever they insert is an X."""
    for package in (adaloss_lightning, recipes):
        for source in Path(str(package.__file__)).parent.rglob("*.py"):
            tree = ast.parse(source.read_text())
            docs = {
                ast.get_docstring(node, clean=False)
                for node in ast.walk(tree)
                if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
            }
            inner = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
            for node in ast.walk(tree):
                if isinstance(node, ast.JoinedStr):
                    yield source, "".join(str(p.value) if isinstance(p, ast.Constant) else "X" for p in node.values)
                elif isinstance(node, ast.Constant) and id(node) not in inner and node.value not in docs:
                    yield source, str(node.value)


def test_every_command_in_a_message_exists_with_its_options(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MLflow's own imports
        from mlflow.cli import cli
    seen = set()
    for source, text in messages():
        for ours in re.finditer(r"\badaloss (sweep|report|ui|sync)\b((?: (?:--[a-z-]+|X|\S*NAME))*)", text):
            assert main([ours[1], "--help"]) == 0
            known = re.findall(r"--[a-z-]+", capsys.readouterr().out)
            assert set(re.findall(r"--[a-z-]+", ours[2])) <= set(known), (source, ours[0])
            seen.add(ours[1])
        for theirs in re.finditer(r"\bmlflow (runs|experiments|db|server)((?: (?:--?[a-z-]+|[a-z]+|X|[.]+))*)", text):
            command: click.Command = cli.commands[theirs[1]]
            words = theirs[2].split()
            if isinstance(command, click.Group):
                command = command.commands[words.pop(0)]
            options = {option for parameter in command.params for option in parameter.opts}
            assert {word for word in words if word.startswith("-")} <= options, (source, theirs[0])
            required = {parameter.name for parameter in command.params if parameter.required}
            assert len(words) >= len(required), (source, theirs[0])  # nothing is left to the reader's guess
            seen.add(theirs[1])
        for package in re.finditer(r"pip install (?:-U )?('?)([^' ]+)\1", text):
            Requirement(package[2])
            seen.add("pip")
    assert seen >= {"report", "ui", "sync", "runs", "experiments", "db", "server", "pip"}


@pytest.mark.parametrize(("find", "error"), [(ensure_experiment, StoreError), (find_experiment, SweepError)])
def test_a_deleted_experiment_is_restored_by_what_is_printed(
    client: MlflowClient, folder: Path, find: Callable[[MlflowClient, str], str], error: type[Exception]
) -> None:
    (folder / "far").mkdir()
    (folder / "mlflow.db").rename(folder / "far" / "mlflow.db")
    far = open_store("sqlite:///far/mlflow.db")
    identifier = ensure_experiment(far, "gone")
    far.delete_experiment(identifier)
    with pytest.raises(error) as caught:
        find(far, "gone")
    shell(command_in(str(caught.value)))
    assert find(far, "gone") == identifier


def test_a_deleted_run_is_restored_and_its_rest_delivered_by_what_is_printed(
    client: MlflowClient, train: Callable[..., str]
) -> None:
    run_id = client.create_run(client.create_experiment("e")).info.run_id
    client.delete_run(run_id)
    printed = train(run_id=run_id)
    (restore,) = set(re.findall(r"mlflow runs restore --run-id \w+", printed))
    shell(restore)
    assert main(["sync"]) == 0
    assert [(metric.step, metric.value) for metric in client.get_metric_history(run_id, "a")] == [(3, 1.0)]
    assert not waiting()


def test_a_run_deleted_while_it_logs_is_restored_by_what_is_printed(
    client: MlflowClient, caplog: pytest.LogCaptureFixture
) -> None:
    """It has one name in every message: the store's."""
    run = client.create_run(client.create_experiment("e"), run_name="mine")
    logger = BufferedMLFlowLogger("e", run_id=run.info.run_id)
    assert logger.flush()
    client.delete_run(run.info.run_id)
    logger.log_metrics({"a": 1.0}, 3)
    logger.finalize("success")
    assert f"run 'mine' ({run.info.run_id}) was deleted" in caplog.text
    assert "run 'run-" not in caplog.text
    assert "by this process" not in caplog.text  # which has given up
    (restore,) = set(re.findall(r"mlflow runs restore --run-id \w+", caplog.text))
    shell(restore)
    assert main(["sync"]) == 0
    assert [metric.step for metric in client.get_metric_history(run.info.run_id, "a")] == [3]


@pytest.mark.parametrize("options", [[], ["--spool", "else where"]])
def test_what_cannot_be_delivered_is_given_up_by_what_is_printed(
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    train: Callable[..., str],
    options: list[str],
) -> None:
    with monkeypatch.context() as patched:
        if options:
            patched.setenv("ADALOSS_SPOOL", options[-1])
        train(run_id="none")
    assert main(["sync", *options]) == 1
    discard = command_in(capsys.readouterr().out)
    assert main(shlex.split(discard)[1:]) == 0
    assert not waiting([Path(path) for path in options[1:]] or None)


def old_database(file: Path) -> None:
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    config = utils._get_alembic_config("")
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        alembic.command.upgrade(config, OF_2_9)
    engine.dispose()


def test_a_database_of_an_older_mlflow_stays_as_it_is_until_its_user_upgrades_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], train: Callable[..., str]
) -> None:
    database = folder / "my store" / "mlflow.db"
    database.parent.mkdir()
    old_database(database)
    before = database.read_bytes()
    uri = ["--tracking-uri", "sqlite:///my store/mlflow.db"]
    assert "An older MLflow than " in train(tracking_uri=uri[1])
    module = make_project(folder, monkeypatch)
    remedies = set()
    for command in (["report", "--experiment", "e"], ["ui", "--no-browser"], sweep(module, "well", "--b0", "1")):
        assert main([*command, *uri]) == 2
        error = capsys.readouterr().err
        assert error.startswith("adaloss: error: An older MLflow than ")
        remedies.add(command_in(error))
    assert main(["sync", *uri]) == 1
    (remedy,) = remedies
    assert remedy in capsys.readouterr().out
    assert database.read_bytes() == before

    shell(remedy)
    assert main(["sync", *uri]) == 0
    (run,) = open_store(uri[1]).search_runs([ensure_experiment(open_store(uri[1]), "e")])
    assert run.data.metrics == {"a": 1.0}
    capsys.readouterr()

    with sqlite3.connect(database) as connection:
        connection.execute("update alembic_version set version_num = 'from the future'")
    monkeypatch.setattr(store, "opened", set())
    assert main(["report", "--experiment", "e", *uri]) == 2
    assert command_in(capsys.readouterr().err) == "pip install -U mlflow"


WITHOUT_SUBCOMMANDS = """
def main(args=None):
    LightningCLI(Model, Data, run=False, args=args)
"""


@pytest.mark.parametrize("kind", ["module", "without subcommands", "package"])
def test_help_is_printed_by_what_is_printed(
    kind: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = make_project(folder, monkeypatch)
    if kind == "without subcommands":
        with (folder / f"{module}.py").open("a") as file:
            file.write(WITHOUT_SUBCOMMANDS)
    command = sweep("digits", "adaloss") if kind == "package" else sweep(module, "well")
    assert main([*command, "--b0", "1", "--", "--help"]) == 2
    error = capsys.readouterr().err
    assert "--trainer.max_epochs" in shell(error.partition("on the project itself: ")[2])


def test_the_report_is_made_and_the_ui_opened_by_what_is_printed(
    folder: Path, client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = make_project(folder, monkeypatch)
    other = folder / "what?" / "mlflow.db"
    other.parent.mkdir()
    (folder / "mlflow.db").rename(other)
    uri = f"sqlite:///{folder}/what%3F/mlflow.db"
    assert main([*sweep(module, "well", "--b0", "1", "--tracking-uri", uri), "--", "--trainer.max_epochs=1"]) == 0
    ui = command_in(capsys.readouterr().out)
    assert shlex.split(ui) == ["adaloss", "ui", "--tracking-uri", uri]
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    assert main([*sweep(module, "well", "--b0", "1", "--tracking-uri", uri), "--", "--trainer.max_epochs=1"]) == 2
    report = command_in(capsys.readouterr().err)
    monkeypatch.setattr("tempfile.tempdir", None)
    assert main(shlex.split(report)[1:]) == 0
    assert "wrote reports/e/report.md" in capsys.readouterr().out
