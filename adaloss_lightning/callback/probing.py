"""The probe for eta under Lightning: short runs of the trainer's own steps that leave no trace."""

import copy
import math
from collections.abc import Mapping
from itertools import islice
from typing import Any

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_leaves
from tqdm import tqdm

from adaloss_lightning.callback.trainer_internals import (
    muted,
    scaler_replaced,
    shows_progress,
    step_arguments,
    takes_iterator,
    to_device,
    train_loaders,
)
from adaloss_lightning.optim.engine.loaders import fresh, twin
from adaloss_lightning.optim.engine.snapshot import Snapshot
from adaloss_lightning.optim.probe import STEPS, Found, mean_over_ranks, probe
from adaloss_lightning.optim.rate_adaptive import adaptive_in

_RATES = 7  # that a probe usually tries
_MOST_BYTES = 4 * 2**30
_REMEDY = "lr=..., or lr='configured'"


def find_lr_of(trainer: Trainer, module: LightningModule, optimizer: Optimizer) -> Found:
    """Find eta for the trainer's optimizer, before its first step.

    The runs make the steps that training makes: the module's ``training_step``, the strategy, the precision, gradient
    clipping and accumulation. Callbacks, loggers and ``self.log`` are silent. The batches come from a copy of the
    loader, so that training gets its own in the order in which it would have got them.

    Raises:
        MisconfigurationException: If the loader cannot be gone through twice, is empty, or its first batches do not fit
            into memory; if the loss is not finite.
    """
    if takes_iterator(module):
        raise MisconfigurationException(
            "AdaLossCallback cannot find lr for a training_step that draws its batches from a dataloader_iter. Give "
            f"{_REMEDY}."
        )
    accumulated = trainer.accumulate_grad_batches
    adaptive = adaptive_in(optimizer)
    with (
        muted(trainer, module),
        scaler_replaced(trainer) as fresh_scaler,
        tqdm(total=_RATES * STEPS, desc="Finding lr", leave=False, disable=not shows_progress(trainer)) as bar,
    ):
        snapshot = Snapshot(module, optimizer, drawn_from=train_loaders(trainer).flattened)
        try:
            batches = first_batches(trainer, STEPS * accumulated, "AdaLossCallback cannot find lr", _REMEDY)
        finally:
            snapshot.restore()

        def restore() -> None:
            snapshot.restore()
            fresh_scaler()

        def step(index: int) -> float | None:
            optimizer.zero_grad()
            losses = []
            for number in range(index * accumulated, (index + 1) * accumulated):
                batch = to_device(trainer, fresh(batches[number % len(batches)]))
                module.on_train_batch_start(batch, number)
                output = trainer.strategy.training_step(*step_arguments(trainer, batch, number))
                loss = loss_of(output)
                if isinstance(loss, Tensor):
                    trainer.strategy.backward(loss / accumulated, optimizer)
                    losses.append(loss.detach())
            bar.update(accumulated)
            if not losses:  # a training_step that returned None is no step
                return None
            value = mean_over_ranks(torch.stack(losses).mean(), optimizer)
            if adaptive is not None:
                adaptive.record_loss(value, is_global=True)
            trainer.strategy.optimizer_step(optimizer, lambda: losses[-1], module)
            if adaptive is not None:
                adaptive.discard_loss()  # of a step that GradScaler has skipped
            return value

        try:
            found = probe(optimizer, step, restore, distinct=math.ceil(len(batches) / accumulated))
        except ValueError as error:
            raise MisconfigurationException(f"AdaLossCallback cannot find lr: {error}") from error
    return Found(found.lr, found.batches * accumulated, found.seconds)


def loss_of(output: Any) -> Any:
    """The loss that ``training_step`` has returned, alone or in a mapping.

    Raises:
        MisconfigurationException: The mapping has none.
    """
    if isinstance(output, Mapping) and "loss" not in output:
        raise MisconfigurationException(
            f"training_step returned a dict with the keys {', '.join(map(repr, output))}. It must have 'loss'."
        )
    return output["loss"] if isinstance(output, Mapping) else output


def first_batches(trainer: Trainer, count: int, failure: str, remedy: str) -> list[Any]:
    """The first batches of a copy of the trainer's loader; fewer where an epoch has fewer.

    Args:
        trainer: In ``fit``.
        count: Batches.
        failure: What a message says cannot be done.
        remedy: What it says to give.

    Raises:
        MisconfigurationException: The loader can be read once only or is empty, or the batches are too large.
    """
    loaders = copy.copy(train_loaders(trainer))
    try:
        loaders.flattened = [twin(loader) for loader in loaders.flattened]
    except ValueError as error:
        raise MisconfigurationException(f"{failure}: {error}, or {remedy}.") from error
    batches: list[Any] = []
    size = 0
    for batch, _, _ in islice(iter(loaders), count):
        size += sum(getattr(leaf, "nbytes", 0) for leaf in tree_leaves(batch))
        if size > _MOST_BYTES:
            raise MisconfigurationException(
                f"{failure}: {len(batches) + 1} of the {count} batches that it tries take more than "
                f"{_MOST_BYTES / 2**30:g} GiB of memory. Give {remedy}."
            )
        batches.append(batch)
    if not batches:
        raise MisconfigurationException(f"{failure}: the training data have no batch. Give {remedy}.")
    return batches
