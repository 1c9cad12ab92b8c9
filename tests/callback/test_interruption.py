"""An interrupted run ends where the undisturbed one does, bit for bit."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from adaloss_lightning import AdaLossCallback
from tests.callback import killed
from tests.callback.models import Regression, fit, regression_loader
from tests.limits import HANG_S


def test_twenty_kills_change_nothing(tmp_path: Path) -> None:
    (tmp_path / "killed").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "tests.callback.killed", str(tmp_path / "killed"), "20", "7"],
        capture_output=True, text=True, timeout=HANG_S, check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert "20 kills" in done.stdout, done.stdout
    ended: dict[str, Any] = torch.load(tmp_path / "killed" / "result.pt", weights_only=True)
    undisturbed = killed.train(tmp_path / "whole")
    assert torch.equal(ended["b"], undisturbed["b"])
    assert ended["lr"] == undisturbed["lr"]
    for name, weight in undisturbed["weights"].items():
        assert torch.equal(ended["weights"][name], weight), name


def test_a_truncated_checkpoint_is_an_error_and_the_one_before_it_loads(tmp_path: Path) -> None:
    trainer = fit(Regression(), AdaLossCallback(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "1.ckpt")
    whole = (tmp_path / "1.ckpt").read_bytes()
    (tmp_path / "2.ckpt").write_bytes(whole[: len(whole) // 2])
    again = pl.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[AdaLossCallback()],
    )  # fmt: skip
    with pytest.raises(RuntimeError, match="failed finding central directory"):
        again.fit(Regression(), regression_loader(), ckpt_path=tmp_path / "2.ckpt")
    again.fit(Regression(), regression_loader(), ckpt_path=tmp_path / "1.ckpt")
    assert again.optimizers[0].b[0] > trainer.optimizers[0].b[0]
