"""One rank of a training that loses a worker: started by torchrun, on two nodes of one process each.

At the first attempt the last rank kills itself in mid-training; torchrun restarts both, and they resume from the newest
checkpoint.
"""

import os
import signal
import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader

from adaloss_lightning import AdaLoss, AdaLossCallback

STEPS = 12
KILLED_AT = 7
BATCH = 8  # over all ranks


class Model(pl.LightningModule):
    """The batch of a step is a function of the step; each rank takes its share of it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = torch.nn.Linear(4, 1).double()  # Lightning loads a checkpoint before "64-true" converts the module

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        step, ranks = self.trainer.global_step, self.trainer.world_size
        first_attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if first_attempt and step == KILLED_AT and self.global_rank == ranks - 1:
            os.kill(os.getpid(), signal.SIGKILL)
        x = torch.randn(BATCH, 4, generator=torch.Generator().manual_seed(step), dtype=torch.float64)
        x = x[self.global_rank :: ranks]
        return (self.net(x) - x.sum(dim=1, keepdim=True)).square().mean()

    def configure_optimizers(self) -> Any:
        return AdaLoss(self.parameters(), lr=0.1, momentum=0.9)


def train(folder: Path, nodes: int = 1) -> dict[str, Any]:
    checkpoint = pl.callbacks.ModelCheckpoint(folder, filename="{step:03d}", every_n_train_steps=1, save_top_k=-1)
    model = Model()
    trainer = pl.Trainer(
        max_steps=STEPS, accelerator="cpu", devices=1, num_nodes=nodes, strategy="ddp" if nodes > 1 else "auto",
        precision="64-true", logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[AdaLossCallback(), checkpoint],
    )  # fmt: skip
    # each step's checkpoint was written by rank 0 before the next step, so the last but one is whole on any crash
    found = sorted(folder.glob("*.ckpt"))[:-1]
    trainer.fit(model, DataLoader(range(5)), ckpt_path=found[-1] if found else None)
    optimizer: Any = trainer.optimizers[0]
    return {"weights": model.state_dict(), "b": optimizer.b[0], "resumed": bool(found)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    where = Path(sys.argv[1])
    torch.save(train(where, nodes=2), where / f"rank{os.environ['RANK']}.pt")
