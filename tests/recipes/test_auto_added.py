"""The first thing that a person tries: `AdaLossCallback(auto=True)` added to a Trainer with Adam at 1e-3."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import lightning.pytorch as pl
import pytest
import torch

from adaloss_lightning import AdaLossCallback
from recipes.digits.data import DigitsData
from recipes.digits.module import DigitsModule
from recipes.tabular.data import TabularData
from recipes.tabular.module import TabularModule

SEEDS = (1, 2)


@dataclass
class Task:
    make: Callable[[], tuple[Any, Any]]
    epochs: int
    metric: str
    is_no_worse: Callable[[float, float], bool]  # with the callback, and without


def by_a_point(auto: float, plain: float) -> bool:
    return auto >= plain - 0.01


def by_a_tenth(auto: float, plain: float) -> bool:
    return auto <= 1.1 * plain


TASKS = {
    "digits": Task(lambda: (DigitsModule("mlp", width=64), DigitsData()), 5, "val/acc", by_a_point),
    "breast_cancer": Task(
        lambda: (TabularModule("breast_cancer", width=32), TabularData("breast_cancer")), 12, "val/acc", by_a_point
    ),
    "diabetes": Task(
        lambda: (TabularModule("diabetes", width=32), TabularData("diabetes")), 25, "val/rmse", by_a_tenth
    ),
}


def trained(task: Task, callback: pl.Callback | None, seed: int) -> float:
    pl.seed_everything(seed, verbose=False)
    module, data = task.make()
    module.configure_optimizers = lambda: torch.optim.Adam(module.parameters(), lr=1e-3)
    trainer = pl.Trainer(
        max_epochs=task.epochs,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        num_sanity_val_steps=0,
        callbacks=[callback] if callback else [],
    )
    trainer.fit(module, datamodule=data)
    return float(trainer.callback_metrics[task.metric])


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:The number of training batches")
def test_auto_added_to_adam_is_not_worse(name: str) -> None:
    task = TASKS[name]
    torch.set_num_threads(1)
    plain = statistics.mean(trained(task, None, seed) for seed in SEEDS)
    auto = statistics.mean(trained(task, AdaLossCallback(auto=True), seed) for seed in SEEDS)
    assert task.is_no_worse(auto, plain)
