"""What the callback costs a Lightning training: `python -m benchmarks.callback [--steps N] [--rounds N]`.

Two trainers run at once, one with AdaLossCallback and one without, and take turns: each makes one whole step of
Lightning's loop, hooks and logging included, then waits while the other makes one. So both see the same machine,
whatever else it does meanwhile. They train the very same weights, because two copies of a model differ in speed by
where in memory they lie, and share one core, because two cores differ too. A step is what lies between two requests for
a batch. The table gives medians over steps, and medians of the pairs' ratios and differences.
"""

import argparse
import logging
import os
import platform
import statistics
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lightning.pytorch as pl
import torch

from adaloss_lightning import AdaLoss, AdaLossCallback, AdamLoss

WARM_UP = 20


class Model(pl.LightningModule):
    """Trains a network that it shares with the other trainer."""

    def __init__(self, net: torch.nn.Module, optimizer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.net = net
        self.optimizer = optimizer

    def training_step(self, batch: Any, batch_idx: int) -> Any:  # noqa: D102
        x, y = batch
        return torch.nn.functional.cross_entropy(self.net(x), y)

    def configure_optimizers(self) -> Any:  # noqa: D102
        return self.optimizer(self.parameters())


class Batches:
    """The same batch again and again. Requests for it are when turns change: one lock for each side."""

    def __init__(self, locks: list[threading.Semaphore], side: int, steps: int, batch: Any) -> None:
        self.locks, self.side, self.steps, self.batch = locks, side, steps, batch
        self.times: list[float] = []

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator[Any]:
        for _ in range(self.steps):
            begin = time.perf_counter()
            yield self.batch
            self.times.append(time.perf_counter() - begin)
            self.locks[1 - self.side].release()
            self.locks[self.side].acquire()


def race(sides: list[tuple[Callable[[Any], Any], list[Any]]], steps: int, size: int, width: int) -> list[list[float]]:
    """Microseconds of each step of each side."""
    locks = [threading.Semaphore(1), threading.Semaphore(0)]
    batch = (torch.randn(size, width), torch.randint(0, 10, (size,)))
    net = torch.nn.Sequential(
        torch.nn.Linear(width, width), torch.nn.ReLU(), torch.nn.Linear(width, width), torch.nn.ReLU(),
        torch.nn.Linear(width, 10),
    )  # fmt: skip
    loaders = [Batches(locks, side, steps + WARM_UP, batch) for side in (0, 1)]

    def train(side: int) -> None:
        optimizer, callbacks = sides[side]
        trainer = pl.Trainer(
            max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, callbacks=callbacks,
            enable_progress_bar=False, enable_model_summary=False,
        )  # fmt: skip
        locks[side].acquire()
        trainer.fit(Model(net, optimizer), loaders[side])
        locks[1 - side].release()

    threads = [threading.Thread(target=train, args=(side,)) for side in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = min(len(loader.times) for loader in loaders)
    return [[1e6 * t for t in loader.times[WARM_UP:count]] for loader in loaders]


def sgd(parameters: Any) -> Any:
    return torch.optim.SGD(parameters, lr=0.01, fused=True)


def adam(parameters: Any) -> Any:
    return torch.optim.Adam(parameters, lr=1e-4, fused=True)


def adaloss(parameters: Any) -> Any:
    return AdaLoss(parameters, lr=0.01)


def adamloss(parameters: Any) -> Any:
    return AdamLoss(parameters, lr=1e-4)


# (name, its optimizer, its callbacks, beside what name, that one's optimizer, its callbacks)
CASES: list[tuple[str, Any, list[Any], str, Any, list[Any]]] = [
    ("nothing", sgd, [], "nothing", sgd, []),  # what the method cannot tell apart
    ("a callback that does nothing", sgd, [pl.Callback], "nothing", sgd, []),
    ("AdaLoss with the callback", adaloss, [AdaLossCallback], "AdaLoss without", adaloss, []),
    ("AdaLoss with the callback", adaloss, [AdaLossCallback], "torch SGD", sgd, []),
    ("AdamLoss with the callback", adamloss, [AdaLossCallback], "torch Adam", adam, []),
    ("torch SGD with the callback", sgd, [AdaLossCallback], "torch SGD", sgd, []),
    ("torch Adam with the callback", adam, [AdaLossCallback], "torch Adam", adam, []),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=200, help="of each side, in each round")
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--size", type=int, default=160, help="of the batch")
    parser.add_argument("--width", type=int, default=512, help="of the layers")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    print(f"torch {torch.__version__}, lightning {pl.__version__}, one core of {platform.machine()}\n")
    print("| with | beside | with, us | beside, us | ratio | added, us |")
    print("|---|---|---:|---:|---:|---:|")
    for name, ours, callbacks, other, theirs, others in CASES:
        pairs: list[tuple[float, float]] = []
        for index in range(options.rounds):
            sides = [(ours, [make() for make in callbacks]), (theirs, [make() for make in others])]
            first, second = race(sides[:: -1 if index % 2 else 1], options.steps, options.size, options.width)
            pairs += zip(second, first, strict=True) if index % 2 else zip(first, second, strict=True)
        one, two = zip(*pairs, strict=True)
        medians = f"{statistics.median(one):.0f} | {statistics.median(two):.0f}"
        ratio, added = statistics.median(a / b for a, b in pairs), statistics.median(a - b for a, b in pairs)
        print(f"| {name} | {other} | {medians} | {ratio:.3f} | {added:+.0f} |", flush=True)


if __name__ == "__main__":
    main()
