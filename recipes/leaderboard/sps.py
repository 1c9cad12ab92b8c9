"""SPS_safe with the `step` that Lightning calls."""

from collections.abc import Callable

import torch
from sps_safe import SPS_safe
from torch import Tensor


class SPS(SPS_safe):  # type: ignore[misc]  # the package has no types
    """SPS_safe (Oikonomou and Loizou 2026), whose own `step` takes the loss alone and no closure."""

    def step(self, closure: Callable[[], Tensor]) -> Tensor:
        """One step with the loss and the gradients of `closure`."""
        with torch.enable_grad():
            loss = closure()
        super().step(loss=loss.detach())
        return loss
