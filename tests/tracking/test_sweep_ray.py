"""Sweeps on a real Ray cluster of two nodes, started on this machine."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from adaloss_lightning.tracking import SweepError
from adaloss_lightning.tracking.console.app import main
from adaloss_lightning.tracking.sweeps.executors.ray import require_shared_store
from tests.limits import HANG_S
from tests.ports import free_port
from tests.tracking.sweeping import all_of, sweep, wait_for

cluster_utils = pytest.importorskip("ray.cluster_utils")
services = pytest.importorskip("ray._private.services")


@pytest.fixture
def cluster(module: str, monkeypatch: pytest.MonkeyPatch) -> "Iterator[cluster_utils.Cluster]":
    # The nodes find this checkout and the project through PYTHONPATH, which is why they start after both are known.
    node = {"num_cpus": 1, "object_store_memory": 80_000_000, "include_dashboard": False}
    # A node that was killed is seen in two seconds, as it refuses the connection; one that is slow keeps its time.
    impatient = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_failure_threshold": 4,
        "health_check_timeout_ms": int(1000 * HANG_S),
        "worker_niceness": 0,  # Ray's 15 leaves a worker a hundredth of a loaded core: then points take hours
    }
    monkeypatch.setenv("RAY_gcs_server_port_wait_time_s", f"{HANG_S:.0f}")
    get_node = services.get_node

    def get_node_patiently(*args: Any) -> Any:  # Ray gives a node half a minute to register
        found: list[Any] = []

        def is_there() -> bool:
            with contextlib.suppress(Exception):
                found.append(get_node(*args))
            return bool(found)

        wait_for(is_there)
        return found[0]

    monkeypatch.setattr(services, "get_node", get_node_patiently)
    head = {**node, "wait": False, "_system_config": impatient}
    cluster = cluster_utils.Cluster(initialize_head=True, head_node_args=head)
    try:
        cluster.other = cluster.add_node(wait=False, num_cpus=1, object_store_memory=80_000_000)
        cluster.wait_for_nodes(HANG_S)
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        yield cluster
    finally:
        cluster.shutdown()


def test_ray_runs_points_on_both_nodes_and_loses_only_those_of_a_node_that_dies(
    client: MlflowClient, module: str, cluster: "cluster_utils.Cluster", capsys: pytest.CaptureFixture[str]
) -> None:
    def kill_a_node() -> None:
        wait_for(lambda: len(list(Path.cwd().glob("at-the-gate-*"))) == 2)
        cluster.remove_node(cluster.other, allow_graceful=False)
        try:
            wait_for(lambda: any(run.info.status == "FAILED" for run in all_of(client)))
        finally:
            Path("gate").touch()

    killer = Thread(target=kill_a_node)
    killer.start()
    arguments = sweep(module, "well,gate", "--b0", "0.1,1", "--executor", "ray")
    assert main(arguments) == 1
    killer.join()
    parent, *children = all_of(client)
    assert parent.info.status == "FINISHED"
    assert len(children) == 4
    assert {run.data.tags["mlflow.parentRunId"] for run in children} == {parent.info.run_id}
    (lost,) = [run for run in children if run.info.status == "FAILED"]
    assert lost.data.params["method"] == "gate"
    assert "Ray lost it" in lost.data.tags["error"]
    done = [run for run in children if run.info.status == "FINISHED"]
    assert {run.data.tags["adaloss.host"] for run in done} == {socket.gethostname()}
    assert nodes_of(done) == {cluster.head_node.node_id, cluster.other.node_id}
    for run in done:
        assert len(client.get_metric_history(run.info.run_id, "train/loss")) == 8  # 2 epochs of 4 steps, once each
    terminal = capsys.readouterr()
    assert "4/4" in terminal.err
    assert "1 failed" in terminal.err

    # The same command goes on with what is left of the cluster.
    assert main(arguments) == 0
    assert "3 of 4 points are done" in capsys.readouterr().err
    again = all_of(client)
    assert [run.info.run_id for run in again[:5]] == [run.info.run_id for run in (parent, *children)]
    assert [run.info.end_time for run in again if run.info.run_id in {one.info.run_id for one in done}] == [
        run.info.end_time for run in done
    ]
    assert len(again) == 6
    assert again[5].info.status == "FINISHED"
    assert nodes_of(again[5:]) == {cluster.head_node.node_id}
    assert again[5].data.params == lost.data.params | again[5].data.params

    # SIGTERM ends what runs on the cluster, and the sweep.
    for file in ("gate", *Path.cwd().glob("at-the-gate-*")):
        Path(file).unlink()

    def stop() -> None:
        wait_for(lambda: list(Path.cwd().glob("at-the-gate-*")))
        os.kill(os.getpid(), signal.SIGTERM)

    stopper = Thread(target=stop)
    stopper.start()
    assert main(sweep(module, "gate", "--b0", "5", "--executor", "ray")) == 130
    stopper.join()
    assert [run.info.status for run in all_of(client)[6:]] == ["KILLED", "KILLED"]


def nodes_of(runs: list[Run]) -> set[str]:
    return {run.data.tags["adaloss.ray_node"] for run in runs}


def test_ray_cluster_of_several_machines_needs_a_server() -> None:
    here, there = {"NodeManagerHostname": socket.gethostname()}, {"NodeManagerHostname": "there"}
    require_shared_store("sqlite:////data/mlflow.db", [here, here])
    require_shared_store("https://user:secret@tracking:5000", [here, there])
    for uri in ("sqlite:////data/mlflow.db", "file:///data/mlruns", "/data/mlruns"):
        with pytest.raises(SweepError, match=r"other machines \(there\), which cannot write") as caught:
            require_shared_store(uri, [here, there])
        assert "--tracking-uri" in str(caught.value)


def test_ray_address_without_an_answer_is_reported(
    client: MlflowClient, module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    address = f"127.0.0.1:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    assert main(sweep(module, "well", "--b0", "1", "--executor", "ray")) == 2
    assert f"RAY_ADDRESS={address}" in capsys.readouterr().err
    assert all_of(client) == []


def test_ray_missing_names_the_command_that_installs_it(module: str) -> None:
    # Where nothing but the standard library and the project's own packages can be found under the name of ray.
    app = "adaloss_lightning.tracking.console.app"
    hide = f"import sys; sys.modules['ray'] = None; from {app} import main; sys.exit(main())"
    command = [sys.executable, "-c", hide, *sweep(module, "well", "--b0", "1", "--executor", "ray")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=HANG_S)
    assert ended.returncode == 2
    assert "pip install 'ray>=2.40'" in ended.stderr
    assert not Path("mlflow.db").exists()
