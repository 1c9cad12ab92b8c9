"""The smallest training there is, with a step that does what a test wants."""

from collections.abc import Callable

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from adaloss_lightning.tracking import BufferedMLFlowLogger
from tests.limits import HANG_S


class Line(pl.LightningModule):
    """Fits y = 2 x; `disturb(batch_idx)` is called in every training step."""

    def __init__(self, disturb: Callable[[int], object] = lambda step: None) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.disturb = disturb

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        self.disturb(batch_idx)
        x, y = batch
        loss = (self.weight * x - y).square().mean()
        self.log("train/loss", loss)
        return loss

    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        x = torch.arange(8.0)
        return DataLoader(TensorDataset(x, 2 * x), batch_size=2)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.01)


def end_of_process(logger: BufferedMLFlowLogger) -> None:
    """Stops what the process of a run that is over does until it ends: trying to deliver what waits."""
    for delivery in logger._run._left:
        delivery.close(patience=0)
        delivery._thread.join(HANG_S)


def trainer(logger: Logger, **settings: object) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "max_epochs": 1}
    return pl.Trainer(logger=logger, accelerator="cpu", **(quiet | settings))  # type: ignore[arg-type]
