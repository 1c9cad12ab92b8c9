"""How one optimizer of a Lightning trainer gets the losses of its window."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from adaloss_lightning.callback.true_loss import Window
from adaloss_lightning.optim.engine.ranks import GlobalSum, spans_ranks
from adaloss_lightning.optim.engine.traits import inner_optimizers
from adaloss_lightning.optim.loss_adaptive import LossAdaptive
from adaloss_lightning.optim.rate_adaptive import RateAdaptive, adaptive_in
from adaloss_lightning.optim.recurrence import Scalar

_UNKNOWN = (
    "A backward that AdaLossCallback was not told of, or one of a loss of several numbers, has reached the parameters "
    "of {name}, so the loss of this step is not known. Call self.manual_backward(loss) instead of loss.backward(), or "
    "give the loss yourself: optimizer.step(loss=loss), or optimizer.record_loss(loss) before the step."
)


class Fed:
    """An optimizer that asks for the loss of its window in each step.

    An adaptive one asks through its inbox, also where it lies in another one (Lookahead, ZeroRedundancyOptimizer). One
    that uses the loss itself (MoMo) gets it as the ``loss`` of its ``step``.

    Args:
        optimizer: As the trainer holds it.
        window: The losses in its gradients.
        is_automatic: Whether Lightning steps it.
        is_active: Whether the callback is at work; Lightning drops callbacks while it searches a batch size or a rate.
        on_step: Called after each step.
        suffix: Of the names under which it is logged.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        window: Window,
        *,
        is_automatic: bool,
        is_active: Callable[[], bool],
        on_step: Callable[["Fed"], None],
        suffix: str,
    ) -> None:
        self.optimizer = optimizer
        self.window = window
        self.suffix = suffix
        self.has_stepped = False  # in this batch
        self.was_asked = False  # to step in this batch: GradScaler may have skipped that
        self.names: set[str] = set()  # under which the last step's values are shown
        self.adaptive = adaptive_in(optimizer)
        self._is_automatic = is_automatic
        self._is_active = is_active
        self._on_step = on_step
        self._handles: list[Any] = []
        if self.adaptive is not None:
            self.adaptive.feed(self._record, self._after_step)
        else:
            self._handles.append(optimizer.register_step_pre_hook(self._with_loss))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def close(self) -> None:
        """Take off what was hung on the optimizer and its parameters."""
        if self.adaptive is not None:
            self.adaptive.feed(None, None)
        for handle in self._handles:
            handle.remove()
        self.window.gradients.close()

    def end_batch(self) -> None:
        """Drop what we recorded and no step used; what the user recorded waits for a step that is still to come."""
        if self.adaptive is not None and (self.adaptive.recorded_is_ours or self.was_asked):
            self.adaptive.discard_loss()
        self.has_stepped = self.was_asked = False

    def begin(self) -> None:
        """Record the loss before the last backward of an accumulation, which can hide the averaging over the ranks.

        What the user recorded goes before it.
        """
        optimizer = self.adaptive
        if optimizer is None or not (optimizer.recorded_loss is None or optimizer.recorded_is_ours):
            return
        if self.window.holds_unknown():
            return
        optimizer.record_loss(self.window.total(), is_ours=True)
        if isinstance(optimizer, LossAdaptive):
            optimizer.begin_sync()

    def _record(self, returned: Any) -> None:
        """Record the loss of the step under way."""
        window, optimizer = self.window, self.adaptive
        assert optimizer is not None
        if not self._is_active():
            if returned is None:
                optimizer.record_loss(0.0)  # any number: weights, s and states are put back afterwards
            return
        if window.holds_unknown():
            if returned is None:
                raise RuntimeError(_UNKNOWN.format(name=type(self.optimizer).__name__))
        elif self._is_automatic:
            window.complete_shares()
            if window.losses:
                optimizer.record_loss(window.total())
            elif returned is None:  # of training_step: nothing to step on, so NaN skips the step
                optimizer.record_loss(math.nan)
        elif window.losses and window.is_known:
            optimizer.record_losses(window.losses, window.reached)

    def _with_loss(self, optimizer: Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Hand the true loss to an optimizer whose ``step`` takes one."""
        own, *positional = args
        given = dict(zip(("closure", "loss"), positional, strict=False)) | kwargs
        closure = given.pop("closure", None)
        with torch.enable_grad():
            loss: Any = None if closure is None else closure()
        if given.get("loss") is not None:
            loss = given["loss"]
        elif self._is_active():
            if self.window.holds_unknown() or not self.window.is_known:
                raise RuntimeError(_UNKNOWN.format(name=type(self.optimizer).__name__))
            self.window.complete_shares()
            if self.window.losses:
                loss = self._mean()
        device = optimizer.param_groups[0]["params"][0].device
        return (own,), {**given, "loss": None if loss is None else torch.as_tensor(loss, device=device)}

    def _mean(self) -> Scalar:
        window = self.window
        if not spans_ranks(None):
            return sum(loss for loss, is_in in zip(window.losses, window.reached, strict=True) if is_in)
        device = self.optimizer.param_groups[0]["params"][0].device
        return GlobalSum(window.losses, window.reached, device, None).wait()

    def _after_step(self, *_: Any) -> None:
        self.has_stepped = True
        self.window.clear()
        self._on_step(self)


class Strangers:
    """Optimizers that step parameters of the module although ``configure_optimizers`` did not return them.

    Torch tells of every step through a global hook, which costs each step some microseconds: so it is there until the
    first step of each epoch only.
    """

    def __init__(self) -> None:
        self._handle: Any = None
        self._found: list[Optimizer] = []
        self._has_warned = False

    def watch(self) -> None:
        """Listen from now on."""
        if self._handle is None and not self._has_warned:
            self._handle = register_optimizer_step_post_hook(lambda optimizer, *_: self._found.append(optimizer))

    def report(self, module: LightningModule, fed: Sequence[Fed], optimizers: Sequence[Optimizer]) -> None:
        """Warn once of the strangers, and listen no longer once an optimizer has stepped.

        What lies in an adaptive optimizer is a stranger where it stepped and that one did not.
        """
        if not self._found:
            return
        known = {id(one) for one in optimizers}
        for one in fed:
            around = one.has_stepped or not isinstance(one.optimizer, RateAdaptive)
            known.update(map(id, (one.optimizer, *(inner_optimizers(one.optimizer) if around else ()))))
        parameters = set(map(id, module.parameters()))
        for optimizer in self._found:
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
        self._found.clear()
