"""Two nodes under torchrun, one of which loses its worker: torchrun restarts, and the end is that of one process."""

import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch

from tests.distributed import elastic


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.elastic
def test_a_killed_worker_is_restarted_and_b_goes_on(tmp_path: Path) -> None:
    folder = tmp_path / "nodes"
    folder.mkdir()
    command = [
        sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1", "--max-restarts=3",
        "--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{free_port()}", "--rdzv-id=elastic",
        "--monitor-interval=0.1",
        "-m", "tests.distributed.elastic", str(folder),
    ]  # fmt: skip
    root = Path(__file__).parents[2]
    with ExitStack() as stack:
        logs = [stack.enter_context((tmp_path / f"node{index}.log").open("w")) for index in (0, 1)]
        nodes = [subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=root) for log in logs]
        codes = [node.wait(timeout=240) for node in nodes]
    said = "".join((tmp_path / f"node{index}.log").read_text() for index in (0, 1))
    assert codes == [0, 0], said[-4000:]
    assert "SIGKILL" in said or "exitcode: -9" in said, said[-4000:]
    control = elastic.train(tmp_path / "control")
    for rank in (0, 1):
        ended = torch.load(folder / f"rank{rank}.pt", weights_only=True)
        assert ended["resumed"], "it was to go on from a checkpoint"
        # float64: what is left between one process and two is the order of summation
        torch.testing.assert_close(ended["b"], control["b"], rtol=1e-12, atol=0)
        for name, weight in control["weights"].items():
            torch.testing.assert_close(ended["weights"][name], weight, rtol=1e-11, atol=1e-12)
