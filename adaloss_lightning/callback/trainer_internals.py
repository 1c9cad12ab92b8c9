"""Lightning's private parts, and what its types do not declare. No other file of the callback touches them.

Each has its reason here, and a test in tests/callback/test_trainer_internals.py that fails when Lightning changes it.
"""

from collections.abc import Iterable, Mapping
from typing import Any

from lightning.pytorch import Callback, Trainer
from torch import Tensor


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """The trainer's callbacks: a public attribute that a connector sets, so that its class does not declare it."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    return callbacks


def put_first(trainer: Trainer, callback: Callback) -> None:
    """Let `callback` run before the others. Lightning offers an order to checkpoint callbacks alone."""
    others = [one for one in callbacks_of(trainer) if one is not callback]
    trainer.callbacks = [callback, *others]  # type: ignore[attr-defined]


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
