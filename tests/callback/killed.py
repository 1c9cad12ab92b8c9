"""A training that is killed, resumed, and killed again: `python -m tests.callback.killed FOLDER KILLS SEED`.

One process imports Lightning and forks a child for each attempt, so that twenty attempts cost seconds. A child reports
each step through a pipe and waits for the answer; it gets SIGKILL a moment after a random one, wherever it is then, in
a checkpoint too, but never further than the next step.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from adaloss_lightning import AdaLossCallback, AdamLoss

STEPS = 60
PER_EPOCH = 7


class Model(pl.LightningModule):
    """Its batch is a function of the step, so that resuming in mid-epoch needs no loader that remembers."""

    def __init__(self, report: tuple[int, int] | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
        self.report = report

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        step = self.trainer.global_step
        if self.report is not None:
            answers, reports = self.report
            os.write(reports, bytes([step]))
            os.read(answers, 1)
        x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
        return (self.net(x) - x.sum(dim=1, keepdim=True)).square().mean()

    def configure_optimizers(self) -> Any:
        optimizer = AdamLoss(self.parameters(), b0=0.5)
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, STEPS)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def train(folder: Path, report: tuple[int, int] | None = None) -> dict[str, Any]:
    """Train to the end from the newest checkpoint that can be read."""
    checkpoint = pl.callbacks.ModelCheckpoint(folder, filename="{step:03d}", every_n_train_steps=2, save_top_k=-1)
    model = Model(report)
    trainer = pl.Trainer(
        max_steps=STEPS, accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[AdaLossCallback(), checkpoint],
    )  # fmt: skip
    trainer.fit(model, DataLoader(range(PER_EPOCH)), ckpt_path=newest(folder))
    optimizer: Any = trainer.optimizers[0]
    return {"weights": model.state_dict(), "b": optimizer.b[0], "lr": optimizer.param_groups[0]["lr"]}


def newest(folder: Path) -> Path | None:
    for path in sorted(folder.glob("*.ckpt"), reverse=True):
        try:
            torch.load(path, weights_only=True)
        except (RuntimeError, EOFError, OSError):
            print(f"cut off: {path.name}")  # killed while it was written; the one before it is whole
            continue
        return path
    return None


def attempt(folder: Path, kill_at: int | None, pause: float) -> int | None:
    """One child: the step at which it was killed, or None if it came to its end."""
    reads, writes = os.pipe()
    answers, answer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reads)
        os.close(answer)
        torch.save(train(folder, (answers, writes)), folder / "result.pt")
        os._exit(0)
    os.close(writes)
    os.close(answers)
    last = None
    while data := os.read(reads, 1):
        last = data[0]
        os.write(answer, b".")
        if kill_at is not None and last >= kill_at:
            time.sleep(pause)
            os.kill(child, signal.SIGKILL)
            break
    os.close(reads)
    os.close(answer)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        return last
    assert os.waitstatus_to_exitcode(status) == 0, "the child failed"
    return None


def main(folder: Path, kills: int, seed: int) -> None:
    torch.set_num_threads(1)
    chance = random.Random(seed)
    killed, reached = 0, 0
    while killed < kills:
        ahead = chance.randint(0, max(1, 2 * (STEPS - 1 - reached) // (kills - killed + 1)))
        step = attempt(folder, min(reached + ahead, STEPS - 3), chance.uniform(0, 0.02))
        if step is None:
            break
        killed, reached = killed + 1, min(step, STEPS - 2)
        print(f"killed at step {step}", flush=True)
    attempt(folder, None, 0.0)
    print(f"{killed} kills")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
