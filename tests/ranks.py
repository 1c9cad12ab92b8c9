"""Launches of several processes, whose results the parallel workers of pytest share."""

import fcntl
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.limits import HANG_S, RENDEZVOUS
from tests.ports import free_port

ROOT = Path(__file__).parents[1]


def launched(factory: pytest.TempPathFactory, module: str, *launcher: str) -> Path:
    """The folder with what ``python -m <launcher> <module> <folder>`` left there."""
    base = factory.getbasetemp()
    folder = (base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base) / module
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "done").exists():
            (folder / "done").write_text("it took too long")  # for those who wait for the lock
            done = subprocess.run(
                [sys.executable, *launcher, "-m", module, str(folder)],
                capture_output=True, text=True, timeout=HANG_S, check=False, cwd=ROOT,
                env=os.environ | {"MASTER_PORT": str(free_port())},
            )  # fmt: skip
            (folder / "done").write_text("" if done.returncode == 0 else done.stderr[-4000:] or "failed")
    failure = (folder / "done").read_text()
    assert not failure, failure
    return folder


def results(factory: pytest.TempPathFactory, module: str, ranks: int) -> list[dict[str, Any]]:
    """What each rank saved as ``rank<i>.pt``, started by torchrun."""
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", RENDEZVOUS)
    folder = launched(factory, module, *torchrun)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(ranks)]
