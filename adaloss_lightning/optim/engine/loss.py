"""The loss of a step: how it reaches the step, and as which number."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adaloss_lightning.optim.engine.ranks import GlobalLoss
from adaloss_lightning.optim.engine.wrapper import Group, OptimizerWrapper
from adaloss_lightning.optim.recurrence import Scalar


class Inbox:
    """The loss that waits for the next step, and the one that the last step saw.

    An object of its own because Lightning's optimizer proxy takes on our class but not our attributes: an attribute
    that is set through the proxy would stay on the proxy.
    """

    def __init__(self) -> None:
        self.loss: Scalar | None = None  # recorded, not yet used
        self.dtype: torch.dtype | None = None  # ... of the tensor that it was: step returns one, too
        self.is_global = False  # ... and already averaged over the ranks
        self.mean: GlobalLoss | None = None  # ... or being averaged
        self.is_ours = False  # ... and left by AdaLossCallback, so that what the user records goes before it
        self.last_loss: Scalar | None = None  # what entered the last step
        self.source: Callable[[Any], None] | None = None  # is asked to record a loss; gets what the closure returned
        self.on_step: Callable[[Scalar | None], None] | None = None  # is called at the end of each step with its loss
        self.cooling = 1.0  # what effective rates are multiplied by
        self.amp_scaling = True  # whether GradScaler may leave the unscaling to a fused base

    def returned(self) -> Scalar | None:
        """The recorded loss as the step returns it: a tensor where it was one."""
        if self.dtype is not None and isinstance(self.loss, float):
            return torch.tensor(self.loss, dtype=self.dtype)
        return self.loss


class TakesLoss(OptimizerWrapper):
    """A wrapper whose step takes a loss: as an argument, recorded before it, or from the closure."""

    def __init_subclass__(cls, **keywords: Any) -> None:
        """Let a proxy that takes on our class hand on ``step(loss=...)`` too: Fabric's knows the closure alone."""
        super().__init_subclass__(**keywords)
        proxy: Any = cls.__mro__[1]
        if issubclass(proxy, OptimizerWrapper) or "step" not in vars(proxy) or _takes_keyword(proxy.step, "loss"):
            return

        def step(self: Any, closure: Callable[[], Any] | None = None, *, loss: Scalar | None = None) -> Any:
            if loss is None:
                return proxy.step(self, closure)
            self.record_loss(loss)
            try:
                return proxy.step(self, closure)
            finally:
                self.discard_loss()  # of a step that GradScaler skipped

        cls.step = step  # type: ignore[method-assign]

    def __setstate__(self, state: Group) -> None:
        self._inbox = Inbox()
        super().__setstate__(state)

    def feed(self, source: Callable[[Any], None] | None, on_step: Callable[[Scalar | None], None] | None) -> None:
        """Let a callback feed the steps.

        Args:
            source: Called in a step that has no loss yet, with what the closure returned: it may record one.
            on_step: Called at the end of each step, also a skipped one, with the loss that it was given.
        """
        self._inbox.source, self._inbox.on_step = source, on_step

    def record_loss(self, loss: Scalar, *, is_global: bool = False, is_ours: bool = False) -> None:
        """Leave the loss for the next step; a second call before it replaces the first.

        Args:
            loss: The true (unscaled) loss of the step: a float or a tensor of one element. It is detached; one on the
                CPU is read at once, so that changing it in place later does not matter.
            is_global: Whether it is the mean over all ranks already.
            is_ours: Whether AdaLossCallback leaves it, for which nothing goes before what the user records.

        Raises:
            ValueError: If it is not one real number.
        """
        inbox, value = self._inbox, as_scalar(loss)
        inbox.loss, inbox.mean, inbox.is_global, inbox.is_ours = value, None, is_global, is_ours
        inbox.dtype = loss.dtype if isinstance(loss, Tensor) else None

    def record_losses(self, losses: Sequence[Scalar], reached: Sequence[bool]) -> None:
        """Leave the sum of those losses whose backward reached the parameters; nothing where none did."""
        counted = [loss for loss, is_in in zip(losses, reached, strict=True) if is_in]
        if counted:
            self.record_loss(sum(counted))

    @property
    def recorded_loss(self) -> Scalar | None:
        """What :meth:`record_loss` left and no step has used yet."""
        return self._inbox.loss

    @property
    def recorded_is_ours(self) -> bool:
        """Whether AdaLossCallback left it."""
        return self._inbox.is_ours

    def discard_loss(self) -> None:
        """Forget a recorded loss, as after a step that GradScaler skipped."""
        self._inbox.loss = self._inbox.mean = None

    @property
    def last_loss(self) -> Tensor | None:
        """The loss that the last step saw, a 0-dim tensor; None before any."""
        loss = self._inbox.last_loss
        if loss is None:
            return None
        return loss.clone() if isinstance(loss, Tensor) else torch.scalar_tensor(loss, dtype=torch.float64)


def as_scalar(loss: object) -> Scalar:
    """A loss as one detached number: a float where that costs nothing, a 0-dim tensor on an accelerator.

    Args:
        loss: A float, an int or a tensor of one element, of any real dtype and shape.

    Raises:
        ValueError: If it is not one real number.
    """
    if isinstance(loss, float):
        return loss
    if not isinstance(loss, Tensor):
        try:
            if isinstance(loss, (str, bytes)):
                raise TypeError
            return float(loss)  # type: ignore[arg-type]
        except (TypeError, ValueError, OverflowError):
            raise ValueError(f"Invalid loss={loss!r}. Must be a number or a tensor of one element.") from None
    if loss.numel() != 1:
        raise ValueError(
            f"Invalid loss of shape {tuple(loss.shape)}. Must be one number: reduce it first, as in loss.mean()."
        )
    if loss.is_complex():
        raise ValueError(f"Invalid loss of dtype {loss.dtype}. Must be real: take loss.abs() or loss.real.")
    if loss.is_cpu and not torch.compiler.is_compiling():
        return float(loss.item())
    return loss.detach().reshape(())


def as_scalar_or_none(loss: object) -> Scalar | None:
    """The same for a method that does not look at the loss: None also for what is no number."""
    try:
        return None if loss is None else as_scalar(loss)
    except ValueError:
        return None


def _takes_keyword(step: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(step).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
