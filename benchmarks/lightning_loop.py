"""Parts of a Lightning run that times its own loop."""

import logging
import warnings
from collections.abc import Iterator
from itertools import repeat
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.loggers.logger import DummyLogger


class Silent(DummyLogger):
    """Takes what Lightning hands over, and drops it."""

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:  # noqa: D102
        pass


class Repeated:
    """One batch, `count` times: what is timed is the loop, not the loading."""

    def __init__(self, batch: Any, count: int) -> None:
        self.batch, self.count = batch, count

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Any]:
        return repeat(self.batch, self.count)


def trainer(**options: Any) -> pl.Trainer:
    """A trainer without anything that is not asked for, of one epoch unless told otherwise."""
    plain = {"max_epochs": 1, "enable_checkpointing": False, "enable_progress_bar": False}
    return pl.Trainer(**plain | options, enable_model_summary=False)


def silence() -> None:
    """Keeps Lightning's advice and its deprecated calls out of the tables."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module="lightning")
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")  # Lightning's own call of what torch deprecated
