"""Lightning's private parts, and what its types do not declare. No other file of the callback touches them.

Each has its reason here, and a test in tests/callback/test_trainer_internals.py that fails when Lightning changes it.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers.logger import DummyLogger
from lightning.pytorch.utilities.combined_loader import CombinedLoader
from lightning.pytorch.utilities.signature_utils import is_param_in_hook_signature
from torch import Tensor


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The trainer's callbacks: a public attribute that a connector sets, so that its class does not declare it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def callbacks_named(trainer: Trainer, *names: str) -> list[Any]:
    """Lightning's callbacks of these classes, or of subclasses, in either of its namespaces."""
    return [one for one in callbacks_of(trainer) if any(cls.__name__ in names for cls in type(one).__mro__)]


def put_first(trainer: Trainer, callback: Callback) -> None:
    """Let `callback` run before the others. Lightning offers an order to checkpoint callbacks alone."""
    others = [one for one in callbacks_of(trainer) if one is not callback]
    trainer.callbacks = [callback, *others]  # type: ignore[attr-defined]


def last_epoch_of(trainer: Trainer) -> float:
    """Number of epochs that train; infinite where ``max_epochs`` does not say.

    ``StochasticWeightAveraging`` adds one, without a step, in which batch norm sees the data once more.
    """
    last = math.inf if trainer.max_epochs in (None, -1) else float(trainer.max_epochs)
    averaged: list[float] = [one.swa_end + 1 for one in callbacks_named(trainer, "StochasticWeightAveraging")]
    return min([last, *averaged])


def scaler_of(trainer: Trainer) -> Any:
    """The ``GradScaler`` of fp16 training, which only the mixed-precision plugin has; None elsewhere."""
    return getattr(trainer.precision_plugin, "scaler", None)


def is_accumulating(trainer: Trainer) -> bool:
    """Whether no optimizer step follows the backward of this batch.

    Lightning knows it before ``backward``; in public it only shows afterwards, when ``global_step`` has moved or not.
    """
    return trainer.fit_loop._should_accumulate()


def is_time_to_log(trainer: Trainer) -> bool:
    """Whether Lightning hands on to the loggers, or collects for its last time, what is logged in this batch.

    Its own property for the interval, private too, costs ten times as much.
    """
    loop, every = trainer.fit_loop.epoch_loop, trainer.log_every_n_steps  # type: ignore[attr-defined]
    if every and (loop._batches_that_stepped + 1) % every == 0:
        return True
    return bool(loop.batch_progress.is_last_batch or trainer.should_stop or 0 < loop.max_steps <= loop.global_step)


def show_in_callback_metrics(trainer: Trainer, values: Mapping[str, Tensor], gone: Iterable[str] = ()) -> None:
    """Put values into ``trainer.callback_metrics``, where every hook of every callback finds them.

    The public property collects all logged metrics again at each access, and ``LightningModule.log`` takes half a
    millisecond a value.
    """
    metrics = trainer._logger_connector._callback_metrics
    for name in gone:
        metrics.pop(name, None)
    metrics.update(values)


def forget_logged(trainer: Trainer, names: Iterable[str]) -> None:
    """Take what ``on_train_batch_end`` has logged out of Lightning's collection.

    Loggers, progress bar and ``callback_metrics`` have got it. Lightning would collect it again at every step, which
    costs as much as all the rest of the callback.
    """
    for name in names:
        trainer._results.pop(f"on_train_batch_end.{name}", None)  # type: ignore[union-attr]


# -- for steps that leave no trace -------------------------------------------------------------------------------------


@contextmanager
def muted(trainer: Trainer, module: LightningModule) -> Iterator[None]:
    """Steps within it call no callback, log nothing and stop nothing.

    Lightning's learning rate finder swaps the same two lists.
    """
    callbacks, loggers, should_stop = callbacks_of(trainer), trainer.loggers, trainer.should_stop
    own: dict[str, Any] = {name: vars(module)[name] for name in ("log", "log_dict") if name in vars(module)}
    trainer.callbacks = []  # type: ignore[attr-defined]
    trainer.loggers = [DummyLogger()] if loggers else []
    for name in ("log", "log_dict"):
        object.__setattr__(module, name, lambda *_, **__: None)
    try:
        yield
    finally:
        trainer.callbacks = callbacks  # type: ignore[attr-defined]
        trainer.loggers, trainer.should_stop = loggers, should_stop
        for name in ("log", "log_dict"):
            vars(module).pop(name, None)
        vars(module).update(own)


@contextmanager
def scaler_replaced(trainer: Trainer) -> Iterator[Callable[[], None]]:
    """Steps within it use a copy of the ``GradScaler``; gives what replaces the copy by a fresh one."""
    plugin: Any = trainer.precision_plugin
    scaler = scaler_of(trainer)

    def fresh() -> None:
        if scaler is not None:
            plugin.scaler = copy.deepcopy(scaler)

    fresh()
    try:
        yield fresh
    finally:
        if scaler is not None:
            plugin.scaler = scaler


def train_loaders(trainer: Trainer) -> CombinedLoader:
    """The training loaders with their mode and limits; in public there are the loaders alone."""
    loaders: CombinedLoader = trainer.fit_loop._combined_loader  # type: ignore[assignment]
    return loaders


def to_device(trainer: Trainer, batch: Any) -> Any:
    """A batch as ``training_step`` gets it: what Lightning's loop does between its loader and the step."""
    batch = trainer.precision_plugin.convert_input(batch)
    batch = trainer.lightning_module._on_before_batch_transfer(batch, dataloader_idx=0)
    return trainer.strategy.batch_to_device(batch, dataloader_idx=0)


def step_arguments(trainer: Trainer, batch: Any, batch_idx: int) -> list[Any]:
    """The arguments of ``training_step``, which takes ``batch_idx`` or does not."""
    return list(trainer.fit_loop.epoch_loop._build_kwargs(OrderedDict(), batch, batch_idx).values())


def takes_iterator(module: LightningModule) -> bool:
    """Whether ``training_step`` draws its batches itself, from a ``dataloader_iter``."""
    return is_param_in_hook_signature(module.training_step, "dataloader_iter", explicit=True)


def shows_progress(trainer: Trainer) -> bool:
    """Whether this process shows a progress bar."""
    bar: Any = trainer.progress_bar_callback
    return trainer.is_global_zero and bar is not None and bar.is_enabled
