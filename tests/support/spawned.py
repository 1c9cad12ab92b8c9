"""Runs whose ranks Lightning spawns itself. Started as a script, since spawning imports it again."""

import sys
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from adaloss_lightning import AdaLossCallback
from tests.support import cases
from tests.support.leaving import LeaveGroup


class Save(pl.Callback):
    """What a spawned rank got; it dies before the main process could ask it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_fit_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
        got = cases.result(pl_module.net, trainer.optimizers[0], trainer.callback_metrics)
        torch.save(got, self.path.with_suffix(f".rank{trainer.global_rank}.pt"))


class OwnLoader(cases.Model):
    """Knows its rank only in the spawned process."""

    def train_dataloader(self) -> Any:
        return cases.loader(self.global_rank, self.trainer.world_size)


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    for name, accumulate in cases.SPAWNED:
        path = folder / f"{name} {accumulate}"
        trainer = cases.trainer_for(
            "ddp_spawn", 2, accumulate_grad_batches=accumulate, callbacks=[AdaLossCallback(), Save(path), LeaveGroup()]
        )
        trainer.fit(OwnLoader(name))
        logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
        torch.save(logged, path.with_suffix(".main.pt"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
