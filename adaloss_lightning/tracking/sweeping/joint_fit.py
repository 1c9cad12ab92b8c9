"""One training of several points of a sweep: what `Trainer.fit` does for each, for all of them at once."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers.utilities import _log_hyperparams

from adaloss_lightning.callback import AdaLossCallback, measures
from adaloss_lightning.stacked import Stack
from adaloss_lightning.tracking.joined_run import joined_run
from adaloss_lightning.tracking.log_every_epoch import LogEveryEpoch, within_epoch
from adaloss_lightning.tracking.logger import BufferedMLFlowLogger
from adaloss_lightning.tracking.sweeping.joint_point import JointPoint, is_best, keep_best
from adaloss_lightning.tracking.sweeping.joint_seed import Seed
from adaloss_lightning.tracking.sweeping.saved_config import QuickParser, configured

TRAINING_LOSS, EXAMPLE_METRICS = "training_loss", "example_metrics"  # what a LightningModule brings to be trained here


class JointFit:
    """Trains all points at once.

    Args:
        seeds: Each with the values of b0 to train and the store's address and the run of each value; None for no run.
        runs: Holds the runs that are started here, and ends them when it is closed.
    """

    def __init__(
        self, seeds: Sequence[tuple[Seed, Sequence[tuple[float, tuple[str, str] | None]]]], runs: ExitStack
    ) -> None:
        self.points: list[JointPoint] = []
        points = [(number, seed, b0, run) for number, (seed, some) in enumerate(seeds) for b0, run in some]
        self._seeds = [seed for seed, _ in seeds]
        self._source = [number for number, *_ in points]
        self._stack = Stack([seed.model.to(seed.trainer.strategy.root_device) for _, seed, _, _ in points])
        for index, (number, seed, b0, run) in enumerate(points):
            optimizer = self._stack.optimizer(index, seed.optimizer, seed.model, b0)
            logger = seed.logger
            # the first point of a seed is the one whose command line has built the trainer
            if logger is not None and run is not None and self._source.index(number) != index:
                logger = runs.enter_context(_logger_like(logger, run))
            self.points.append(JointPoint(seed, b0, logger, optimizer))

    def run(self) -> None:
        """Trains to the end: every point has its weights, its metrics are logged, its best ones kept."""
        self._begin()
        for epoch in range(self._seeds[0].trainer.max_epochs or 0):
            if all(point.is_stopped for point in self.points):
                break
            self._train_epoch()
            validates = self._validates(epoch)
            if validates:
                self._validate()
            for index, point in enumerate(self.points):
                if not point.is_stopped:
                    self._end_epoch(index, point, validates)
        for point in self.points:
            if point.logger is not None:
                point.logger.flush(timeout=0)  # begins to deliver, while the rest of the sweep goes on
            keep_best(point)

    def _begin(self) -> None:
        """Gives every run what the command lines have logged before their training: params and the configuration."""
        params = {id(seed): _params(seed.logger) for seed in self._seeds}
        for seed in self._seeds:
            for callback in _of(seed.trainer, SaveConfigCallback):
                callback.parser = QuickParser(callback.parser)
        for point in self.points:
            if point.logger is not None and point.logger is not point.seed.logger:
                # Those that tell the two apart are there already, from the sweep: MLflow never changes a param.
                point.logger.log_hyperparams(params[id(point.seed)])
            with point.worn() as trainer:
                for callback in _of(trainer, SaveConfigCallback):
                    with configured(callback, point.b0):
                        callback.setup(trainer, point.seed.model, "fit")
                if trainer.enable_autolog_hparams:
                    _log_hyperparams(trainer)

    def try_step(self) -> set[str]:
        """One step and one evaluation, to see whether they can be stacked at all; the names of what they measure."""
        batches = [next(seed.train_batches()) for seed in self._seeds]
        self._stack.backward(self._stack.losses(TRAINING_LOSS, batches, self._source))
        if not self._seeds[0].val_loader:
            return {"train/loss"}
        batches = [next(seed.val_batches()) for seed in self._seeds]
        return {"train/loss", *(f"val/{name}" for name in self._stack.evaluate(EXAMPLE_METRICS, batches, self._source))}

    def _train_epoch(self) -> None:
        every: int = self._seeds[0].trainer.log_every_n_steps  # type: ignore[attr-defined]
        if _of(self._seeds[0].trainer, LogEveryEpoch):
            every = within_epoch(every, self._seeds[0].train_batch_count)
        for batches in zip(*(seed.train_batches() for seed in self._seeds), strict=True):
            losses = self._stack.losses(TRAINING_LOSS, batches, self._source)
            self._stack.backward(losses)
            for point, loss in zip(self.points, losses.tolist(), strict=True):
                if point.is_stopped:
                    continue
                point.optimizer.step(loss=loss)
                point.metrics["train/loss"] = loss
                if every and (point.steps + 1) % every == 0:
                    point.log({"train/loss": loss} | _adaptive_metrics(point), point.steps)
                point.steps += 1

    def _validates(self, epoch: int) -> bool:
        seed = self._seeds[0]
        return bool(seed.val_loader) and (epoch + 1) % (seed.trainer.check_val_every_n_epoch or 1) == 0

    def _validate(self) -> None:
        """Means over the examples of the validation set, or over its batches, as `val/<name>`."""
        totals: list[dict[str, float]] = [{} for _ in self.points]
        counts: dict[str, int] = {}
        for batches in zip(*(seed.val_batches() for seed in self._seeds), strict=True):
            for name, values in self._stack.evaluate(EXAMPLE_METRICS, batches, self._source).items():
                of_points = values.reshape(len(self.points), -1)  # one column where it is a value of the batch
                counts[name] = counts.get(name, 0) + of_points.shape[1]
                for total, value in zip(totals, of_points.sum(1).tolist(), strict=True):
                    total[name] = total.get(name, 0.0) + value
        for point, total in zip(self.points, totals, strict=True):
            if total and not point.is_stopped:
                means = {f"val/{name}": value / counts[name] for name, value in total.items()}
                point.metrics |= means
                point.log(means, point.steps - 1)

    def _end_epoch(self, index: int, point: JointPoint, has_validated: bool) -> None:
        callback = point.seed.trainer.checkpoint_callback
        if isinstance(callback, ModelCheckpoint) and is_best(point, callback, has_validated):
            point.best_epoch, point.best_metrics = (point.epoch, point.steps), dict(point.metrics)
            point.best_weights = self._stack.state_dict(index)
        with point.worn() as trainer:
            for other in trainer.callbacks:  # type: ignore[attr-defined]
                if other is not callback:
                    other.on_train_epoch_end(trainer, point.seed.model)
            point.is_stopped = trainer.should_stop
        point.epoch += 1
        if point.is_stopped or point.epoch == point.seed.trainer.max_epochs:
            point.last_weights = self._stack.state_dict(index)


def _params(logger: BufferedMLFlowLogger | None) -> dict[str, Any]:
    if logger is None or not logger.flush() or logger.run_id is None:
        return {}
    return dict(logger.experiment.get_run(logger.run_id).data.params)


@contextmanager
def _logger_like(other: BufferedMLFlowLogger, run: tuple[str, str]) -> Iterator[BufferedMLFlowLogger]:
    """A logger of another run, which ends as the block does."""
    with joined_run(*run):
        logger = BufferedMLFlowLogger(other._experiment_name, prefix=other._prefix)
    with logger.hold():
        yield logger


def _of(trainer: Trainer, kind: type) -> list[Any]:
    return [callback for callback in trainer.callbacks if isinstance(callback, kind)]  # type: ignore[attr-defined]


def _adaptive_metrics(point: JointPoint) -> dict[str, float]:
    """What AdaLossCallback logs."""
    if not point.optimizer.stepped or not any(one.logs for one in _of(point.seed.trainer, AdaLossCallback)):
        return {}
    loss, rates = measures(point.optimizer)
    return {name: float(value) for name, value in (loss | rates).items()}
