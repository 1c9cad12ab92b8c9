"""Speed of the recipes' loaders beside a step: `python -m benchmarks.data_loading [--step-ms MS] [--workers N]`.

A step takes its batch, then this process sleeps for `--step-ms`, as it waits for a GPU that is busy that long. The
table compares samples a second with the recipe's loader against the same batches already in memory. CIFAR-100 is read
from `--root`; without one, made-up images of its size go through the same transforms.
"""

import argparse
import itertools
import time
from collections.abc import Iterable, Iterator
from typing import Any

import torch
from lightning.pytorch import Trainer
from torch.utils.data import DataLoader

from adaloss_lightning.tracking.sweeps.executors.shares import available_cores
from benchmarks.common import Columns, Row, print_table
from recipes.digits.data import DigitsData
from recipes.lstm_news.data import NewsData
from recipes.vit_cifar100.data import CIFAR100Data
from recipes.vit_cifar100.module import FineTuning

COLUMNS: Columns = {
    "loader": "{name}",
    "in memory, samples/s": "{best:.0f}",
    "loader, samples/s": "{ours:.0f}",
    "share": "{share:.2f}",
    "loader alone, ms/batch": "{alone_ms:.1f}",
}
WARM_UP = 10  # steps, in which worker processes start and the queue they fill beforehand runs out


def forever(loader: Iterable[Any]) -> Iterator[Any]:
    """Epoch after epoch, so that what each of them costs at its start counts too."""
    while True:
        yield from loader


def samples_per_second(batches: Iterator[Any], step_s: float, steps: int, warm_up: int) -> float:
    count = 0
    begin = time.perf_counter()
    for step, batch in enumerate(itertools.islice(batches, warm_up + steps)):
        if step == warm_up:
            begin = time.perf_counter()
        time.sleep(step_s)
        count += len(batch[1]) if step >= warm_up else 0
    return count / (time.perf_counter() - begin)


def digits_loader() -> DataLoader[Any]:
    data = DigitsData()
    data.setup("fit")
    return data.train_dataloader()


def news_loader() -> DataLoader[Any]:
    data = NewsData()
    data.prepare_data()
    data.setup("fit")
    return data.train_dataloader()


def cifar_loader(root: str | None, workers: int, no_aug: bool, image_size: int) -> DataLoader[Any]:
    data = CIFAR100Data(
        root or "data",
        "cifar100" if root else "synthetic",
        synthetic_per_class=100,  # an epoch of 141 batches; CIFAR-100 itself has 704
        num_workers=workers,
        train_transform={"no_aug": no_aug},
    )
    data.trainer = Trainer(logger=False, enable_checkpointing=False, enable_progress_bar=False)
    data.trainer.strategy.connect(FineTuning(pretrained=False, options={"img_size": image_size}))
    data.prepare_data()
    data.setup("fit")
    return data.train_dataloader()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--step-ms", type=float, default=20.0)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--workers", type=int, default=available_cores())
    parser.add_argument("--root", help="folder of CIFAR-100")
    parser.add_argument("--only", default="", help="loaders whose name contains this")
    options = parser.parse_args()
    loaders = {"digits": digits_loader(), "lstm_news": news_loader()}
    for size, no_aug in ((224, False), (224, True), (32, False)):
        name = f"vit_cifar100, {size} pixels, {'no augmentation' if no_aug else 'augmented'}"
        loaders[name] = cifar_loader(options.root, options.workers, no_aug, size)
    print(f"torch {torch.__version__}, {available_cores()} cores, {options.workers} workers,", end=" ")
    print(f"{options.step_ms:g} ms a step, {options.steps} steps\n")
    chosen = {name: loader for name, loader in loaders.items() if options.only in name}
    print_table((measure(name, loader, options) for name, loader in chosen.items()), COLUMNS)


def measure(name: str, loader: DataLoader[Any], options: argparse.Namespace) -> Row:
    """One row: the loader, and four of its batches held in memory."""
    step_s = options.step_ms / 1e3
    batches = list(itertools.islice(loader, 4))
    best = samples_per_second(itertools.cycle(batches), step_s, options.steps, 0)
    ours = samples_per_second(forever(loader), step_s, options.steps, WARM_UP)
    alone = samples_per_second(forever(loader), 0.0, options.steps, WARM_UP)
    alone_ms = 1e3 * len(batches[0][1]) / alone
    return {"name": name, "best": best, "ours": ours, "share": ours / best, "alone_ms": alone_ms}


if __name__ == "__main__":
    main()
