"""The true loss of one optimizer step, from what goes backward.

The step of an optimizer applies the gradient of the sum of the losses whose backward reached its parameters since its
gradients were last zeroed or used. :class:`Window` holds these losses, freed of the factors that Lightning put on them;
:class:`Fed` hands their sum, or its mean over the ranks, to the step that uses the gradients.
"""

import math
from collections.abc import Callable, Set
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from adaloss_lightning.callback.diagnosis import History
from adaloss_lightning.callback.gradients import Gradients
from adaloss_lightning.optim.engine.loss import as_scalar
from adaloss_lightning.optim.engine.ranks import PLACES, GlobalSum, spans_ranks
from adaloss_lightning.optim.loss_adaptive import LossAdaptive
from adaloss_lightning.optim.rate_adaptive import adaptive_in
from adaloss_lightning.optim.recurrence import Scalar

_UNKNOWN = (
    "A backward that AdaLossCallback was not told of, or one of a loss of several numbers, has reached the parameters "
    "of {name}, so the loss of this step is not known. Call self.manual_backward(loss) instead of loss.backward(), or "
    "give the loss yourself: optimizer.step(loss=loss), or optimizer.record_loss(loss) before the step."
)


class Window:
    """The losses in the gradients of one optimizer, each with whether its backward reached the parameters.

    Args:
        gradients: Of that optimizer.
        filters: Whether to count only what reached the parameters: where there are several optimizers.
    """

    def __init__(self, gradients: Gradients, filters: bool) -> None:
        self.gradients = gradients
        self._filters = filters
        self.clear()

    def clear(self) -> None:
        """Start a new window: the gradients were zeroed or used."""
        self.gradients.forget()
        self.losses: list[Scalar] = []
        self.reached: list[bool] = []
        self._holds_unknown = False  # a backward that Lightning did not announce
        self._shares: Scalar = 0.0  # of an accumulation by Lightning that is not complete
        self._batches = 0

    def open(self) -> None:
        """See every backward from here on, announced or not; what Lightning's finders wrote is no part of it."""
        if self.gradients.watched:
            self.gradients.look_for_parameters()
            self.gradients.were_written()

    def before_backward(self) -> None:
        """Look whether what is counted is still in the gradients."""
        if len(self.losses) > len(self.reached):
            self.after_backward()  # of a backward that an exception ended
        if self.gradients.watched:
            self.gradients.look_for_parameters()
        elif not (self.reached or self._batches or self._holds_unknown):
            return  # nothing is counted
        if self.holds_unknown() or self._batches or any(self.reached):
            holds = self.gradients.hold_their_content()
            if self._holds_unknown:
                holds = bool(holds)  # rare enough for a read
            if holds is False:
                self.clear()
            elif isinstance(holds, Tensor):
                self.losses = [torch.where(holds, torch.as_tensor(loss).to(holds.device), 0.0) for loss in self.losses]
                self._shares = torch.where(holds, torch.as_tensor(self._shares).to(holds.device), 0.0)

    def add(self, loss: Tensor) -> None:
        """Add a loss whose backward is under way; one of several numbers is none that a step could use."""
        if loss.numel() == 1:
            self.losses.append(_in_double(loss))
        else:
            self._holds_unknown = True

    def add_share(self, loss: Tensor, accumulated: int, is_new_batch: bool) -> None:
        """Add a micro-batch's loss, which Lightning has divided by ``accumulated``."""
        self._shares = self._shares + _in_double(loss) * accumulated
        self._batches += is_new_batch

    def complete_shares(self) -> None:
        """The accumulation ends: what counts is the mean over the batches that it really had."""
        if self._batches:
            self.losses.append(self._shares / self._batches)
            self.reached.append(True)
            self._shares, self._batches = 0.0, 0

    def after_backward(self) -> None:
        """Note whether the backward that ends has reached the parameters."""
        is_in = (self.gradients.watched and self.gradients.were_written()) or not self._filters
        if len(self.losses) > len(self.reached):
            self.reached.append(is_in)
            if not is_in:
                self._forget_one_that_reached_nothing()
        if is_in:
            self.gradients.note()

    def _forget_one_that_reached_nothing(self) -> None:
        """Another rank may know better of the last few; without other ranks none is kept."""
        if not spans_ranks(None) or len(self.losses) > PLACES:
            index = self.reached.index(False)
            del self.losses[index], self.reached[index]

    @property
    def has_shares(self) -> bool:
        """Whether an accumulation by Lightning is not complete."""
        return bool(self._batches)

    def total(self) -> Scalar:
        """Sum of the losses, whatever they reached."""
        return sum(self.losses)

    @property
    def is_known(self) -> bool:
        """Whether it can be told which of the losses reached the parameters."""
        return not (self._filters and self.gradients.cannot_be_watched)

    def holds_unknown(self) -> bool:
        """Whether a backward that Lightning did not announce is in the gradients."""
        if self.gradients.watched:
            self._holds_unknown = self.gradients.were_written() or self._holds_unknown
        return self._holds_unknown


class Fed:
    """An optimizer that asks for the loss of its window in each step.

    An adaptive one asks through its inbox, also where it lies in another one (Lookahead, ZeroRedundancyOptimizer). One
    that uses the loss itself (MoMo) gets it as the ``loss`` of its ``step``.

    Args:
        optimizer: As the trainer holds it.
        window: The losses in its gradients.
        is_automatic: Whether Lightning steps it.
        is_active: Whether the callback is at work: callbacks are dropped while a batch size or a rate is searched.
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
        self.names: Set[str] = frozenset()  # under which the last step's values are shown
        self.history = History()
        self.adaptive = adaptive_in(optimizer)
        self._is_automatic = is_automatic
        self._is_active = is_active
        self._on_step = on_step
        self._handles: list[Any] = []
        if self.adaptive is not None:
            self.adaptive.feed(self._record, self._after_adaptive_step)
        else:
            self._handles.append(optimizer.register_step_pre_hook(self._with_loss))
            self._handles.append(optimizer.register_step_post_hook(self._after_step))

    def close(self) -> None:
        """Take off what was hung on the optimizer and its parameters."""
        if self.adaptive is not None:
            self.adaptive.feed(None, None)
            self.adaptive.cool(1.0)
        for handle in self._handles:
            handle.remove()
        self.window.gradients.close()

    def end_batch(self) -> None:
        """Drop what we recorded and no step used; what the user recorded waits for a step that is still to come."""
        if self.adaptive is not None and (self.adaptive.recorded_is_ours or self.was_asked):
            self.adaptive.discard_loss()
        self.has_stepped = self.was_asked = False

    def ask(self) -> None:
        """Note that a step is about to be made, which GradScaler may skip: one without a loss is none."""
        self.was_asked = True
        self.history.asked += bool(not self._is_automatic or self.window.losses or self.window.has_shares)

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

    def _after_adaptive_step(self, loss: Scalar | None) -> None:
        if loss is not None and self._is_active():
            self.history.add(loss)
        self._after_step()

    def _after_step(self, *_: Any) -> None:
        self.has_stepped = self.has_stepped or self._is_active()
        self.window.clear()
        self._on_step(self)


def unscaled(loss: Tensor, scaler: Any) -> Tensor:
    """The loss before ``GradScaler`` scaled it, by the scale in force now, without reading that scale on the host.

    ``scaler.get_scale()`` would read it; scaling a 1 gives the same number as a tensor.
    """
    if scaler is None or not scaler.is_enabled():
        return loss
    one = torch.ones((), dtype=torch.float32, device=loss.device)
    scale: Tensor = scaler.scale(one)
    return loss.detach().to(torch.float32) / scale


def _in_double(loss: Tensor) -> Scalar:
    value = as_scalar(loss)
    if isinstance(value, Tensor) and value.device.type != "mps":  # which has no float64
        value = value.double()
    return value
