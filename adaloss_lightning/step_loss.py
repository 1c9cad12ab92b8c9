"""The true loss of one optimizer step, from what goes backward."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from adaloss_lightning.accumulator import Scalar, as_scalar
from adaloss_lightning.rate_adaptive import RateAdaptive


def unscaled(loss: Tensor, scaler: Any) -> Tensor:
    """The loss before ``GradScaler`` scaled it, by the scale in force now, without reading that scale on the host.

    ``scaler.get_scale()`` would read it; scaling a 1 gives the same number as a tensor.
    """
    if scaler is None or not scaler.is_enabled():
        return loss
    one = torch.ones((), dtype=torch.float32, device=loss.device)
    scale: Tensor = scaler.scale(one)
    return loss.detach().to(torch.float32) / scale


class StepLoss:
    """The losses that went backward since the last step.

    Their number is counted, because the last window of an epoch may be shorter than ``accumulate_grad_batches``.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Start a new window."""
        self._total: Scalar = 0.0
        self._count = 0

    def add(self, loss: Tensor, factor: float = 1.0) -> None:
        """Add one micro-batch: its loss as it went backward, times what it had been divided by."""
        value = as_scalar(loss)
        if isinstance(value, Tensor) and value.device.type != "mps":  # which has no float64
            value = value.double()
        self._total = self._total + value * factor
        self._count += 1

    def take_mean(self) -> Scalar | None:
        """Mean over the window, which ends; None if it is empty."""
        count = self._count
        total = self.take_sum()
        return None if total is None else total / count

    def take_sum(self) -> Scalar | None:
        """Sum over the window, which ends; None if it is empty."""
        total, count = self._total, self._count
        self.clear()
        return total if count else None


class ManualLosses:
    """Which losses are in the gradients of which optimizer, under manual optimization.

    The step of an optimizer applies the gradient of the sum of the losses whose backward reached its parameters since
    its gradients were last zeroed or used. So each backward is noted for the optimizers whose gradients it changed,
    whatever the order of backwards and steps.
    """

    def __init__(self, optimizers: Sequence[RateAdaptive]) -> None:
        self._windows = {id(optimizer): _Window(optimizer) for optimizer in optimizers}
        self._loss: Tensor | None = None

    def before_backward(self, loss: Tensor) -> None:
        """A backward of this loss begins."""
        self._loss = loss
        for window in self._windows.values():
            window.look()

    def after_backward(self) -> None:
        """It ended: note its loss where gradients have changed."""
        if self._loss is None:
            return
        for window in self._windows.values():
            if len(self._windows) == 1 or window.changed():
                window.losses.add(self._loss)
        self._loss = None

    def take(self, optimizer: RateAdaptive) -> Scalar | None:
        """The loss of the step that this optimizer is about to make; None if no backward reached it."""
        window = self._windows.get(id(optimizer))
        return None if window is None else window.losses.take_sum()


class _Window:
    """The losses in one optimizer's gradients, and what those gradients were before the backward under way."""

    def __init__(self, optimizer: RateAdaptive) -> None:
        self.losses = StepLoss()
        self._optimizer = optimizer
        self._zeroings = optimizer.zeroings
        self._seen: list[tuple[int, int] | None] = []

    def look(self) -> None:
        self._seen = self._gradients()
        empty = not any(self._seen)  # zeroed by the module, say
        if empty or self._zeroings != self._optimizer.zeroings:
            self.losses.clear()
            self._zeroings = self._optimizer.zeroings

    def changed(self) -> bool:
        return self._gradients() != self._seen

    def _gradients(self) -> list[tuple[int, int] | None]:
        """Each gradient's identity and how often it was written in place: no look at its values."""
        grads = (p.grad for group in self._optimizer.param_groups for p in group["params"])
        return [None if grad is None else (id(grad), grad._version) for grad in grads]
