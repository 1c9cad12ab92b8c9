"""One Lightning training looked at step by step, against each step worked out in float64 from where it started."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import lightning.pytorch as pl
import pytest
import torch
from torch import Tensor

from tests.callback.models import Regression, regression_loader

ETA = 0.1
Clip = Callable[[Tensor], Tensor]  # of the whole gradient


class Watch(pl.Callback):
    """The weights and the loss scale before training and after each batch."""

    def __init__(self) -> None:
        self.weights: list[Tensor] = []
        self.scales: list[float] = []
        self.s: list[float] = []
        self.rates: list[float] = []

    def _look(self, trainer: pl.Trainer, model: Any) -> None:
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        self.weights.append(torch.cat([p.detach().double().flatten() for p in model.net.parameters()]))
        self.scales.append(1.0 if scaler is None else scaler.get_scale())
        optimizer: Any = trainer.optimizers[0]
        self.s.append(optimizer.param_groups[0]["adaloss_s"].item())
        self.rates.append(optimizer.effective_lr[0].item())

    def on_train_start(self, trainer: pl.Trainer, pl_module: Any) -> None:
        self._look(trainer, pl_module)

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: Any, *args: Any) -> None:
        self._look(trainer, pl_module)


@dataclass
class Step:
    """An optimizer step: the batches it used, and what it should have made of s and the weights."""

    first: int  # its first batch, counted through all epochs
    end: int  # one past its last
    skipped: bool  # by GradScaler
    gradient: Tensor
    s: float
    weights: Tensor


@dataclass
class ByHand:
    """SGD on the least squares of ``Regression``, at ``eta / sqrt(s)``."""

    clip: Clip = lambda gradient: gradient
    etas: Sequence[float] | None = None  # per step; None: always ETA
    s: float = 1.0
    steps: list[Step] = field(default_factory=list)

    def run(self, model: Regression, watch: Watch, sizes: Sequence[int], per_epoch: int = 4) -> list[Step]:
        """Work out the steps of a training whose epoch i accumulated ``sizes[i]`` batches."""
        batches = list(regression_loader(per_epoch, dtype=torch.float64))
        for epoch, size in enumerate(sizes):
            for start in range(0, per_epoch, size):
                end = min(start + size, per_epoch)
                self._step(model, watch, batches[start:end], epoch * per_epoch + start, size)
        return self.steps

    def _step(self, model: Regression, watch: Watch, batches: list[Any], first: int, size: int) -> None:
        end = first + len(batches)
        before = watch.weights[first]
        # Lightning divides by the size of a full window, also in one that is shorter
        gradient = self.clip(sum(gradient_of(before, x, y) for x, y in batches) / size)
        skipped = watch.scales[end] < watch.scales[end - 1]  # GradScaler backs off after an overflow, and only then
        if not skipped:
            losses = model.true_losses[first:end]
            self.s += sum(losses) / len(losses)
        eta = ETA if self.etas is None else self.etas[len(self.steps)]
        after = before if skipped else before - eta / math.sqrt(self.s) * gradient
        self.steps.append(Step(first, end, skipped, gradient, self.s, after))


def gradient_of(weights: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Of the mean of (x w + v - y)^2, by its formula."""
    residual = x @ weights[:3, None] + weights[3] - y
    return torch.cat([(x.T @ residual).flatten(), residual.sum(0)]) * 2 / len(x)


def clip_by_norm(gradient: Tensor) -> Tensor:
    return gradient * min(1.0, 1.0 / (gradient.norm().item() + 1e-6))  # as torch does


def clip_by_value(gradient: Tensor) -> Tensor:
    return gradient.clamp(-0.5, 0.5)


def assert_steps(watch: Watch, steps: list[Step], *, s_rtol: float, rtol: float, ulp: float = 0.0) -> None:
    """Compare s, and each step's displacement.

    Args:
        s_rtol: Relative tolerance of s.
        rtol: Of a displacement, relative to its norm: the precision in which the gradient was computed.
        ulp: Of the weights themselves: the precision in which they are kept.
    """
    for step in steps:
        assert watch.s[step.end] == (watch.s[step.first] if step.skipped else pytest.approx(step.s, rel=s_rtol))
        before, after = watch.weights[step.first], watch.weights[step.end]
        for inner in range(step.first + 1, step.end):
            assert torch.equal(watch.weights[inner], before), "moved within a window"
        length = (step.weights - before).norm().item()
        allowed = rtol * length + ulp * after.abs().max().item()
        assert (after - step.weights).norm().item() <= allowed, f"the step of batches {step.first} to {step.end - 1}"


def epochs(sizes: dict[int, int] | int, count: int) -> list[int]:
    """The accumulation of each epoch, given as Lightning takes it."""
    if isinstance(sizes, int):
        return [sizes] * count
    changes = [sizes.get(epoch) for epoch in range(count)]
    return list(itertools.accumulate(changes, lambda last, new: last if new is None else new))
