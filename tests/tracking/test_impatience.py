"""Commands that a person waits for give up on a failing server sooner than MLflow does by itself."""

import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.logger.spool import Spool, spool_root
from adaloss_lightning.tracking.retry import impatient
from tests.servers.proxy import Fate, Proxy

RETRIES, TIMEOUT = "MLFLOW_HTTP_REQUEST_MAX_RETRIES", "MLFLOW_HTTP_REQUEST_TIMEOUT"


def test_what_the_user_has_set_stays_and_the_rest_is_as_it_was_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(RETRIES, "5")
    monkeypatch.delenv(TIMEOUT, raising=False)
    with impatient():
        assert (os.environ[RETRIES], os.environ[TIMEOUT]) == ("5", "30")
    assert os.environ[RETRIES] == "5"
    assert TIMEOUT not in os.environ


def test_sync_tries_three_times(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    asked: list[str] = []

    def decide(method: str, path: str, headers: Mapping[str, str]) -> Fate:
        asked.append(path)
        return 500

    with Proxy("http://127.0.0.1:1", decide) as proxy:  # it passes nothing on
        Spool.create(spool_root(), {"tracking_uri": proxy.url, "run_id": "r"}).close(delete=False)
        assert main(["sync"]) == 1
    assert "500" in capsys.readouterr().out
    assert len(asked) == 3
