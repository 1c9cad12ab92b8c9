"""One training of several points of a sweep: what `Trainer.fit` does for each, for all of them at once."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import yaml  # type: ignore[import-untyped]
from lightning.fabric.utilities.seed import _collect_rng_states, _set_rng_states
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers.utilities import _log_hyperparams
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.utils._pytree import tree_map

from adaloss_lightning.callback import AdaLossCallback
from adaloss_lightning.rate_adaptive import RateAdaptive
from adaloss_lightning.stacked import Stack
from adaloss_lightning.tracking.logger import BufferedMLFlowLogger, joined_run

TRAINING_LOSS, EXAMPLE_METRICS = "training_loss", "example_metrics"  # what a LightningModule brings to be trained here
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
        loggers = _of_type(trainer.loggers, BufferedMLFlowLogger)
        self.logger: BufferedMLFlowLogger | None = loggers[0] if loggers else None
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

    def val_batches(self) -> Iterator[Any]:
        """The validation set."""
        return self._batches(self.val_loader, self.trainer.limit_val_batches)

    def _batches(self, loader: Any, limit: float) -> Iterator[Any]:
        """Drawn with this seed's random numbers, in the order in which Lightning draws them."""
        with self.drawing():
            batches = islice(loader, limit if isinstance(limit, int) else int(len(loader) * limit))
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


@dataclass
class JointPoint:
    """A point: its run, its optimizer, and how far it has come."""

    seed: Seed
    b0: float
    logger: BufferedMLFlowLogger | None  # None without tracking, where a training is only tried
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
        trainer._logger_connector._callback_metrics = {key: torch.tensor(x) for key, x in self.metrics.items()}
        self.count(trainer, self.epoch, self.steps)
        trainer.should_stop = False
        try:
            yield trainer
        finally:
            trainer.loggers = loggers

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
        for _ in range(self._seeds[0].trainer.max_epochs or 0):
            if all(point.is_stopped for point in self.points):
                break
            self._train_epoch()
            self._validate()
            for index, point in enumerate(self.points):
                if not point.is_stopped:
                    self._end_epoch(index, point)
        for point in self.points:
            _keep_best(point)

    def _begin(self) -> None:
        """Gives every run what the command lines have logged before their training: params and the configuration."""
        params = {id(seed): _params(seed.logger) for seed in self._seeds}
        for seed in self._seeds:
            for callback in _of(seed.trainer, SaveConfigCallback):
                callback.parser = _QuickParser(callback.parser)
        for point in self.points:
            if point.logger is not None and point.logger is not point.seed.logger:
                # Those that tell the two apart are there already, from the sweep: MLflow never changes a param.
                point.logger.log_hyperparams(params[id(point.seed)])
            with point.worn() as trainer:
                for callback in _of(trainer, SaveConfigCallback):
                    with _configured(callback, point.b0):
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

    def _validate(self) -> None:
        """Means over the examples of the validation set, as `val/<name>`."""
        totals: list[dict[str, float]] = [{} for _ in self.points]
        count = 0
        for batches in zip(*(seed.val_batches() for seed in self._seeds), strict=True):
            values = self._stack.evaluate(EXAMPLE_METRICS, batches, self._source)
            count += next(iter(values.values())).shape[1]
            for name, of_points in values.items():
                for total, value in zip(totals, of_points.sum(1).tolist(), strict=True):
                    total[name] = total.get(name, 0.0) + value
        for point, total in zip(self.points, totals, strict=True):
            if total and not point.is_stopped:
                means = {f"val/{name}": value / count for name, value in total.items()}
                point.metrics |= means
                point.log(means, point.steps - 1)

    def _end_epoch(self, index: int, point: JointPoint) -> None:
        callback = point.seed.trainer.checkpoint_callback
        if isinstance(callback, ModelCheckpoint) and _is_best(point, callback):
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


def _of_type(values: Sequence[Any], kind: type) -> list[Any]:
    return [value for value in values if isinstance(value, kind)]


def _of(trainer: Trainer, kind: type) -> list[Any]:
    return _of_type(trainer.callbacks, kind)  # type: ignore[attr-defined]


_B0_KEYS = ("optimizer.init_args.b0", "optimizer.b0")  # with a choice of optimizers, and without


@contextmanager
def _configured(callback: SaveConfigCallback, b0: float) -> Iterator[None]:
    """Inside the block the configuration that is saved has this b0."""
    config, callback.config, callback.already_saved = callback.config, callback.config.clone(), False
    for key in _B0_KEYS:
        if key in callback.config:
            callback.config[key] = b0
    try:
        yield
    finally:
        callback.config = config


class _QuickParser:
    """A parser whose later dumps put another b0 into the text of the first: each by itself takes 80 ms."""

    def __init__(self, parser: Any) -> None:
        self._parser = parser
        self._text: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._parser, name)

    def dump(self, config: Any, *args: Any, **kwargs: Any) -> str:
        """The configuration as text."""
        for key in _B0_KEYS:
            if self._text is not None and key in config and (place := _place_of(key, self._text)):
                number = yaml.safe_dump(config[key]).partition("\n")[0]
                return f"{self._text[: place[0]]}{number}{self._text[place[1] :]}"
        text: str = self._parser.dump(config, *args, **kwargs)
        self._text = text
        return text


def _place_of(key: str, text: str) -> tuple[int, int] | None:
    """Where in YAML the value of a key begins and ends."""
    node = yaml.compose(text)
    for name in key.split("."):
        values = {key.value: value for key, value in node.value} if isinstance(node, yaml.MappingNode) else {}
        node = values.get(name)
    return None if node is None else (node.start_mark.index, node.end_mark.index)


def _adaptive_metrics(point: JointPoint) -> dict[str, float]:
    """What AdaLossCallback logs."""
    if not any(callback._logs for callback in _of(point.seed.trainer, AdaLossCallback)):
        return {}
    optimizer = point.optimizer
    if not optimizer.stepped:
        return {}
    several = len(optimizer.param_groups) > 1
    metrics = {} if optimizer.last_loss is None else {"adaloss/loss": float(optimizer.last_loss)}
    for name, tensors in (("b", optimizer.b), ("effective_lr", optimizer.effective_lr)):
        for index, tensor in enumerate(tensors):
            metrics[f"adaloss/{name}" + (f"/group{index}" if several else "")] = float(tensor)
    return metrics


def _is_best(point: JointPoint, callback: ModelCheckpoint) -> bool:
    """Whether this epoch's checkpoint replaces the last one, as ModelCheckpoint decides it."""
    if callback.monitor is None:
        return True
    worst = float("inf" if callback.mode == "min" else "-inf")
    value = point.metrics[callback.monitor]
    value = worst if value != value else value
    better = point.best is None or (value < point.best if callback.mode == "min" else value > point.best)
    if better:
        point.best = value
    return better


def _checkpoints_of(point: JointPoint, callback: ModelCheckpoint) -> Path:
    """Folder for the checkpoints of a run: as the project has chosen it for its own, or where Lightning puts them."""
    assert point.logger is not None
    assert point.seed.logger is not None
    folder = Path(str(point.logger.save_dir))
    if callback.dirpath is None:
        return folder / str(point.logger.name) / str(point.logger.version) / "checkpoints"
    return folder / Path(callback.dirpath).relative_to(str(point.seed.logger.save_dir))


def _keep_best(point: JointPoint) -> None:
    """Writes the checkpoint of the best epoch: the weights, without the state of an optimizer."""
    callback = point.seed.trainer.checkpoint_callback
    if not isinstance(callback, ModelCheckpoint) or not point.best_weights or point.logger is None:
        return
    with point.worn() as trainer:
        metrics = {"epoch": point.best_epoch[0], "step": point.best_epoch[1]} | point.best_metrics
        tensors = {key: torch.tensor(value) for key, value in metrics.items()}
        name = Path(callback.format_checkpoint_name(tensors)).name
        point.best_path = str(_checkpoints_of(point, callback) / name)
        point.count(trainer, *point.best_epoch)
        point.seed.model.load_state_dict(point.best_weights)
        trainer.strategy.connect(point.seed.model)
        trainer.save_checkpoint(point.best_path, weights_only=True)
