"""Tags by which reports judge the metrics of a run: what its callbacks monitor, and which weights it tests."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from lightning.pytorch import Trainer
from lightning.pytorch.trainer.states import TrainerFn

from adaloss_lightning.tracking.tags import MONITORS_TAG, TESTED_TAG


def tags_of(trainer: Trainer, stored_name: Callable[[str], str]) -> dict[str, str]:
    """Tags for the run of a trainer whose loops are about to begin.

    Args:
        trainer: Its strategy is set up, so that it knows the schedulers.
        stored_name: What the store calls a metric.
    """
    modes: dict[str, set[str]] = {}
    for metric, mode in _monitored(trainer):
        modes.setdefault(stored_name(metric), set()).add(mode)
    known = {metric: one.pop() if len(one) == 1 else None for metric, one in modes.items()}
    tags = {MONITORS_TAG: json.dumps(known)} if known else {}
    tested = _tested(trainer)
    return tags | ({TESTED_TAG: tested} if tested else {})


def monitored_in(tags: Mapping[str, str]) -> dict[str, str | None]:
    """Mode, "min" or "max", of each metric that is monitored; None where callbacks contradict each other."""
    try:
        modes = json.loads(tags.get(MONITORS_TAG, "{}"))
    except ValueError:  # a tag is the user's to change
        return {}
    if not isinstance(modes, dict):
        return {}
    return {str(name): mode if mode in ("min", "max") else None for name, mode in modes.items()}


def _monitored(trainer: Trainer) -> Iterator[tuple[str, str]]:
    """Metric and mode of ModelCheckpoint, EarlyStopping, ReduceLROnPlateau and whatever else has both."""
    watchers: list[tuple[Any, Any]] = [
        (getattr(callback, "monitor", None), callback)
        for callback in trainer.callbacks  # type: ignore[attr-defined]  # set by a connector
    ]
    watchers += [(config.monitor, config.scheduler) for config in trainer.lr_scheduler_configs]
    for metric, watcher in watchers:
        mode = getattr(watcher, "mode", None)
        if isinstance(metric, str) and mode in ("min", "max"):
            yield metric, mode


def _tested(trainer: Trainer) -> Literal["best", "last"] | None:
    """The epoch of the weights that are tested; None where it is neither or not known yet."""
    if trainer.state.fn != TrainerFn.TESTING or trainer.strategy.restore_checkpoint_after_setup:
        return None
    if not trainer.ckpt_path:
        return "last" if trainer.global_step else None
    for callback in trainer.checkpoint_callbacks:
        if str(trainer.ckpt_path) == getattr(callback, "best_model_path", None):
            return "best" if getattr(callback, "monitor", None) else "last"
    return None
