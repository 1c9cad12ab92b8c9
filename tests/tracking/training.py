"""The smallest training there is, with a step that does what a test wants."""

import threading
from collections.abc import Callable

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers import Logger
from mlflow.entities import Run
from mlflow.tracking import MlflowClient
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from adaloss_lightning.tracking.logger.delivery import close_all
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


def end_of_process() -> None:
    """Does what the end of a process does: it stops trying to deliver what waits."""
    deliveries = [thread for thread in threading.enumerate() if thread.name == "mlflow-delivery"]
    close_all(patience=0)
    for thread in deliveries:
        thread.join(HANG_S)


def runs_of(client: MlflowClient, experiment: str, query: str = "") -> list[Run]:
    """The runs of an experiment that is there."""
    found = client.get_experiment_by_name(experiment)
    assert found is not None
    return list(client.search_runs([found.experiment_id], query))


def trainer(logger: Logger, **settings: object) -> pl.Trainer:
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "max_epochs": 1}
    return pl.Trainer(logger=logger, accelerator="cpu", **(quiet | settings))
