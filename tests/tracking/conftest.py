"""Every test runs in an empty folder of its own, so that the default store is one too."""

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import open_store
from adaloss_lightning.tracking.logger import recovery
from adaloss_lightning.tracking.logger.delivery import Delivery, close_all
from tests.limits import HANG_S
from tests.tracking.sweeping import make_project


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing in them; making one takes MLflow a second, a copy nothing."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture(autouse=True)
def folder(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Some of MLflow and of Lightning's own logger set it for the whole process, and for good.
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)  # for subprocesses
    return folder


@pytest.fixture(autouse=True)
def no_delivery_outlives_its_test() -> Iterator[None]:
    """The thread of a logger whose store never answers would try again in the middle of a later test."""
    yield
    close_all(0.0)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A store that is slow, as on a loaded machine, is waited for; one that fails or hangs is given up as for users.

    A test whose store hangs gives a limit below a second.
    """
    drain = Delivery.drain

    def drain_patiently(delivery: Delivery, patience: float) -> bool:
        done = drain(delivery, patience)
        while not done and patience >= 1.0 and not delivery.is_stuck:
            done = delivery.is_stopped or drain(delivery, patience)
        return done

    monkeypatch.setattr(Delivery, "drain", drain_patiently)
    monkeypatch.setattr(recovery, "PATIENCE_S", HANG_S)


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The addresses that this process connects to, each as often as it tries."""
    tried: list[Any] = []
    connect = socket.socket.connect

    def noted(self: socket.socket, address: Any) -> None:
        tried.append(address)
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", noted)
    return tried


@pytest.fixture
def module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The user's own project, to be swept."""
    return make_project(folder, monkeypatch)


@pytest.fixture
def client(folder: Path, empty_database: Path) -> MlflowClient:
    """MLflow's own client with its own default settings, on a database that exists."""
    shutil.copy(empty_database, folder / "mlflow.db")
    return MlflowClient()
