"""One rank of a training that moves between numbers of ranks, or loses a worker: started by torchrun or called."""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from adaloss_lightning import AdaLoss, AdaLossCallback
from tests.support.leaving import leave_group

STEPS = 12
KILLED_AT = 7
BATCH = 8  # over all ranks


class Model(pl.LightningModule):
    """The batch of a step is a function of the step; each rank takes its share of it.

    Args:
        killed: A file that the last rank makes at step KILLED_AT before it kills itself, once; None for never.
    """

    def __init__(self, killed: Path | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(4, 1).double()  # Lightning loads a checkpoint before "64-true" converts the module
        self.killed = killed

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        step, ranks = self.trainer.global_step, self.trainer.world_size
        if self.killed and step == KILLED_AT and self.global_rank == ranks - 1 and not self.killed.exists():
            self.killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        x = x[self.global_rank :: ranks]
        return (self.net(x) - x.sum(dim=1, keepdim=True)).square().mean()

    def configure_optimizers(self) -> Any:
        return AdaLoss(self.parameters(), lr=0.1, momentum=0.9)


def train(folder: Path, *, nodes: int = 1, ranks: int = 1, until: int = STEPS, killed: bool = False) -> dict[str, Any]:
    checkpoint = pl.callbacks.ModelCheckpoint(folder, filename="{step:03d}", every_n_train_steps=1, save_top_k=-1)
    model = Model(folder / "killed" if killed else None)
    trainer = pl.Trainer(
        max_steps=until, accelerator="cpu", devices=ranks, num_nodes=nodes, precision="64-true", logger=False,
        strategy="ddp" if nodes * ranks > 1 else "auto", enable_progress_bar=False, enable_model_summary=False,
        callbacks=[AdaLossCallback(), checkpoint],
    )  # fmt: skip
    found = sorted(folder.glob("*.ckpt"))
    if killed:  # each step's checkpoint was written before the next step, so the last but one is whole on any crash
        found = found[:-1]
    trainer.fit(model, DataLoader(range(5)), ckpt_path=found[-1] if found else None)
    optimizer: Any = trainer.optimizers[0]
    return {"weights": model.state_dict(), "b": optimizer.b[0], "resumed": bool(found), "ranks": trainer.world_size}


if __name__ == "__main__":
    torch.set_num_threads(1)
    where, last, dies = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:] == ["killed"]
    agents, local = int(os.environ["GROUP_WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"])
    torch.save(train(where, nodes=agents, ranks=local, until=last, killed=dies), where / f"rank{os.environ['RANK']}.pt")
    leave_group()
