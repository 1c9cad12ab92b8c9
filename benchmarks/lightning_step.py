"""Cost of callback and logger in a Lightning run, on one and two ranks: `python -m benchmarks.lightning_step`.

Two trainers run at once and take turns: each makes one whole step of Lightning's loop, hooks and logging included, then
waits while the other makes one. So both see the same machine, whatever else it does meanwhile. On one rank they train
the very same weights, because two copies of a model differ in speed by where in memory they lie; under
DistributedDataParallel each has its own, and they change places from round to round. Each rank has one core. A step is
what lies between two requests for a batch.
"""

import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Literal

import lightning.pytorch as pl
import torch
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.strategies import DDPStrategy

from adaloss_lightning import AdaLossCallback
from adaloss_lightning.tracking import BufferedMLFlowLogger
from benchmarks.common import Columns, Comparison, Make, Row, arguments, print_table, write_json
from benchmarks.lightning_loop import Repeated, Silent, silence, trainer
from benchmarks.optimizers import OURS, TORCH
from benchmarks.ranks import on_ranks

WARM_UP = 20  # steps of each round that do not count
COLUMNS: Columns = {
    "ranks": "{ranks}",
    "with": "{ours}",
    "beside": "{beside}",
    "with, us": "{ours_us:.0f}",
    "beside, us": "{theirs_us:.0f}",
    "ratio": "{ratio:.3f}",
    "quartiles": "{ratio_low:.3f} to {ratio_high:.3f}",
    "added, us": "{added_us:+.0f}",
}


@dataclass(frozen=True)
class Side:
    """A run. One with a logger logs its loss, and what the callback logs, at each step."""

    name: str
    optimizer: Make
    callback: Callable[[], pl.Callback] | None = None
    logger: Literal["silent", "mlflow"] | None = None

    def trainer(self, ranks: int) -> pl.Trainer:
        """Without anything that is not asked for."""
        loggers: dict[Any, Callable[[], Logger]] = {"silent": Silent, "mlflow": mlflow_logger}
        return trainer(
            accelerator="cpu", devices=ranks, use_distributed_sampler=False,
            strategy=DDPStrategy(process_group_backend="gloo") if ranks > 1 else "auto",
            logger=loggers[self.logger]() if self.logger else False, log_every_n_steps=1 if self.logger else 50,
            callbacks=[self.callback()] if self.callback else [],
        )  # fmt: skip


def mlflow_logger() -> Logger:
    """To a store in the working folder; its run is there before any clock starts."""
    logger = BufferedMLFlowLogger("lightning_step")
    logger.log_metrics({"first": 0.0}, 0)
    logger.flush()
    return logger


SGD, ADAM = TORCH["SGD(fused)"], TORCH["Adam(fused)"]
ADALOSS = Side("AdaLoss", OURS["AdaLoss"])
FED = Side("AdaLoss, callback", OURS["AdaLoss"], AdaLossCallback)
LOGGED = Side("AdaLoss, logger", OURS["AdaLoss"], None, "mlflow")
FED_AND_LOGGED = Side("AdaLoss, callback, logger", OURS["AdaLoss"], AdaLossCallback, "mlflow")
FED_AND_SILENT = Side("AdaLoss, callback, a logger that does nothing", OURS["AdaLoss"], AdaLossCallback, "silent")
FED_ADAM = Side("torch Adam, callback", ADAM, AdaLossCallback)
AFTER_THE_SEARCH = Side("torch Adam, auto=True after its search", ADAM, lambda: AdaLossCallback(auto=True))
PLAIN_SGD, PLAIN_ADAM = Side("torch SGD", SGD), Side("torch Adam", ADAM)

ON_ONE: list[tuple[Side, Side]] = [
    (PLAIN_SGD, PLAIN_SGD),  # what the method cannot tell apart
    (Side("torch SGD, a callback that does nothing", SGD, pl.Callback), PLAIN_SGD),
    (FED, ADALOSS),
    (FED, PLAIN_SGD),
    (Side("AdamLoss, callback", OURS["AdamLoss"], AdaLossCallback), PLAIN_ADAM),
    (Side("torch SGD, callback", SGD, AdaLossCallback), PLAIN_SGD),
    (FED_ADAM, PLAIN_ADAM),
    (AFTER_THE_SEARCH, FED_ADAM),
    (LOGGED, ADALOSS),
    (FED_AND_LOGGED, LOGGED),
    (FED_AND_LOGGED, FED_AND_SILENT),
    (FED_AND_LOGGED, PLAIN_SGD),
]
ON_SEVERAL: list[tuple[Side, Side]] = [
    (PLAIN_SGD, PLAIN_SGD),
    (FED, ADALOSS),
    (FED, PLAIN_SGD),
    (Side("AdamLoss, callback", OURS["AdamLoss"], AdaLossCallback), PLAIN_ADAM),
    (FED_AND_LOGGED, FED_AND_SILENT),
    (FED_AND_LOGGED, PLAIN_SGD),
]


class Model(pl.LightningModule):
    """Trains a network, which it may share with the other trainer."""

    def __init__(self, net: torch.nn.Module, optimizer: Make) -> None:
        super().__init__()
        self.net = net
        self.optimizer = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: D102
        x, y = batch
        loss = torch.nn.functional.cross_entropy(self.net(x), y)
        if self.trainer.loggers:
            self.log("train/loss", loss)
        return loss

    def configure_optimizers(self) -> Any:  # noqa: D102
        return self.optimizer(self.parameters())


class Batches:
    """The same batch again and again. Requests for it are when turns change: one lock for each side.

    A search for eta reads a copy, and has the machine for itself.
    """

    def __init__(self, locks: list[threading.Semaphore], side: int, steps: int, batch: Any) -> None:
        self.locks, self.side, self.steps, self.batch = locks, side, steps, batch
        self.times: list[float] = []  # microseconds

    def __len__(self) -> int:
        return self.steps

    def __deepcopy__(self, memo: Any) -> Repeated:
        return Repeated(self.batch, self.steps)

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.steps):
            begin = time.perf_counter()
            yield self.batch
            self.times.append(1e6 * (time.perf_counter() - begin))
            self.locks[1 - self.side].release()
            self.locks[self.side].acquire()


def race(sides: tuple[Side, Side], ranks: int, steps: int, size: int, width: int) -> list[list[float]]:
    """Microseconds of each step of each side, on this rank."""
    locks = [threading.Semaphore(1), threading.Semaphore(0)]
    batch = (torch.randn(size, width), torch.randint(0, 10, (size,)))
    net = torch.nn.Sequential(
        torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(),
        torch.nn.Linear(width, 10),
    )  # fmt: skip
    nets = [net, net if ranks == 1 else deepcopy(net)]  # two DistributedDataParallel would hook onto one another
    trainers = [side.trainer(ranks) for side in sides]
    count = WARM_UP + steps + 1  # Lightning asks for nothing after the last batch, which ends the last step but one
    loaders = [Batches(locks, which, count, batch) for which in (0, 1)]

    def train(which: int) -> None:
        locks[which].acquire()
        trainers[which].fit(Model(nets[which], sides[which].optimizer), loaders[which])
        locks[1 - which].release()

    threads = [threading.Thread(target=train, args=(which,)) for which in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return [loader.times[WARM_UP:] for loader in loaders]


def measure(rank: int, ranks: int, steps: int, rounds: int, size: int, width: int) -> list[Row]:
    """All pairs of trainings with so many ranks; rank 0 prints them."""
    silence()

    def rows() -> Iterator[Row]:
        for ours, beside in ON_ONE if ranks == 1 else ON_SEVERAL:
            pairs: list[tuple[float, float]] = []
            for index in range(rounds):
                sides = (beside, ours) if index % 2 else (ours, beside)
                first, second = race(sides, ranks, steps, size, width)
                pairs += zip(second, first, strict=True) if index % 2 else zip(first, second, strict=True)
            yield Comparison.of(pairs).row(ranks=ranks, ours=ours.name, beside=beside.name)

    return print_table(rows(), COLUMNS) if rank == 0 else list(rows())


def main() -> None:
    parser = arguments("lightning_step", __doc__)
    parser.add_argument("--steps", type=int, default=120, help="of each side, in each round")
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--size", type=int, default=160, help="of the batch")
    parser.add_argument("--width", type=int, default=512, help="of the layers")
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    options = parser.parse_args()
    rows: list[Row] = []
    path = options.json.absolute()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for ranks in options.ranks:
            rows += on_ranks(measure, ranks, options.steps, options.rounds, options.size, options.width)
    write_json(path, "lightning_step", rows, columns={"": COLUMNS}, threads=1, lightning=pl.__version__)


if __name__ == "__main__":
    main()
