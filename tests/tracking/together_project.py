"""Somebody's own project whose model can be trained together: a plain LightningCLI, and a gate that may be shut.

The tests copy this file and write the methods' YAML beside it.
"""

import os
import signal
from pathlib import Path

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset


class Model(pl.LightningModule):
    def __init__(self, behave: str = "well", dropout: float = 0.0) -> None:
        super().__init__()
        self.save_hyperparameters()
        if behave == "need" and torch.initial_seed() == 2 and not Path("gate").exists():
            raise FileNotFoundError("the gate is shut")
        self.weight = nn.Parameter(torch.randn(1))
        self.drop = nn.Dropout(dropout) if dropout else nn.Identity()
        self.behave = behave
        self.evaluated = 0

    def errors(self, batch: list[Tensor]) -> Tensor:
        x, y = batch
        return (self.weight * self.drop(x) - y).square()

    def training_loss(self, batch: list[Tensor]) -> Tensor:
        return self.errors(batch).mean()

    def example_metrics(self, batch: list[Tensor]) -> dict[str, Tensor]:
        self.evaluated += 1
        if self.behave in ("sigint", "sigterm") and self.evaluated == 2:
            os.kill(os.getpid(), signal.SIGINT if self.behave == "sigint" else signal.SIGTERM)
        if self.behave == "raise" and self.evaluated == 2:
            raise ArithmeticError("this model is broken")
        return {"loss": self.errors(batch)}

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = self.training_loss(batch)
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[Tensor], batch_idx: int) -> None:
        self.log("val/loss", self.example_metrics(batch)["loss"].mean())


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        x = torch.arange(8.0)
        return DataLoader(TensorDataset(x, 2 * x), batch_size=3, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        x = torch.arange(4.0)
        return DataLoader(TensorDataset(x, 2 * x), batch_size=3)


class Watched(Model):
    def on_train_batch_end(self, *args: object) -> None:
        pass


def main(args: list[str] | None = None) -> None:
    LightningCLI(Model, Data, args=args, subclass_mode_model=True)
