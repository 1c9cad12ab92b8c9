"""Servers that live as long as the test session of a process: with pytest-xdist each worker has its own."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import yaml

from tests.servers.postgres import Postgres
from tests.servers.servers import TrackingServer
from tests.tracking import project
from tests.tracking.conftest import client, connections, empty_database, folder, no_delivery_outlives_its_test, patient

__all__ = ["client", "connections", "empty_database", "folder", "no_delivery_outlives_its_test", "patient"]

USER, PASSWORD = "admin", "correct-horse-battery-staple"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="session")
def server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """`mlflow server` on PostgreSQL."""
    with TrackingServer(tmp_path_factory.mktemp("server"), postgres.create_database("server")) as running:
        yield running


@pytest.fixture(scope="session")
def auth_server(postgres: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """The same, asking for `USER` and `PASSWORD`."""
    home = tmp_path_factory.mktemp("auth-server")  # its users' database lies where it is started
    # Hashing the password for every request, MLflow's default, takes longer than the request.
    template = Path(mlflow.__file__).parent.joinpath("server", "auth", "basic_auth.ini").read_text()
    (home / "auth.ini").write_text(f"{template}\nauth_cache_ttl_seconds = 60\n")
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(home / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_USERNAME": USER,
        "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "for tests",
    }
    database = postgres.create_database("auth-server")
    with TrackingServer(home, database, "--app-name", "basic-auth", environment=environment) as running:
        yield running


@pytest.fixture
def module(folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """An importable module in the working folder, to sweep; its methods are `adaloss` and `adamloss`."""
    name = f"project_{folder.name}"
    shutil.copy(project.__file__, folder / f"{name}.py")
    trainer = {"max_epochs": 2, "accelerator": "cpu", "log_every_n_steps": 1, "num_sanity_val_steps": 0}
    callback = {"class_path": "adaloss_lightning.AdaLossCallback"}
    for method, optimizer in {"adaloss": "AdaLoss", "adamloss": "AdamLoss"}.items():
        config = {
            "trainer": trainer | {"callbacks": [callback]},
            "optimizer": {"class_path": f"adaloss_lightning.{optimizer}", "init_args": {"lr": 0.05}},
        }
        (folder / f"{method}.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return name
