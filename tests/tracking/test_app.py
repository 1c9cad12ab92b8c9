"""The console, and the real MLflow server behind `adaloss ui`."""

import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger
from adaloss_lightning.tracking.console import ui
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.version import __version__
from tests.limits import HANG_S
from tests.ports import free_port
from tests.tracking.training import Line, trainer


@pytest.mark.parametrize(
    "command", [[], ["sweep"], ["report"], ["nonsense"], ["report", "--exp", "x"], ["sweep", "--jobs", "two"]]
)
def test_usage_errors_are_code_two(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert "usage: adaloss" in capsys.readouterr().err


def test_the_version_is_the_packages(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"adaloss-lightning {__version__}\n"


def test_help_is_no_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--help"]) == 0
    assert "--trainer.max_epochs" in capsys.readouterr().out


def test_a_port_in_use_is_named(client: MlflowClient, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["ui", "--port", str(port)]) == 2
    error = capsys.readouterr().err
    assert str(port) in error
    assert "--port" in error
    assert main(["ui", "--port", "99999"]) == 2


def test_the_ui_serves_the_store_and_a_training_may_use_it_as_a_server(client: MlflowClient, folder: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "adaloss_lightning.tracking.console.app", "ui", "--port", str(port)]
    log = folder / "log"  # not a pipe, which nobody would read
    with log.open("w") as err, subprocess.Popen(command, stdout=subprocess.PIPE, stderr=err, text=True) as process:
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            url = f"http://127.0.0.1:{port}"
            assert url in line
            assert b"<title>MLflow" in urllib.request.urlopen(url, timeout=HANG_S).read()

            # Artifacts of an experiment made through the server go through it: config and checkpoints must get there.
            logger = BufferedMLFlowLogger("served", tracking_uri=url)
            trainer(logger).fit(Line())
            logger_run = client.get_run(str(logger.run_id))  # from the database the server was to serve
            assert logger_run.info.status == "FINISHED"
            assert len(client.get_metric_history(str(logger.run_id), "train/loss")) == 4
            remote = MlflowClient(url)
            top = [artifact.path for artifact in remote.list_artifacts(str(logger.run_id))]
            assert len(top) == 1
            local = Path(remote.download_artifacts(str(logger.run_id), top[0]))
            assert len(list(local.rglob("*.ckpt"))) == 1

            process.send_signal(signal.SIGINT)
            assert process.wait(HANG_S) == 0
        finally:
            process.terminate()  # leaving the block waits for it
    assert f"There are no runs yet in sqlite:///{folder}/mlflow.db. " in log.read_text()
    assert "GET /" not in log.read_text()  # nor POST: a page makes hundreds of requests
    assert "POST /" not in log.read_text()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(url, timeout=HANG_S)


def test_the_ui_is_found_behind_a_proxy(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's 127.0.0.1 is the proxy's own machine."""
    port = free_port()
    (folder / "health").touch()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]

    class Proxy(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(403)
            server.kill()  # ends the wait for an answer

    asked: list[str] = []
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with (
        subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as server,
        ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy,
    ):
        Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{proxy.server_address[1]}")
        monkeypatch.setattr(urllib.request, "_opener", None)  # which may know of no proxy yet
        try:
            assert ui._answers(server, f"http://127.0.0.1:{port}")
        finally:
            server.kill()
            proxy.shutdown()
    assert not asked


@pytest.mark.parametrize("command", ["report --experiment e", "ui", "sweep --recipe digits --methods adam --b0 1"])
def test_a_server_that_nobody_started_is_said_at_once(
    command: str, folder: Path, capsys: pytest.CaptureFixture[str], connections: list[Any]
) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # and does not listen
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert main([*command.split(), "--tracking-uri", uri]) == 2
    assert len(connections) <= 3  # MLflow by itself tries for four minutes
    (line,) = capsys.readouterr().err.splitlines()
    assert f"Cannot use the MLflow store {uri}: " in line
    assert line.endswith("Start the server, or set MLFLOW_TRACKING_URI to a store you can reach.")


def test_a_report_makes_no_store_and_needs_to_write_none(
    folder: Path, empty_database: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["report", "--experiment", "e"]) == 2
    assert f"there is no {folder}/mlflow.db. " in capsys.readouterr().err
    assert not list(folder.iterdir())
    shutil.copy(empty_database, folder / "mlflow.db")
    (folder / "mlflow.db").chmod(0o400)
    assert main(["report", "--experiment", "e"]) == 2
    assert "Unknown experiment 'e'" in capsys.readouterr().err
    assert [path.name for path in folder.iterdir()] == ["mlflow.db"]


SWEEP = ["sweep", "--recipe", "digits", "--methods", "adam", "--b0", "1"]


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ([*SWEEP, "--", "--optimizer.b0", "5"], "Invalid --optimizer.b0 after --. Give --b0 instead."),
        (["report", "--experiment", "e", "--", "--trainer.max_epochs=1"], "--trainer.max_epochs=1"),
        (["report", "--experiment", "nope"], "Unknown experiment 'nope'"),
        (["report", "--experiment", "e", "--out", ""], "Invalid --out=''. Must be a folder"),
        (["report", "--experiment", ""], "Invalid --experiment=''. Must be"),
        (["report", "--experiment", "caf\udce9"], "Invalid --experiment='caf\\udce9'. Must be"),
        ([*SWEEP, "--experiment", ""], "Invalid --experiment=''. Must be"),
        ([*SWEEP, "--experiment", "caf\udce9"], "Invalid --experiment='caf\\udce9'. Must be"),
    ],
)
def test_what_makes_no_sense_is_one_line(
    client: MlflowClient, capsys: pytest.CaptureFixture[str], command: list[str], expected: str
) -> None:
    assert main(command) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("adaloss: error: ")
    assert expected in line
