"""Losses in whose gradients they are, where two ranks share them."""

import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.whose_loss import CASES


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("whose_loss")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run(
        [*command, "-m", "tests.distributed.whose_loss", str(folder)],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_each_optimizer_gets_the_losses_in_its_gradients(ranks: list[dict[str, Any]], case: str) -> None:
    zero, one = (rank[case] for rank in ranks)
    assert "error" not in zero, zero["error"]
    for index in (0, 1):
        steps = list(zip(zero["right"][index], one["right"][index], strict=True))
        assert len(steps) >= 3
        expected = math.sqrt(1 + sum(sum(shares) / 2 for shares in steps))
        # 1e-6: the notes are float32 losses added up, in another order
        assert zero["b"][index] == pytest.approx(expected, rel=1e-6)
        assert one["b"][index] == zero["b"][index]
