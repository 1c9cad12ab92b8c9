"""A first eta for the paper's methods, for those who come from Adam at 1e-3, SGD at 0.1, or raw regression targets.

Each row trains the same network with the same budget on several seeds: the digits CNN (accuracy on validation data) or
the recipe tabular's network on the raw diabetes targets (RMSE). Mean and standard deviation of the best epoch.
"""

import statistics
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import lightning.pytorch as pl
import torch

from adaloss_lightning import AdaLoss, AdaLossCallback, AdamLoss
from benchmarks.common import Row, arguments, print_table, write_json
from benchmarks.lightning_loop import silence, trainer
from recipes.digits.data import DigitsData
from recipes.digits.module import DigitsModule
from recipes.tabular.data import TabularData
from recipes.tabular.module import TabularModule

COLUMNS = {
    "task": "{task}",
    "you have": "{have}",
    "you add or take": "{take}",
    "result": "{mean:.1f} ± {deviation:.1f}",
}


class Way(NamedTuple):
    """An optimizer, and the callback that is added to it."""

    have: str
    take: str
    optimizer: Callable[[Any], torch.optim.Optimizer]
    callback: Callable[[], AdaLossCallback] | None = None


def adam(parameters: Any) -> torch.optim.Optimizer:
    """What many have."""
    return torch.optim.Adam(parameters, lr=1e-3)


def sgd(parameters: Any) -> torch.optim.Optimizer:
    """What the others have."""
    return torch.optim.SGD(parameters, lr=0.1, momentum=0.9)


ADAM, SGD, SLOW = "`Adam(lr=1e-3)`", "`SGD(lr=0.1, momentum=0.9)`", "`SGD(lr=1e-4)`"
AUTO = "`AdaLossCallback(auto=True)`"
WAYS = {
    "digits": [
        Way(ADAM, "nothing", adam),
        Way(ADAM, "`AdaLossCallback()`", adam, AdaLossCallback),
        Way(ADAM, "`AdaLossCallback(lr=0.03)`", adam, lambda: AdaLossCallback(lr=0.03)),
        Way(ADAM, AUTO, adam, lambda: AdaLossCallback(auto=True)),
        Way(ADAM, "`AdamLoss(lr=0.03)`", lambda p: AdamLoss(p, lr=0.03), AdaLossCallback),
        Way(SGD, "nothing", sgd),
        Way(SGD, "`AdaLossCallback(lr=1)`", sgd, lambda: AdaLossCallback(lr=1.0)),
        Way(SGD, AUTO, sgd, lambda: AdaLossCallback(auto=True)),
        Way(SGD, "`AdaLoss(lr=1, momentum=0.9)`", lambda p: AdaLoss(p, lr=1.0, momentum=0.9), AdaLossCallback),
    ],
    "diabetes": [
        Way(ADAM, "nothing", adam),
        Way(ADAM, "`AdaLossCallback(lr=0.3, alpha=3e-5)`", adam, lambda: AdaLossCallback(lr=0.3, alpha=3e-5)),
        Way(ADAM, "`AdaLossCallback(lr=0.3, alpha='auto')`", adam, lambda: AdaLossCallback(lr=0.3, alpha="auto")),
        Way(ADAM, AUTO, adam, lambda: AdaLossCallback(auto=True)),
        Way(SLOW, "nothing", lambda p: torch.optim.SGD(p, lr=1e-4)),
        Way(SLOW, "`AdaLoss(lr=10, alpha='auto')`", lambda p: AdaLoss(p, lr=10.0, alpha="auto"), AdaLossCallback),
    ],
}  # fmt: skip
METRICS = {"digits": ("val/acc", 100.0, max), "diabetes": ("val/rmse", 1.0, min)}


class Best(pl.Callback):
    """Keeps the best epoch's value of a metric."""

    def __init__(self, name: str, better: Any) -> None:
        self.name, self.better = name, better
        self.values: list[float] = []

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Takes in the epoch's value."""
        self.values.append(float(trainer.callback_metrics[self.name]))


def train(task: str, way: Way, seed: int, epochs: int | None = None) -> float:
    """The best epoch's metric of one run."""
    pl.seed_everything(seed, verbose=False)
    module: Any = DigitsModule("cnn") if task == "digits" else TabularModule("diabetes")
    data: Any = DigitsData() if task == "digits" else TabularData("diabetes")
    module.configure_optimizers = lambda: way.optimizer(module.parameters())
    name, factor, better = METRICS[task]
    best = Best(name, better)
    fitter = trainer(
        max_epochs=epochs or (12 if task == "digits" else 40),
        accelerator="cpu",
        logger=False,
        num_sanity_val_steps=0,
        callbacks=[best] if way.callback is None else [best, way.callback()],
    )
    fitter.fit(module, datamodule=data)
    return factor * float(better(best.values))


def rows(seeds: int, epochs: int | None = None) -> Iterator[Row]:
    """One row a way."""
    for task, ways in WAYS.items():
        for way in ways:
            values = [train(task, way, seed, epochs) for seed in range(1, seeds + 1)]
            deviation = statistics.stdev(values) if seeds > 1 else 0.0
            yield {
                "task": task,
                "have": way.have,
                "take": way.take,
                "mean": statistics.mean(values),
                "deviation": deviation,
                "values": values,
            }


def main() -> None:
    """Measure and print."""
    parser = arguments("first_lr", __doc__)
    parser.add_argument("--seeds", type=int, default=3, help="runs a row")
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    silence()
    warnings.filterwarnings("ignore")
    print(f"seeds: {given.seeds}\n")
    write_json(given.json, "first_lr", print_table(rows(given.seeds), COLUMNS), seeds=given.seeds)


if __name__ == "__main__":
    main()
