"""A base optimizer that runs each step at eta / divisor(s), for whatever method moves the accumulator s."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

from adaloss_lightning.optim import schedule
from adaloss_lightning.optim.engine.base import (
    LentGradients,
    LentRates,
    divided_gradients,
    lent_both,
    only_makes_state,
    require_adaptable,
    run_scaled_step,
    run_step,
)
from adaloss_lightning.optim.engine.device_step import for_kernels, has_to_read, kept, step_on_device
from adaloss_lightning.optim.engine.fused_choice import withdraw_fused
from adaloss_lightning.optim.engine.groups import RATE, S, Vectors
from adaloss_lightning.optim.engine.host_step import can_step_on_host, step_on_host
from adaloss_lightning.optim.engine.loss import TakesLoss
from adaloss_lightning.optim.engine.traits import class_of_torch, inner_optimizers, wants_one_rate
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group, device_of, lightly_hooked
from adaloss_lightning.optim.method import Method
from adaloss_lightning.optim.recurrence import Scalar
from adaloss_lightning.optim.schedule import STEPS, WARMUP
from adaloss_lightning.optim.validation import require_choice, require_number, require_whole

Scale = Literal["lr", "gradient"]
Scalars = Sequence[Scalar]
_NO_KEYWORDS: Group = {}


class RateAdaptive(TakesLoss):
    r"""Runs ``base`` with its learning rate divided by a number that changes at each step.

    Each parameter group owns an accumulator s. A step

    1. takes the signal of its method: the loss, the squared norm of the gradient, or 1;
    2. moves s of each group by ``method.advance``;
    3. lends the base :math:`\eta / \text{divisor}(s)` as ``group["lr"]`` for just this step, and runs it;
    4. keeps the new s only if the step went through.

    ``param_groups`` and ``state`` are the base's own, so schedulers, checkpoints and everything that reads groups work
    as they do on the base. This is composition: torch's own kernels do all arithmetic on parameters.

    Args:
        base: The optimizer to adapt. It must use ``group["lr"]`` at each step and need no closure.
        method: The equations of s.
        settings: Default settings of a parameter group, their names with the prefix ``adaloss_``.
        scale: ``"lr"`` divides the learning rate (and with it coupled weight decay) by b. ``"gradient"`` divides the
            gradients, as the paper's public code does by scaling the loss: weight decay is then not divided by b, and
            momentum buffers hold g/b. It costs one more pass over the gradients.

    Attributes:
        check_finite: Whether the signal is read on an accelerator, to skip one that is not finite, where no kernel
            stops the base. A base whose kernels would read each rate gets one read in any case.
        host_arithmetic: Whether the host may do the arithmetic of a step where nothing lies on an accelerator. Set to
            False, a step on the CPU goes the way of an accelerator: for tests, and slower.

    Raises:
        TypeError: If ``base`` is no ``torch.optim.Optimizer``.
        ValueError: If ``base`` cannot be adapted, or a setting is out of its bounds.
    """

    method: Method
    scale: Scale
    check_finite: bool = True
    host_arithmetic: bool = True
    _one_rate: bool = False  # the base takes one learning rate for all groups, so they share settings and s

    def __init__(
        self, base: Optimizer, method: Method, settings: Group, *, scale: Scale = "lr", **attributes: Any
    ) -> None:
        adaptive = adaptive_in(base)
        if adaptive is not None:
            raise ValueError(
                f"Invalid base={type(base).__name__}. Must be a plain optimizer: {type(adaptive).__name__} is adaptive "
                "already."
            )
        require_adaptable(base)
        require_choice("scale", scale, ("lr", "gradient"))
        self.method, self._one_rate = method, wants_one_rate(base)  # before the groups are validated
        super().__init__(base, settings, method=method, scale=scale, _one_rate=self._one_rate, **attributes)

    def __setstate__(self, state: Group) -> None:
        self._vectors = Vectors()
        self._is_of_torch = class_of_torch(state["base"]) is not None
        self.method = state["method"]
        super().__setstate__(state)

    # -- parameter groups ----------------------------------------------------------------------------------------------

    @property
    def _evolving(self) -> tuple[str, ...]:
        return (S, RATE, WARMUP, STEPS, *self.method.evolving)

    def _validate(self, settings: Group) -> None:
        require_number("lr", settings["lr"], at_least=0)  # the rest is the base's own to check
        self.method.validate(settings)

    def _validate_together(self, groups: Sequence[Group]) -> None:
        if not self._one_rate:
            return
        *others, last = groups
        for key, value in last.items():
            if not key.startswith(PREFIX) or key in self._evolving:
                continue
            for other in others:
                if other[key] != value:
                    raise ValueError(
                        f"Invalid {key}={value!r} in a parameter group. Must be {other[key]!r} as in the others: this "
                        "base takes one learning rate for all groups. Leave it out, or give these parameters an "
                        "optimizer of their own."
                    )

    def _adopt(self, group: Group) -> None:
        super()._adopt(group)
        group.setdefault(RATE, None)
        device = device_of(group)
        dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        s = group[S] if S in group else self._start(group)
        group[S] = torch.as_tensor(s, dtype=dtype).to(device, copy=True)
        self.method.adopt(group, group[S], self.base.param_groups)
        schedule.adopt(group)

    def _start(self, group: Group) -> Scalar:
        """The accumulator before the first step; that of the other groups where all share one."""
        shared = [other[S] for other in self.base.param_groups if S in other] if self._one_rate else []
        return shared[0] if shared else self.method.start(group)

    def _adopted(self) -> list[Group]:
        """The groups, also those that were added directly to the base, or have moved, as by ``model.cuda()``."""
        groups = self.base.param_groups
        try:
            for group in groups:
                group[S]
        except KeyError:
            for group in groups:
                if S not in group:
                    self._adopt(group)
        if groups and (params := groups[0]["params"]) and params[0].is_cpu != groups[0][S].is_cpu:
            for group in groups:
                self._adopt(group)
        return groups

    # -- b, rates and their schedule -----------------------------------------------------------------------------------

    @property
    def b(self) -> list[Tensor]:
        """The paper's b: one 0-dim float64 tensor per parameter group, on its device. Reading it waits for nothing."""
        return [self.method.b(group, group[S]).clone() for group in self._adopted()]  # type: ignore[union-attr]

    @property
    def divisor(self) -> list[Tensor]:
        """What the next step's eta would be divided by if s stood still: one 0-dim tensor per group, on its device."""
        return [torch.as_tensor(self.method.divisor(group, group[S])).clone() for group in self._adopted()]

    @property
    def effective_lr(self) -> list[Tensor]:
        """Learning rate of the last step, one 0-dim tensor per group; before any step eta over its divisor."""
        rates = []
        for group in self._adopted():
            s: Tensor = group[S]
            rate = group["lr"] / self.method.divisor(group, s) if group[RATE] is None else group[RATE]
            if isinstance(rate, float):
                rates.append(torch.scalar_tensor(rate, dtype=s.dtype, device=s.device))
            else:
                rates.append(torch.as_tensor(rate, dtype=s.dtype, device=s.device).detach().reshape(()).clone())
        return rates

    @property
    def stepped(self) -> bool:
        """Whether any step has gone through."""
        return any(group.get(RATE) is not None for group in self.base.param_groups)

    def warm_up(self, steps: int) -> None:
        """Let the effective rate rise linearly over the next ``steps`` steps that go through; 0 ends a warm-up.

        The count is saved with the state. ``ValueError`` if ``steps`` is no whole number >= 0.
        """
        require_whole("warmup", steps)
        group = self._adopted()[0]
        group[WARMUP], group[STEPS] = int(steps), 0.0
        schedule.adopt(group)

    def cool(self, factor: float) -> None:
        """Multiply the effective rate of the steps to come by ``factor``, instead of an earlier one.

        Raises:
            ValueError: If ``factor`` is not in [0, 1].
        """
        if not 0.0 <= factor <= 1.0:
            raise ValueError(f"Invalid factor={factor!r}. Must be >= 0 and <= 1.")
        self._inbox.cooling = float(factor)

    # -- stepping ------------------------------------------------------------------------------------------------------

    @lightly_hooked
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Scalar | None = None, **more: Any) -> Any:
        """One step of the base at the adapted learning rate.

        Args:
            closure: Re-evaluates the model and returns the loss; called once, with gradients enabled.
            loss: The loss of this step. It goes before one left by :meth:`record_loss`, that before the closure's.
            **more: Keywords of the base's own ``step``.

        Returns:
            The loss of this step.
        """
        self.base._opt_called = True  # type: ignore[attr-defined]  # a scheduler built on the base asks whether it stepped
        try:
            return self._step(closure, loss, more)
        finally:
            self.discard_loss()  # it serves one step, also one that raises

    def _step(self, closure: Callable[[], Any] | None, loss: Scalar | None, more: Group) -> Any:
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        inbox = self._inbox
        if loss is None and inbox.loss is None:
            if returned is None and only_makes_state(self.base):
                run_step(self.base, **more)
                return None
            if inbox.source is not None:
                inbox.source(returned)
        if loss is None and inbox.loss is not None:
            given, own = inbox.returned(), self._agreed_loss(inbox.loss, recorded=True)
        else:
            given = returned if loss is None else loss
            own = self._agreed_loss(self.method.loss(given), recorded=False)
        self._step_with(own, more)
        if inbox.on_step is not None:
            inbox.on_step(own)
        return given

    def _agreed_loss(self, loss: Scalar | None, *, recorded: bool) -> Scalar | None:
        """The loss of this step, the same on all ranks."""
        return loss

    def _step_with(self, loss: Scalar | None, more: Group) -> None:
        """One step on the host where that waits for nothing, else on the device."""
        inbox, method, vectors = self._inbox, self.method, self._vectors
        is_compiling = torch.compiler.is_compiling()
        groups = self.base.param_groups if is_compiling else self._adopted()
        signal = method.signal(loss, groups)
        found_inf: Tensor | None = self.__dict__.get("found_inf")
        run = partial(self._run_base, more=more) if more else self._run_base
        # a compiler would make a graph for each new float, so for each step
        on_host = self.host_arithmetic and not is_compiling and can_step_on_host(groups, vectors, signal)
        if not on_host:
            # a group that fell back within the step would be handed a found_inf that it cannot take
            withdraw_fused(self.base)
            protects = method.may_fail and self.check_finite
            lends_rates = self.scale == "lr" or inbox.cooling != 1.0 or bool(groups[0].get(WARMUP))
            on_host = has_to_read(self.base, protects=protects, lends_rates=lends_rates)
        if not on_host:
            skip = step_on_device(self.base, method, vectors, signal, found_inf, inbox.cooling, run)
            inbox.last_loss = kept(inbox.last_loss, loss, skip) if isinstance(loss, Tensor) else loss
        elif step_on_host(groups, method, vectors, signal, found_inf, inbox.cooling, run):
            inbox.last_loss = loss.clone() if isinstance(loss, Tensor) else loss

    def _run_base(
        self, rates: Scalars, divisors: Scalars, factor: Scalar, found_inf: Tensor | None, more: Group = _NO_KEYWORDS
    ) -> None:
        with self._lent(rates, divisors, factor):
            run_scaled_step(self.base, self.__dict__.get("grad_scale"), found_inf, more)
        self.method.keep(self.base.param_groups)

    def _lent(self, rates: Scalars, divisors: Scalars, factor: Scalar) -> AbstractContextManager[None]:
        """Learning rates or gradients for one step; what was there comes back also when the step raises."""
        groups = self.base.param_groups
        gradients = self.method.gradients(groups)
        if gradients is None and self.scale == "gradient":
            gradients = divided_gradients(groups, divisors)
        if gradients is None:
            return LentRates(groups, rates, self._is_of_torch)
        if isinstance(factor, float) and factor == 1.0:
            return LentGradients(gradients)
        # a schedule acts on the rate also where b acts on the gradient, which Adam would not notice
        etas = [for_kernels(group["lr"] * factor) for group in groups]
        return lent_both(LentRates(groups, etas, self._is_of_torch), LentGradients(gradients))


def adaptive_in(optimizer: Optimizer) -> RateAdaptive | None:
    """The optimizer if it is adaptive, else the adaptive one in it, as in ``Lookahead(AdaLoss(...))``."""
    return next((one for one in (optimizer, *inner_optimizers(optimizer)) if isinstance(one, RateAdaptive)), None)
