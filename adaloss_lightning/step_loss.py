"""The true loss of one optimizer step, from what reaches ``backward``."""

from typing import Any

import torch
from torch import Tensor

from adaloss_lightning.accumulator import Scalar, as_scalar


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
    """Collects the losses that went backward since the last step.

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
        if isinstance(value, Tensor) and value.device.type != "mps":
            value = value.double()
        self._total = self._total + value * factor
        self._count += 1

    def take_mean(self) -> Scalar | None:
        """Mean over the window, which ends; None if it is empty."""
        total, count = self._total, self._count
        self.clear()
        return total / count if count else None

    def take_sum(self) -> Scalar | None:
        """Sum over the window, which ends; None if it is empty."""
        total, count = self._total, self._count
        self.clear()
        return total if count else None
