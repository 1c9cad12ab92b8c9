"""Every test runs in an empty folder of its own, so that the default store is one too."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import open_store


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables and nothing in them; making one takes MLflow a second, a copy nothing."""
    path = tmp_path_factory.mktemp("template") / "mlflow.db"
    open_store(f"sqlite:///{path}")
    return path


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    # Some of MLflow and of Lightning's own logger set it for the whole process, and for good.
    monkeypatch.setattr("mlflow.tracking._tracking_service.utils._tracking_uri", None)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]), prepend=os.pathsep)  # for subprocesses
    return tmp_path


@pytest.fixture(autouse=True)
def ctrl_c() -> Iterator[None]:
    """Lightning ignores Ctrl-C for good after the first one, and Ray leaves a handler of SIGTERM behind."""
    before = signal.getsignal(signal.SIGINT)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGINT, before)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.fixture
def client(folder: Path, empty_database: Path) -> MlflowClient:
    """MLflow's own client with its own default settings, on a database that exists."""
    shutil.copy(empty_database, folder / "mlflow.db")
    return MlflowClient()
