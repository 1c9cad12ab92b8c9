"""The base optimizer: what it must be like, how its step is run, and what is lent to it for one step."""

from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer, Rprop
from torch.optim.optimizer import _use_grad_for_differentiable

from adaloss_lightning.optim.engine.traits import needs_closure, takes_loss

_TURNS_GRADIENTS_OFF: Any = _use_grad_for_differentiable(Optimizer.zero_grad)


def require_adaptable(base: Any) -> None:
    """Raise unless dividing ``group["lr"]`` for one step does to ``base`` what the methods mean by it.

    Raises:
        TypeError: If it is no ``torch.optim.Optimizer``.
        ValueError: If it calls its closure itself (LBFGS, SAM), uses the loss itself (MoMo), ignores ``lr`` after its
            first step (Rprop), or has no ``lr`` at all.
    """
    if not isinstance(base, Optimizer):
        raise TypeError(
            f"Invalid base={base!r}. Must be an instance of torch.optim.Optimizer, such as torch.optim.SGD(...)."
        )
    name = type(base).__name__
    if takes_loss(base):
        raise ValueError(
            f"Invalid base={name}. Must be an optimizer that does not adapt to the loss itself: {name} does. Use it "
            "alone, with step(loss=loss), or with AdaLossCallback, which gives it the true loss."
        )
    if needs_closure(base):
        raise ValueError(
            f"Invalid base={name}. Must be an optimizer whose step works without a closure: {name} evaluates the loss "
            "several times a step, so there is no one loss to adapt to. Use torch.optim.SGD or torch.optim.Adam."
        )
    if isinstance(base, Rprop):
        raise ValueError(
            f"Invalid base={name}. Must be an optimizer that uses lr at each step: {name} uses it at the first only. "
            "Use torch.optim.SGD or torch.optim.Adam."
        )
    for index, group in enumerate(base.param_groups):
        if "lr" not in group:
            raise ValueError(f"Invalid base={name}. Must have 'lr' in every parameter group; group {index} has none.")


def only_makes_state(base: Optimizer) -> bool:
    """Whether a step now is there to make the state alone: there is none, and every lr and every gradient are zero.

    ``torch.distributed.checkpoint`` makes one such step before it loads. Asked only of a step without a loss, so that
    it may wait for a device.
    """
    return not base.state and not any(_moves(group) or _has_slope(group) for group in base.param_groups)


def _moves(group: dict[str, Any]) -> bool:
    lr = group["lr"]
    return True if isinstance(lr, Tensor) and not lr.is_cpu else bool(lr != 0)


def _has_slope(group: dict[str, Any]) -> bool:
    return any(p.grad is not None and bool(p.grad.any()) for p in group["params"])


def run_step(base: Optimizer, kind: type[Optimizer] | None = None, **more: Any) -> None:
    """Run the step of ``base`` (or the one that ``kind``, its parent, defines) without torch's wrapper around it.

    The wrapper would run the step hooks once more.
    """
    if kind is None and "step" in base.__dict__ and (patch := _patched_step(base)) is not None:
        with _without_hooks(base):  # the patch may call torch's wrapper
            patch(**more)
        return
    step: Any = (kind or type(base)).step
    if getattr(step, "hooked", False):
        step = step.__wrapped__
    if torch.compiler.is_compiling() and _breaks_graph(step) and not base.defaults.get("differentiable"):
        with torch.no_grad():
            step.__wrapped__(base, **more)
    else:
        step(base, **more)


def _patched_step(base: Optimizer) -> Any | None:
    """A ``step`` that was put on this very object, also under the counter of a scheduler that was built on it."""
    step: Any = base.__dict__["step"]
    is_counted = getattr(step, "_wrapped_by_lr_sched", False)
    function: Any = step.__wrapped__ if is_counted else getattr(step, "__func__", None)
    if function is type(base).step:
        return None
    return MethodType(function, base) if is_counted else step


@contextmanager
def _without_hooks(base: Optimizer) -> Iterator[None]:
    own = base._optimizer_step_pre_hooks, base._optimizer_step_post_hooks
    base._optimizer_step_pre_hooks, base._optimizer_step_post_hooks = OrderedDict(), OrderedDict()
    try:
        yield
    finally:
        base._optimizer_step_pre_hooks, base._optimizer_step_post_hooks = own


def _breaks_graph(step: Any) -> bool:
    """Whether it is in torch's wrapper that turns gradients off, and breaks a compiler's graph before and after."""
    return getattr(step, "__code__", None) is _TURNS_GRADIENTS_OFF.__code__


class LentGradients:
    """Puts another gradient into ``p.grad`` of each pair, and the very same object back at the end.

    A class, because older compilers cannot trace a function that returns a generator's context manager.
    """

    def __init__(self, loans: Iterable[tuple[Tensor, Tensor]]) -> None:
        self._loans = list(loans)
        self._owned = [parameter.grad for parameter, _ in self._loans]

    def __enter__(self) -> None:
        for parameter, gradient in self._loans:
            parameter.grad = gradient

    def __exit__(self, *raised: object) -> None:
        for (parameter, _), own in zip(self._loans, self._owned, strict=True):
            parameter.grad = own


def divided_gradients(
    groups: Sequence[dict[str, Any]], divisors: Sequence[float | Tensor]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Each parameter that has a gradient, and that gradient over the divisor of its group."""
    for group, divisor in zip(groups, divisors, strict=True):
        for p in group["params"]:
            if p.grad is not None:
                # a 0-dim gradient over a 0-dim float64 tensor would be float64
                yield p, (p.grad / divisor).to(p.grad.dtype)


class LentRates:
    """Puts another learning rate into each ``group["lr"]``, and the very same object back at the end.

    A class, because a generator's context manager runs three times as much Python, in every step.
    """

    def __init__(self, groups: Sequence[dict[str, Any]], rates: Sequence[float | Tensor], is_of_torch: bool) -> None:
        self._groups = groups
        self._owned = [group["lr"] for group in groups]
        # torch's own take a number, in float64, also where their rate is a tensor; torchao's refuse it
        self._rates = rates if is_of_torch else list(map(_alike, rates, self._owned))

    def __enter__(self) -> None:
        for group, rate in zip(self._groups, self._rates, strict=True):
            group["lr"] = rate

    def __exit__(self, *raised: object) -> None:
        for group, own in zip(self._groups, self._owned, strict=True):
            group["lr"] = own


def _alike(rate: float | Tensor, own: float | Tensor) -> float | Tensor:
    return torch.full_like(own, rate) if isinstance(own, Tensor) and not isinstance(rate, Tensor) else rate


def run_scaled_step(
    base: Optimizer, grad_scale: Tensor | None, found_inf: Tensor | None, more: Mapping[str, Any]
) -> None:
    """Run the step of a base that unscales and skips as ``GradScaler`` tells it, if it does."""
    if grad_scale is None and found_inf is None:
        run_step(base, **more)
    else:
        with _lent_amp(base, grad_scale, found_inf):
            run_step(base, **more)


@contextmanager
def _lent_amp(base: Any, grad_scale: Tensor | None, found_inf: Tensor | None) -> Iterator[None]:
    """Hand on what ``GradScaler`` tells an optimizer whose kernel unscales and skips."""
    base.grad_scale, base.found_inf = grad_scale, found_inf
    try:
        yield
    finally:
        del base.grad_scale, base.found_inf


@contextmanager
def lent_both(first: AbstractContextManager[None], second: AbstractContextManager[None]) -> Iterator[None]:
    """Lend two things at once."""
    with first, second:
        yield
