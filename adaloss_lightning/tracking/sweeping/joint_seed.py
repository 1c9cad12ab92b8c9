"""What the command line of one seed has built, to train several points at once."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._pytree import tree_map

from adaloss_lightning.tracking.logger import BufferedMLFlowLogger

_AHEAD = 16  # batches drawn at a time: to exchange the random numbers for another seed's costs as much as a batch


class Seed:
    """What the command line of one seed has built, at the moment it called `Trainer.fit`.

    Args:
        trainer: Its trainer.
        model: Its model, with its initial parameters.
        data: The other arguments of `fit`, by name.
    """

    def __init__(self, trainer: Trainer, model: LightningModule, data: dict[str, Any]) -> None:
        self.trainer, self.model = trainer, model
        is_double = any(parameter.dtype == torch.float64 for parameter in model.parameters())
        self.dtype = torch.float64 if is_double else torch.float32  # of metrics: Lightning keeps none in less
        loggers = [logger for logger in trainer.loggers if isinstance(logger, BufferedMLFlowLogger)]
        self.logger = loggers[0] if loggers else None
        trainer.strategy._lightning_module = model  # trainer.lightning_module, by which callbacks find it
        model.trainer = trainer
        given, source = data.get("train_dataloaders"), data.get("datamodule")
        if hasattr(given, "train_dataloader"):
            given, source = None, given
        if source is not None:
            source.trainer = trainer
            source.prepare_data()
            source.setup("fit")
        model.setup("fit")
        self.optimizer: Any = model.configure_optimizers()
        source = source or model
        self.train_loader = source.train_dataloader() if given is None else given
        self.val_loader = data.get("val_dataloaders")
        validates = trainer.limit_val_batches and is_overridden("val_dataloader", source)
        if self.val_loader is None or not trainer.limit_val_batches:
            self.val_loader = source.val_dataloader() if validates else []
        self.random = _collect_rng_states(include_cuda=False)

    def train_batches(self) -> Iterator[Any]:
        """The batches of the next epoch."""
        return self._batches(self.train_loader, self.trainer.limit_train_batches)

    @property
    def train_batch_count(self) -> int:
        """Batches of an epoch."""
        return _count(self.train_loader, self.trainer.limit_train_batches)

    def val_batches(self) -> Iterator[Any]:
        """The validation set."""
        return self._batches(self.val_loader, self.trainer.limit_val_batches)

    def _batches(self, loader: Any, limit: float) -> Iterator[Any]:
        """Drawn with this seed's random numbers, in the order in which Lightning draws them."""
        with self.drawing():
            batches = islice(loader, limit if isinstance(limit, int) else _count(loader, limit))
        device = self.trainer.strategy.root_device
        while True:
            with self.drawing():
                drawn = list(islice(batches, _AHEAD))
            if not drawn:
                return
            for batch in drawn:
                yield tree_map(lambda value: value.to(device) if isinstance(value, Tensor) else value, batch)

    @contextmanager
    def drawing(self) -> Iterator[None]:
        """Inside the block the global random numbers are this seed's."""
        _set_rng_states(self.random)
        yield
        self.random = _collect_rng_states(include_cuda=False)


def _count(loader: Any, limit: float) -> int:
    """Batches of a loader within Lightning's limit, a number of them or a share."""
    return min(limit, len(loader)) if isinstance(limit, int) else int(len(loader) * limit)
