"""A store that is away while a sweep has something to write."""

import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import StoreError
from adaloss_lightning.tracking.sweeping.ledger import Ledger
from adaloss_lightning.tracking.sweeping.patience import Patience
from adaloss_lightning.tracking.sweeping.worker import Outcome
from tests.servers.servers import TrackingServer


@pytest.fixture
def server(folder: Path) -> Iterator[TrackingServer]:
    with TrackingServer(folder) as running:
        yield running


def test_what_a_sweep_writes_waits_for_a_server_that_was_killed(
    server: TrackingServer, capsys: pytest.CaptureFixture[str]
) -> None:
    client = MlflowClient(server.url)
    ledger = Ledger(client, "e", "identity", {"recipe": "r"})
    ledger.begin("sweep r")
    first, second = (ledger.start_point(name, {"b0": name}) for name in ("1", "2"))
    server.stop()
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"does not answer.*The same command continues"):
        Patience(server.url, limit_s=0)(client.get_run, first)
    assert time.monotonic() - start < 10  # MLflow alone repeats a call for minutes
    capsys.readouterr()

    restart = Thread(target=server.start)
    restart.start()
    ledger.settle(first, Outcome("FAILED", "boom", "what it printed", "here"))
    restart.join()
    ledger.close("FINISHED")
    said = capsys.readouterr().err
    assert said.count("does not answer") == 1
    assert said.count("answers again") == 1

    runs = {run.info.run_id: run for run in client.search_runs([client.get_experiment_by_name("e").experiment_id])}
    assert runs[first].info.status == "FAILED"
    assert runs[first].data.tags["error"] == "boom"
    assert Path(client.download_artifacts(first, "error.txt")).read_text() == "what it printed"
    assert runs[second].info.status == "KILLED"  # nobody has settled it
    assert runs[ledger.parent_id].info.status == "FINISHED"
    assert len(runs) == 3


def test_with_a_password_in_its_address_the_store_is_named_without_it() -> None:
    def refused() -> None:
        raise OSError("nobody at http://me:secret@127.0.0.1:1")

    with pytest.raises(StoreError) as caught:
        Patience("http://me:secret@127.0.0.1:1", limit_s=0)(refused)
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)
