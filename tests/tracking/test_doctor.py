"""The doctor: a healthy machine, a store that does not answer, runs that wait, a package that is missing."""

import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import BufferedMLFlowLogger
from adaloss_lightning.tracking.console import doctor
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.logger.recovery import waiting
from tests.ports import free_port

LEFT = Path(__file__).parent / "spools_0_1_0" / "ended"


def test_doctor_finds_nothing_wrong_with_a_healthy_machine(
    client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["doctor"]) == 0
    printed = capsys.readouterr().out
    assert "answers, and can be written" in printed
    assert "AdamLoss on cpu: float32 fused" in printed
    assert "fused is torch's own kernel, as long as parameters, gradients and state are dense" in printed
    assert "->" not in printed
    assert printed.endswith("Nothing is wrong.\n")


def test_doctor_makes_no_store(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'none.db'}")
    assert main(["doctor"]) == 0
    assert "the first run makes it" in capsys.readouterr().out
    assert not (folder / "none.db").exists()


def test_doctor_names_a_server_that_does_not_answer(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    assert main(["doctor", "--tracking-uri", uri]) == 1
    printed = capsys.readouterr().out
    assert "-> " in printed
    assert uri in printed


def test_doctor_sends_waiting_runs_to_sync(
    client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(LEFT, folder / ".adaloss" / "ended")
    assert main(["doctor"]) == 1
    assert "-> adaloss sync" in capsys.readouterr().out


def test_doctor_sends_what_a_dead_process_left_to_sync_and_leaves_a_living_ones(
    client: MlflowClient, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"a": 1.0}, 1)
    assert main(["doctor"]) == 0
    assert "nothing waits" in capsys.readouterr().out
    code = """
import os, signal
from adaloss_lightning.tracking import BufferedMLFlowLogger
BufferedMLFlowLogger("x", tracking_uri="http://127.0.0.1:1").log_metrics({"a": 1.0}, 1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert main(["doctor"]) == 1
    assert "1 run that is over waits in" in capsys.readouterr().out
    assert len(waiting()) == 2
    assert logger.flush()
    logger.finalize("success")


def test_doctor_sends_windows_to_wsl(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(doctor.platform, "system", lambda: "Windows")
    assert main(["doctor"]) == 1
    assert "-> tracking and sweeps need POSIX: use WSL" in capsys.readouterr().out


def test_doctor_names_a_missing_package(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def version(name: str) -> str:
        if name in ("psutil", "ray"):
            raise metadata.PackageNotFoundError(name)
        return "1"

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert main(["doctor"]) == 1
    printed = capsys.readouterr().out
    assert "-> pip install 'adaloss-lightning[tracking]'" in printed
    assert "psutil not installed\n" in printed
    assert "ray not installed (optional: pip install 'adaloss-lightning[ray]')" in printed
