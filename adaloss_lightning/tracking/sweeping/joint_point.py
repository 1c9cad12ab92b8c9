"""Point that is trained with others at once: how far it has come, and its best epoch."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from adaloss_lightning.rate_adaptive import RateAdaptive
from adaloss_lightning.tracking.logger import BufferedMLFlowLogger
from adaloss_lightning.tracking.sweeping.joint_seed import Seed


@dataclass
class JointPoint:
    """A point: its run, its optimizer, and how far it has come."""

    seed: Seed
    b0: float
    logger: BufferedMLFlowLogger | None  # None without tracking, where one step is only tried
    optimizer: RateAdaptive
    metrics: dict[str, float] = field(default_factory=dict)
    epoch: int = 0
    steps: int = 0
    is_stopped: bool = False
    best: float | None = None  # of the monitored metric, and when it was
    best_epoch: tuple[int, int] = (0, 0)
    best_metrics: dict[str, float] = field(default_factory=dict)
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    last_weights: dict[str, Tensor] = field(default_factory=dict)
    best_path: str = ""

    @contextmanager
    def worn(self) -> Iterator[Trainer]:
        """Inside the block the trainer of the seed is the one of this point, as callbacks and loggers see it."""
        trainer = self.seed.trainer
        loggers, trainer.loggers = trainer.loggers, [self.logger] if self.logger else []
        trainer._logger_connector._callback_metrics = self.tensors(self.metrics)
        self.count(trainer, self.epoch, self.steps)
        trainer.should_stop = False
        try:
            yield trainer
        finally:
            trainer.loggers = loggers

    def tensors(self, metrics: dict[str, float]) -> dict[str, Tensor]:
        """Metrics as Lightning keeps them: what float64 holds may be infinite in float32."""
        return {name: torch.tensor(value, dtype=self.seed.dtype) for name, value in metrics.items()}

    def count(self, trainer: Trainer, epoch: int, steps: int) -> None:
        """Makes `current_epoch` and `global_step` say how far the point is."""
        trainer.fit_loop.epoch_progress.current.completed = epoch
        loop = trainer.fit_loop.epoch_loop
        loop._batches_that_stepped = steps
        loop.automatic_optimization.optim_progress.optimizer.step.total.completed = steps

    def log(self, metrics: dict[str, float], step: int) -> None:
        """Logs metrics of the current epoch."""
        if self.logger is not None:
            self.logger.log_metrics(metrics | {"epoch": self.epoch}, step)


def is_best(point: JointPoint, callback: ModelCheckpoint, has_validated: bool) -> bool:
    """Whether this epoch's checkpoint replaces the last one, as ModelCheckpoint decides it."""
    if not has_validated and not callback._should_save_on_train_epoch_end(point.seed.trainer):
        return False
    if callback.monitor is None:
        return True
    if callback.monitor not in point.metrics:  # before the first validation
        return False
    worst = float("inf" if callback.mode == "min" else "-inf")
    value = point.metrics[callback.monitor]
    value = worst if value != value else value
    better = point.best is None or (value < point.best if callback.mode == "min" else value > point.best)
    if better:
        point.best = value
    return better


def _checkpoints_of(point: JointPoint, callback: ModelCheckpoint, trainer: Trainer) -> Path:
    """Folder for the checkpoints of a run: as the project has chosen it for its own, or where Lightning puts them."""
    if callback.dirpath is None:
        return Path(callback._ModelCheckpoint__resolve_ckpt_dir(trainer))  # type: ignore[attr-defined]
    assert point.logger is not None
    assert point.seed.logger is not None
    return Path(str(point.logger.save_dir)) / Path(callback.dirpath).relative_to(str(point.seed.logger.save_dir))


def keep_best(point: JointPoint) -> None:
    """Writes the checkpoint of the best epoch: the weights, without the state of an optimizer."""
    callback = point.seed.trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or not point.best_weights or point.logger is None:
        return
    with point.worn() as trainer:
        when = {"epoch": torch.tensor(point.best_epoch[0]), "step": torch.tensor(point.best_epoch[1])}
        name = Path(callback.format_checkpoint_name(when | point.tensors(point.best_metrics))).name
        point.best_path = str(_checkpoints_of(point, callback, trainer) / name)
        point.count(trainer, *point.best_epoch)
        point.seed.model.load_state_dict(point.best_weights)
        trainer.strategy.connect(point.seed.model)
        trainer.save_checkpoint(point.best_path, weights_only=True)
