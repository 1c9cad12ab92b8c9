"""The same runs under both of Lightning's names."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cells import cell
from tests.support.namespaced import CASES, assert_trains

SECTION, CONTROL = "Namespaces and versions", "the recurrence on the losses that `training_step` returned"


@cell(SECTION, "`lightning.pytorch`", CONTROL)
@pytest.mark.parametrize("case", CASES)
def test_lightning_pytorch(case: str) -> None:
    assert_trains("lightning.pytorch", case)


@cell(SECTION, "`pytorch_lightning`, from 2.6 on: the same two runs", CONTROL)
def test_pytorch_lightning() -> None:
    """In a process of its own, as users have it: the two names register the same things twice."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.namespaced", "pytorch_lightning"],
        capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
