"""Somebody's own project, which knows nothing of ours but the optimizer: a plain LightningCLI with its defaults.

The sweep's tests copy this file and write the methods' YAML beside it.
"""

import os
import signal
import time
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset


class Model(pl.LightningModule):
    def __init__(self, behave: str = "well") -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.behave = behave

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        if self.behave == "raise":
            raise ValueError("this model is broken")
        if self.behave == "late" and self.current_epoch == 1:
            raise ValueError("this model breaks in its second epoch")
        if self.behave == "rank" and self.global_rank == 1:
            raise ValueError("only the second rank is broken")
        if self.behave == "interrupt":
            raise KeyboardInterrupt
        if self.behave == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.behave == "need" and not Path("gate").exists():
            raise FileNotFoundError("the gate is shut")
        if self.behave == "gate":
            Path(f"at-the-gate-{os.getpid()}").touch()
            while not Path("gate").exists():
                time.sleep(0.05)
        if self.behave == "break" and self.current_epoch == 3:
            self.weight.data.fill_(float("nan"))
        x, y = batch
        loss = (self.weight * x - y).square().mean()
        self.optimizers().record_loss(loss)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/acc", (0.7 if self.behave == "break" else 0.5) + 0.1 * torch.sigmoid(self.weight).sum())


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        x = torch.arange(8.0)
        return DataLoader(TensorDataset(x, 2 * x), batch_size=2)

    val_dataloader = train_dataloader


def main(args: list[str] | None = None) -> None:
    LightningCLI(Model, Data, args=args)
