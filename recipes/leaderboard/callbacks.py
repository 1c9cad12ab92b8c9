"""Callbacks of a method: its schedule, and the weights at which it is evaluated. And what a run costs."""

import math
import statistics
import time
from itertools import islice
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.hooks import RemovableHandle

BATCHES, STEP_SECONDS, SECONDS = "cost/batches", "cost/step_seconds", "cost/seconds"


class Schedule(Callback):
    """Linear warm-up, then the configured rate or a cosine to 0. It counts batches, so manual optimization has it too.

    Args:
        warmup: Share of the run.
        cosine: Whether the rate falls after the warm-up.
    """

    def __init__(self, warmup: float = 0.1, cosine: bool = True) -> None:
        self.warmup = warmup
        self.cosine = cosine
        self._rates: list[tuple[dict[str, Any], float]] = []
        self._end = self._done = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Notes the configured rates and the length of the run."""
        self._rates = [(group, group["lr"]) for one in trainer.optimizers for group in one.param_groups]
        self._end, self._done = int(trainer.num_training_batches) * int(trainer.max_epochs or 1), 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Sets the rates of the batch."""
        factor = schedule(self._done, self._end, self.warmup, self.cosine)
        for group, rate in self._rates:
            group["lr"] = rate * factor
        self._done += 1


def schedule(done: int, end: int, warmup: float, cosine: bool) -> float:
    """Factor on the rate of batch `done` (from 0) of `end`."""
    rising = round(warmup * end)
    if done < rising:
        return (done + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (done - rising) / (end - rising))) if cosine else 1.0


class _EvaluatedElsewhere(Callback):
    """Evaluates at other weights than those that are trained, and leaves those behind at the end."""

    def __init__(self) -> None:
        self._is_there = False

    def go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes to the weights of the evaluation."""
        raise NotImplementedError

    def go_back(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes back to the weights that are trained."""
        raise NotImplementedError

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes there; a checkpoint is made of those weights, too."""
        if not self._is_there and not trainer.sanity_checking:
            self.go(trainer, pl_module)
            self._is_there = True

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Goes back."""
        if self._is_there:
            self.go_back(trainer, pl_module)
            self._is_there = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes there for what comes after training."""
        self.on_validation_start(trainer, pl_module)


class ScheduleFree(_EvaluatedElsewhere):
    """`train()` and `eval()` of Schedule-Free optimizers; the statistics of BatchNorm as their authors recommend.

    Args:
        batches: Training batches from which BatchNorm takes its statistics at the weights of the evaluation.
    """

    def __init__(self, batches: int = 50) -> None:
        super().__init__()
        self.batches = batches

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins at the weights that are trained."""
        self.go_back(trainer, pl_module)

    def go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes to x, the average."""
        for optimizer in trainer.optimizers:
            optimizer.eval()  # type: ignore[attr-defined]
        if any(isinstance(one, _BatchNorm) for one in pl_module.modules()):
            pl_module.train()
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                for batch in islice(iter(trainer.train_dataloader or ()), self.batches):
                    inputs, _ = batch
                    pl_module(inputs.to(pl_module.device))
            pl_module.eval()

    def go_back(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Goes to y, where the gradients are taken."""
        for optimizer in trainer.optimizers:
            optimizer.train()  # type: ignore[attr-defined]


class DoGAverage(_EvaluatedElsewhere):
    """The average of the weights that DoG's authors evaluate, `dog.PolynomialDecayAverager`."""

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins the average."""
        from dog import PolynomialDecayAverager

        # Not the LightningModule itself, of which the averager makes a deep copy with trainer and data.
        self._averager = PolynomialDecayAverager(nn.ModuleDict(dict(pl_module.named_children())))

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Adds the weights after a step."""
        self._averager.step()

    def go(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Exchanges weights and average."""
        mine, average = (one.state_dict() for one in (self._averager.base_model, self._averager.averaged_model))
        for name, tensor in mine.items():
            kept: Tensor = tensor.clone()
            tensor.copy_(average[name])
            average[name].copy_(kept)

    go_back = go


class Spent(Callback):
    """Logs what a run costs: steps with those of a probe, median seconds of a step, seconds of the whole.

    It belongs behind AdaLossCallback, whose probe is then no part of the first step.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begins to count."""
        self.steps = 0
        self._each: list[float] = []
        self._hook: RemovableHandle = trainer.optimizers[0].register_step_post_hook(self._count)
        self._begin = time.perf_counter()

    def _count(self, *_: Any) -> None:
        self.steps += 1

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Notes when the batch begins."""
        self._before = self.steps, time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Notes how long its steps took."""
        steps, begin = self._before
        if self.steps > steps:
            self._each.append((time.perf_counter() - begin) / (self.steps - steps))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Logs it all."""
        self._hook.remove()
        costs = {BATCHES: float(self.steps), SECONDS: time.perf_counter() - self._begin}
        if self._each:
            costs[STEP_SECONDS] = statistics.median(self._each)
        for logger in trainer.loggers:
            logger.log_metrics(costs)
