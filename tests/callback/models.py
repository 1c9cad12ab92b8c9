"""Small modules for the callback's tests; each notes the loss of every training_step as it really was."""

from collections.abc import Callable
from typing import Any

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.data import DataLoader, TensorDataset


def regression_loader(batches: int = 4, batch_size: int = 2, dtype: torch.dtype = torch.float32) -> DataLoader[Any]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(batches * batch_size, 3, generator=generator, dtype=torch.float64)
    y = x @ torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) + 3.0
    return DataLoader(TensorDataset(x.to(dtype), y.to(dtype)), batch_size=batch_size)


def seeded_linear() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(3, 1)


class Regression(pl.LightningModule):
    def __init__(self, make_optimizer: Callable[[Any], Any] | None = None) -> None:
        super().__init__()
        self.net = seeded_linear()
        self.make_optimizer = make_optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.1))
        self.true_losses: list[float] = []

    def compute_loss(self, batch: Any) -> Tensor:
        x, y = batch
        loss = torch.nn.functional.mse_loss(self.net(x), y)
        self.true_losses.append(loss.detach().double().item())
        return loss

    def training_step(self, batch: Any, batch_idx: int) -> Any:
        return self.compute_loss(batch)

    def configure_optimizers(self) -> Any:
        return self.make_optimizer(self.parameters())


def windows(losses: list[float], size: int, per_epoch: int) -> list[list[float]]:
    """The losses of each optimizer step when ``size`` batches are accumulated and an epoch ends its last window."""
    epochs = [losses[start : start + per_epoch] for start in range(0, len(losses), per_epoch)]
    return [epoch[start : start + size] for epoch in epochs for start in range(0, len(epoch), size)]


def fit(model: pl.LightningModule, callback: pl.Callback | None, loader: Any = None, **trainer: Any) -> pl.Trainer:
    """Fit on the CPU, quietly, without writing anything."""
    callbacks = ([] if callback is None else [callback]) + trainer.pop("callbacks", [])
    settings: dict[str, Any] = {
        "max_epochs": 2,
        "accelerator": "cpu",
        "devices": 1,
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "callbacks": callbacks,
    }
    path = trainer.pop("ckpt_path", None)
    instance = trainer.pop("trainer_class", pl.Trainer)(**{**settings, **trainer})
    instance.fit(model, regression_loader() if loader is None else loader, ckpt_path=path)
    return instance


def optimizer_of(trainer: pl.Trainer, index: int = 0) -> Optimizer:
    return trainer.optimizers[index]


class Rates(pl.Callback):
    """Keeps eta and the effective rate of each step, of each group."""

    def __init__(self) -> None:
        self.etas: list[list[float]] = []
        self.rates: list[float] = []
        self.bs: list[float] = []

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        optimizer: Any = trainer.optimizers[0]
        self.bs.append(optimizer.b[0].item())
        self.etas.append([float(group["lr"]) for group in optimizer.param_groups])
        self.rates.append(optimizer.effective_lr[0].item())
