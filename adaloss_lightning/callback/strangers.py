"""Optimizers that a module steps by itself, at their own rate."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from adaloss_lightning.callback.true_loss import Fed
from adaloss_lightning.optim.engine.traits import inner_optimizers
from adaloss_lightning.optim.rate_adaptive import RateAdaptive


class Strangers:
    """Optimizers that step parameters of the module although ``configure_optimizers`` did not return them.

    Torch tells of every step through a global hook, which costs each step some microseconds: so it is there until the
    first step of each epoch only.

    Attributes:
        found: Optimizers that have stepped since :meth:`watch`.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self.found: list[Optimizer] = []
        self._has_warned = False

    def watch(self) -> None:
        """Listen from now on."""
        if self._handle is None and not self._has_warned:
            self._handle = register_optimizer_step_post_hook(lambda optimizer, *_: self.found.append(optimizer))

    def report(self, module: LightningModule, fed: Sequence[Fed], optimizers: Sequence[Optimizer]) -> None:
        """Warn once of the strangers, and listen no longer once an optimizer has stepped.

        What lies in an adaptive optimizer is a stranger where it stepped and that one did not.
        """
        known = {id(one) for one in optimizers}
        for one in fed:
            around = one.has_stepped or not isinstance(one.optimizer, RateAdaptive)
            known.update(map(id, (one.optimizer, *(inner_optimizers(one.optimizer) if around else ()))))
        parameters = set(map(id, module.parameters()))
        for optimizer in self.found:
            owned = {id(p) for group in optimizer.param_groups for p in group["params"]}
            if not (id(optimizer) in known or isinstance(optimizer, RateAdaptive) or owned.isdisjoint(parameters)):
                name = type(optimizer).__name__
                rank_zero_warn(
                    f"{name} steps parameters of {type(module).__name__} at its own rate: AdaLossCallback adapts what "
                    "configure_optimizers() returns and self.optimizers() gives. Step one of those, or wrap it: "
                    f"LossAdaptive({name}(...))."
                )
                self._has_warned = True
                break
        self.close()

    def close(self) -> None:
        """Listen no longer."""
        if self._handle is not None:
            self._handle.remove()
            self._handle = None
        self.found.clear()
