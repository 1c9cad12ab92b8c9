"""The number of ranks changes, or a worker of two nodes is killed: the end is that of one undisturbed process."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed import elastic
from tests.limits import HANG_S, RENDEZVOUS
from tests.ports import free_port

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return elastic.train(tmp_path_factory.mktemp("control"))


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", RENDEZVOUS, *options, "-m", "tests.distributed.elastic"]


def assert_same(ended: dict[str, Any], control: dict[str, Any]) -> None:
    assert ended["resumed"], "it was to go on from a checkpoint"
    # float64: what is left between one process and two is the order of summation
    torch.testing.assert_close(ended["b"], control["b"], rtol=1e-12, atol=0)
    for name, weight in control["weights"].items():
        torch.testing.assert_close(ended["weights"][name], weight, rtol=1e-11, atol=1e-12)


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty", "ignore:You're resuming from")
def test_from_one_rank_to_two_and_back(tmp_path: Path, control: dict[str, Any]) -> None:
    alone = elastic.train(tmp_path, until=4)
    assert not alone["resumed"]
    command = [*torchrun("--standalone", "--nproc-per-node=2"), str(tmp_path), "8"]
    subprocess.run(command, check=True, timeout=HANG_S, cwd=ROOT)
    pair = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert [rank["ranks"] for rank in pair] == [2, 2]
    assert all(rank["resumed"] for rank in pair)
    assert torch.equal(pair[0]["b"], pair[1]["b"])
    assert_same(elastic.train(tmp_path), control)


def test_a_killed_worker_of_two_nodes_is_restarted(tmp_path: Path, control: dict[str, Any]) -> None:
    """Two torchrun agents, one worker each."""
    folder = tmp_path / "nodes"
    folder.mkdir()
    command = torchrun(
        "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3", "--monitor-interval=0.1", "--rdzv-id=elastic",
        # the loopback by its number: the name of this machine may lead anywhere
        "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--local-addr=127.0.0.1",
    )  # fmt: skip
    environment = os.environ | {
        "GLOO_SOCKET_IFNAME": "lo",
        # A store of its own for each attempt: left to itself torch 2.15 keeps one for all, and restarted workers may
        # look for each other where their predecessors were.
        "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1",
    }
    with ExitStack() as stack:
        logs = [stack.enter_context((tmp_path / f"node{index}.log").open("w")) for index in (0, 1)]
        nodes = [
            subprocess.Popen(
                [*command, str(folder), str(elastic.STEPS), "killed"],
                stdout=log, stderr=subprocess.STDOUT, cwd=ROOT, env=environment,
            )
            for log in logs
        ]  # fmt: skip
        for node in nodes:
            stack.callback(node.kill)
        codes = [node.wait(timeout=HANG_S) for node in nodes]
    said = "".join((tmp_path / f"node{index}.log").read_text() for index in (0, 1))
    assert codes == [0, 0], said[-4000:]
    assert (folder / "killed").exists()
    assert "SIGKILL" in said or "exitcode: -9" in said, said[-4000:]
    for rank in (0, 1):
        assert_same(torch.load(folder / f"rank{rank}.pt", weights_only=True), control)
