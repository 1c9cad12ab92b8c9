"""A store that is away while a sweep has something to write."""

import itertools
import re
import shlex
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import StoreError, retry
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.logger import recovery
from adaloss_lightning.tracking.logger.journal import Journal
from adaloss_lightning.tracking.logger.recovery import waiting
from adaloss_lightning.tracking.logger.spool import Spool, read_header
from adaloss_lightning.tracking.retry import Patience
from adaloss_lightning.tracking.sweeps.executors.task import Outcome
from adaloss_lightning.tracking.sweeps.ledger import Ledger
from tests.limits import HANG_S
from tests.servers.proxy import Fate, Proxy
from tests.servers.servers import TrackingServer
from tests.tracking.sweeping import METHOD, make_project, sweep, wait_for


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackingServer]:
    """A server for all tests here: what a test stops, it starts."""
    with TrackingServer(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_what_a_sweep_writes_waits_for_a_server_that_was_killed(
    server: TrackingServer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    connections: list[Any],
) -> None:
    client = MlflowClient(server.url)
    ledger = Ledger(client, "e", "identity", {"recipe": "r"})
    ledger.begin("sweep r")
    first, second = (ledger.start_point(name, {"b0": name}) for name in ("1", "2"))
    server.stop()
    connections.clear()
    with pytest.raises(StoreError, match=r"does not answer.*The same command continues"):
        Patience(server.url, limit_s=0)(client.get_run, first)
    assert len(connections) <= 1  # none: on one that was kept open. MLflow alone repeats a call for minutes
    patiently = Patience(server.url, limit_s=1.0)
    for _ in range(2):  # the second does not wait once more
        with pytest.raises(StoreError, match="does not answer"):
            patiently(client.get_run, first)
    assert patiently.limit_s == 0
    capsys.readouterr()

    # It is back while the sweep pauses for the first time.
    monkeypatch.setattr(retry, "time", SimpleNamespace(monotonic=time.monotonic, sleep=lambda pause: server.start()))
    ledger.settle(first, Outcome("FAILED", "boom", "what it printed", "here"))
    ledger.close("FINISHED")
    said = capsys.readouterr().err
    assert said.count("does not answer") == 1
    assert said.count("answers again") == 1

    runs = {run.info.run_id: run for run in client.search_runs([client.get_experiment_by_name("e").experiment_id])}
    assert runs[first].info.status == "FAILED"
    assert runs[first].data.tags["error"] == "boom"
    assert Path(client.download_artifacts(first, "error.txt")).read_text() == "what it printed"
    assert runs[second].info.status == "KILLED"  # it has no outcome
    assert runs[ledger.parent_id].info.status == "FINISHED"
    assert len(runs) == 3


def test_with_a_password_in_its_address_the_store_is_named_without_it() -> None:
    def refused() -> None:
        raise OSError("no answer from http://me:secret@127.0.0.1:1")

    with pytest.raises(StoreError) as caught:
        Patience("http://me:secret@127.0.0.1:1", limit_s=0)(refused)
    assert "secret" not in str(caught.value)
    assert "127.0.0.1:1" in str(caught.value)


@pytest.mark.parametrize("is_back", [True, False])
def test_what_a_point_could_not_deliver_is_in_the_table_if_the_server_is_back(
    server: TrackingServer,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    is_back: bool,
) -> None:
    monkeypatch.setattr(recovery, "PATIENCE_S", HANG_S if is_back else 1.0)
    module, experiment = make_project(folder, monkeypatch), f"hangs {is_back}"
    logger = {"class_path": "adaloss_lightning.tracking.BufferedMLFlowLogger", "init_args": {"finalize_timeout": 0.5}}
    trainer = METHOD["trainer"] | {"logger": logger, "max_epochs": 1}
    Path("well.yaml").write_text(yaml.safe_dump(METHOD | {"trainer": trainer}))
    calls, released = itertools.count(1), Event()

    def decide(method: str, path: str, headers: Mapping[str, str]) -> Fate:
        # The first two are params of the sweep and of its point; the third is what the point has logged, and its
        # process, which is this one, waits for the answer until the end of the test.
        if "log-batch" in path and (number := next(calls)) > 2 and (number == 3 or not is_back):
            released.wait(HANG_S)
        return "pass"

    def logged() -> list[tuple[int, float]]:
        client = MlflowClient(server.url)
        found = client.get_experiment_by_name(experiment)
        assert found is not None
        (run,) = client.search_runs([found.experiment_id], "params.method = 'well'")
        return sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, "train/loss"))

    with Proxy(server.url, decide) as proxy:
        command = sweep(module, "well", "--b0", "1", "--experiment", experiment, "--tracking-uri", proxy.url)
        try:
            assert main(command) == 0
            terminal = capsys.readouterr()
            if is_back:
                assert "no value" not in terminal.out
                assert re.search(r"well +5\d\.\d", terminal.out)  # val/acc is 0.55 to 0.6
                assert "adaloss sync" not in terminal.err
            else:
                assert "well, b0 = 1: seed 1 no value" in terminal.out
                assert terminal.err.count("adaloss sync") == 1
                assert f"still waits: {proxy.url} does not answer. Deliver it with: adaloss sync" in terminal.err
            assert len(logged()) == (4 if is_back else 0)
        finally:
            released.set()
        # What its own process delivers once it has the answer is not stored twice.
        wait_for(lambda: not any(Spool(Journal(path), read_header(path), None).read().records for path in waiting()))
    assert [step for step, _ in logged()] == [0, 1, 2, 3]


def test_a_server_that_fails_once_a_sweep_is_done_costs_only_the_report(
    server: TrackingServer, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "0")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_BACKOFF_JITTER", "0")
    module, direct, experiment = make_project(folder, monkeypatch), MlflowClient(server.url), "it's done"
    is_failing, failed = True, 0

    def is_done() -> bool:
        found = direct.get_experiment_by_name(experiment)
        query = "tags.`adaloss.kind` = 'sweep' and attributes.status = 'FINISHED'"
        return found is not None and len(direct.search_runs([found.experiment_id], query)) == 1

    def decide(method: str, path: str, headers: Mapping[str, str]) -> Fate:
        nonlocal failed
        if not (is_failing and is_done()):
            return "pass"
        failed += 1
        return 500

    with Proxy(server.url, decide) as proxy:
        arguments = ["--experiment", experiment, "--tracking-uri", proxy.url, "--", "--trainer.max_epochs=1"]
        assert main(sweep(module, "well", "--b0", "1", *arguments)) == 2
        error = capsys.readouterr().err
        assert "Traceback" not in error
        (said,) = [line for line in error.splitlines() if line.startswith("adaloss: error: ")]
        assert said.startswith("adaloss: error: The sweep is done, but its report is not: ")
        assert "500" in said
        assert failed == 3  # MLflow by itself would try eight times, for minutes
        way_out = said.partition(". Make it with: adaloss ")[2]
        assert way_out == shlex.join(["report", "--experiment", experiment, "--tracking-uri", proxy.url])
        is_failing = False
        assert main(shlex.split(way_out)) == 0
