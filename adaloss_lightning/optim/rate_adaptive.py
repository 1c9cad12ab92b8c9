"""A base optimizer that runs each step at eta / sqrt(s), for whatever rule moves the accumulator s."""

import inspect
import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from adaloss_lightning.optim.engine.base import LentRates, lent_amp, lent_gradients, require_adaptable, run_step
from adaloss_lightning.optim.engine.fused import skips_on_device, withdraw_fused
from adaloss_lightning.optim.engine.groups import Column, MergedGroup
from adaloss_lightning.optim.engine.inbox import Inbox
from adaloss_lightning.optim.engine.traits import class_of_torch, inner_optimizers, wants_one_rate
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group, OptimizerWrapper, device_of, lightly_hooked
from adaloss_lightning.optim.recurrence import Scalar, are_numbers, as_scalar, read, sqrt
from adaloss_lightning.optim.validation import require_choice, require_number

Scale = Literal["lr", "gradient"]

B0 = PREFIX + "b0"
S = PREFIX + "s"  # accumulator: 0-dim, float64, on the device of the group's parameters
RATE = PREFIX + "effective_lr"  # learning rate of the last step, None before the first
_FLOAT64 = torch.empty((), dtype=torch.float64)
_Advanced = tuple[list[float], list[float], list[float]]
_MANY = 16  # groups from which on one operation on a vector is faster than Python's own arithmetic for each


class _AdvancedOnDevice(NamedTuple):
    """Of one group 0-dim tensors; of all groups together vectors, but for `skip`."""

    s: Tensor
    denominator: Tensor
    rate: Tensor
    skip: Tensor


class RateAdaptive(OptimizerWrapper):
    r"""Runs ``base`` with its learning rate divided by a denominator that changes at each step.

    Each parameter group owns an accumulator s. A step computes a new s from a signal (the loss for
    :class:`~adaloss_lightning.LossAdaptive`, the gradient norm or nothing for the baselines), lends the base
    :math:`\eta / \sqrt{s}` in place of ``group["lr"]`` for just that step, and keeps s only if the step went through.

    ``param_groups`` and ``state`` are the base's own, so schedulers, checkpoints and everything that reads groups work
    as they do on the base. This is composition: torch's own kernels do all arithmetic on parameters.

    Args:
        base: The optimizer to adapt. It must use ``group["lr"]`` at each step and need no closure.
        settings: Default settings of a parameter group, their names with the prefix ``adaloss_``.
        scale: ``"lr"`` divides the learning rate (and with it coupled weight decay) by b. ``"gradient"`` divides the
            gradients, as the paper's public code does by scaling the loss: weight decay is then not divided by b, and
            momentum buffers hold g/b. It costs one more pass over the gradients.

    Raises:
        TypeError: If ``base`` is no ``torch.optim.Optimizer``.
        ValueError: If ``base`` cannot be adapted, or a setting is out of its bounds.
    """

    scale: Scale
    _one_rate: bool = False  # the base takes one learning rate for all groups, so they share settings and s
    _evolving: tuple[str, ...] = (S, RATE)
    _used: tuple[str, ...] = ()  # settings that _advance and _denominator read

    def __init__(self, base: Optimizer, settings: Group, *, scale: Scale = "lr", **attributes: Any) -> None:
        adaptive = adaptive_in(base)
        if adaptive is not None:
            raise ValueError(
                f"Invalid base={type(base).__name__}. Must be a plain optimizer: {type(adaptive).__name__} is adaptive "
                "already."
            )
        require_adaptable(base)
        require_choice("scale", scale, ("lr", "gradient"))
        self._one_rate = wants_one_rate(base)  # before the groups are validated
        super().__init__(base, settings, scale=scale, _one_rate=self._one_rate, **attributes)

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
        self._is_of_torch = class_of_torch(state["base"]) is not None
        self._s, self._rate, self._merged = Column(S), Column(RATE), MergedGroup()
        super().__setstate__(state)

    def _validate(self, settings: Group) -> None:
        require_number("lr", settings["lr"], at_least=0)  # the rest is the base's own to check

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
        s = group[S] if S in group else self._start_beside_others(group)
        group[S] = torch.as_tensor(s, dtype=dtype).to(device, copy=True)

    def _start_beside_others(self, group: Group) -> Scalar:
        if self._one_rate:
            for other in self.base.param_groups:
                if S in other:
                    s: Tensor = other[S]
                    return s
        return self._start(group)

    def _adopted(self) -> list[Group]:
        """The groups, also those that were added to the base behind our back, or have moved, as by ``model.cuda()``."""
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

    # -- what a method defines -----------------------------------------------------------------------------------------

    def _start(self, group: Group) -> float:
        """The accumulator before the first step."""
        raise NotImplementedError

    def _signal(self, loss: Scalar | None, recorded: bool) -> Scalar:
        """What drives this step's accumulators. A signal that is not finite skips the step."""
        raise NotImplementedError

    def _advance(self, group: Group, s: Scalar, signal: Scalar) -> Scalar:
        """The new accumulator."""
        raise NotImplementedError

    def _denominator(self, group: Group, s: Scalar) -> Scalar:
        """What eta is divided by."""
        return sqrt(s)

    def _b(self, group: Group) -> Tensor:
        """The paper's b, a new 0-dim tensor."""
        s: Tensor = group[S]
        return sqrt(s)

    # -- reading -------------------------------------------------------------------------------------------------------

    @property
    def b(self) -> list[Tensor]:
        """The paper's b: one 0-dim float64 tensor per parameter group, on its device. Reading it waits for nothing."""
        return [self._b(group) for group in self._adopted()]

    @property
    def effective_lr(self) -> list[Tensor]:
        """Learning rate of the last step, one 0-dim tensor per group; before any step eta over the denominator."""
        rates = []
        for group in self._adopted():
            s: Tensor = group[S]
            rate = group["lr"] / self._denominator(group, s) if group[RATE] is None else group[RATE]
            if isinstance(rate, float):
                rates.append(torch.scalar_tensor(rate, dtype=s.dtype, device=s.device))
            else:
                rates.append(torch.as_tensor(rate, dtype=s.dtype, device=s.device).detach().reshape(()).clone())
        return rates

    @property
    def last_loss(self) -> Tensor | None:
        """The loss that the last step saw, a 0-dim tensor; None before any."""
        loss = self._inbox.last_loss
        if loss is None:
            return None
        return loss.clone() if isinstance(loss, Tensor) else torch.scalar_tensor(loss, dtype=torch.float64)

    @property
    def stepped(self) -> bool:
        """Whether any step has gone through."""
        return any(group.get(RATE) is not None for group in self.base.param_groups)

    # -- stepping ------------------------------------------------------------------------------------------------------

    def feed(self, source: Callable[[Any], None] | None, on_step: Callable[[], None] | None) -> None:
        """Let a callback feed the steps.

        Args:
            source: Called in a step that has no loss yet, with what the closure returned: it may record one.
            on_step: Called at the end of each step.
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
        value = as_scalar(loss)
        inbox = self._inbox
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
        returned = None
        if closure is not None:
            with torch.enable_grad():
                returned = closure()
        inbox = self._inbox
        if loss is None and inbox.loss is None:
            if returned is None and self._only_makes_state():
                run_step(self.base, **more)
                return None
            if inbox.source is not None:
                inbox.source(returned)
        recorded = loss is None and inbox.loss is not None
        given = returned if loss is None else loss
        if recorded:
            given = inbox.loss
            if inbox.dtype is not None and isinstance(given, float):
                given = torch.tensor(given, dtype=inbox.dtype)
        value = inbox.loss if recorded else None if given is None else as_scalar(given)
        signal = self._signal(value, recorded)
        if self._on_host(signal):
            self._step_on_host(signal, more)
        else:
            # a group that fell back within the step would be handed a found_inf that it cannot take
            withdraw_fused(self.base)
            if self._has_to_read():
                self._step_on_host(signal, more)
            else:
                self._step_on_device(signal, more)
        inbox.loss = inbox.mean = None
        if inbox.on_step is not None:
            inbox.on_step()
        return given

    def _only_makes_state(self) -> bool:
        """Whether a step without a loss is there to make the base's state, and is to leave s alone."""
        return False

    def _has_to_read(self) -> bool:
        """Whether a step on an accelerator has to look at its signal on the host."""
        return False

    def _only_host_can_skip(self) -> bool:
        """Whether nothing would stop the base on the device when the signal is not finite."""
        if skips_on_device(self.base) or torch.compiler.is_compiling():
            return False
        return not any(map(differentiates_lr, self.param_groups))

    def _on_host(self, signal: Scalar) -> bool:
        """Whether the host does this step's scalar arithmetic: faster, wherever there is nothing to wait for."""
        if torch.compiler.is_compiling():  # a new float at each step would mean a new graph at each step
            return False
        groups = self._adopted()
        if isinstance(signal, Tensor) and not signal.is_cpu:
            return False
        if not all(s.is_cpu for s in self._s.parts(groups)):
            return False
        lrs = [group["lr"] for group in groups]
        return are_numbers(lrs) or not any(isinstance(lr, Tensor) and lr.requires_grad for lr in lrs)

    def _as_one(self, groups: Sequence[Group], like: Tensor, *more: str) -> Group | None:
        """The groups as one for `_advance` and `_denominator`, where that is the same arithmetic."""
        return self._merged.of(groups, (*self._used, *more), like)

    def _step_on_host(self, signal: Scalar, more: Group) -> None:
        groups = self.base.param_groups
        found_inf: Tensor | None = self.__dict__.get("found_inf")
        memory = self._s.memory(groups)
        scalars = [signal, 0.0 if found_inf is None else found_inf, *[group["lr"] for group in groups]]
        if memory is None:  # on an accelerator everything comes in one read
            scalars += [group[S] for group in groups]
        value, overflow, *rest = read(scalars)
        if value - value != 0.0 or overflow != 0.0:  # inf - inf is NaN
            return
        etas = rest[: len(groups)]
        before = rest[len(groups) :] if memory is None else memory.tolist()
        merged = self._as_one(groups, _FLOAT64) if len(groups) >= _MANY else None
        accumulators, denominators, rates = (
            self._advance_each(groups, before, value, etas)
            if merged is None
            else self._advance_merged(merged, before, value, etas)
        )
        if not all(map(math.isfinite, accumulators)):  # the loss is so large that s would be lost for good
            return
        self._run_base(rates, denominators, found_inf, more)
        if memory is None:
            for group, s in zip(groups, accumulators, strict=True):
                group[S].fill_(s)
        else:
            memory[:] = accumulators
        for group, rate in zip(groups, rates, strict=True):
            group[RATE] = rate
        self._saw(value)

    def _advance_each(self, groups: Sequence[Group], before: list[float], value: float, etas: list[float]) -> _Advanced:
        """New accumulators, denominators and rates, in Python's arithmetic."""
        accumulators, denominators, rates = [], [], []
        for group, last, eta in zip(groups, before, etas, strict=True):
            new = self._advance(group, last, value)
            denominators.append(self._denominator(group, new))
            accumulators.append(new)
            rates.append(eta / denominators[-1])
        return accumulators, denominators, rates  # type: ignore[return-value]  # floats make floats

    def _advance_merged(self, merged: Group, before: list[float], value: float, etas: list[float]) -> _Advanced:
        """The same for many groups in one vector's; torch's square root may be off by the last bit."""
        s = torch.as_tensor(self._advance(merged, torch.tensor(before, dtype=torch.float64), value))
        denominator = torch.as_tensor(self._denominator(merged, s))
        eta = torch.tensor(etas[0] if etas.count(etas[0]) == len(etas) else etas, dtype=s.dtype)
        return s.tolist(), denominator.tolist(), (eta / denominator).tolist()

    def _step_on_device(self, signal: Scalar, more: Group) -> None:
        """The same step without a look at any value, so that an accelerator's queue never drains."""
        groups = self.param_groups
        vector = self._s.vector(groups) if len(groups) > 1 and not torch.compiler.is_compiling() else None
        merged = None if vector is None else self._as_one(groups, vector, "lr")
        if vector is None or merged is None:
            each = [self._advanced(group, group[S], signal) for group in groups]
            skip = each[0].skip
            self._run_base([one.rate for one in each], [one.denominator for one in each], self._stop(skip), more)
            for group, one in zip(groups, each, strict=True):
                group[RATE] = _kept(group[RATE], one.rate.detach().to(one.s.dtype), one.skip)
                group[S].copy_(one.s)
        else:
            all_of_them = self._advanced(merged, vector, signal)
            skip = all_of_them.skip
            self._run_base(all_of_them.rate.unbind(), all_of_them.denominator.unbind(), self._stop(skip), more)
            self._keep_rates(groups, all_of_them.rate.detach().to(all_of_them.s.dtype), skip)
            vector.copy_(all_of_them.s)
        self._saw(signal, skip)

    def _advanced(self, group: Group, s: Tensor, signal: Scalar) -> _AdvancedOnDevice:
        """What this step makes of one group's accumulator, or of the vector of all."""
        found_inf: Tensor | None = getattr(self, "found_inf", None)
        with torch.no_grad():
            value = torch.as_tensor(signal, dtype=s.dtype).to(s.device, non_blocking=True)
            moved = torch.as_tensor(self._advance(group, s, value), dtype=s.dtype)
            # not finite where the signal is not, and where the sum is out of range
            skip = ~torch.isfinite(moved) if moved.dim() == 0 else ~torch.isfinite(moved).all()
            if found_inf is not None:
                skip = skip | (found_inf.to(s.device, non_blocking=True).reshape(()) != 0)
            new = torch.where(skip, s, moved)
            denominator = torch.as_tensor(self._denominator(group, new))
        rate = group["lr"] / denominator
        # the dtype in which the fused kernels of an accelerator read a tensor lr
        return _AdvancedOnDevice(new, denominator, rate if s.is_cpu else rate.to(torch.float32), skip)

    def _stop(self, skip: Tensor) -> Tensor | None:
        """What tells the base's kernel to change nothing."""
        return skip.to(torch.float32) if skips_on_device(self.base) else getattr(self, "found_inf", None)

    def _keep_rates(self, groups: Sequence[Group], rates: Tensor, skip: Tensor) -> None:
        for group, rate in zip(groups, rates.unbind(), strict=True):
            last = group[RATE]
            if not isinstance(last, Tensor) or last.device != rate.device:  # none yet, or from the host or a file
                group[RATE] = rate if last is None else torch.as_tensor(last).to(rate, non_blocking=True)
        last = self._rate.vector(groups)
        if last is None:
            self._rate.put(groups, rates)
        else:
            _kept(last, rates, skip)

    def _saw(self, signal: Scalar, skip: Tensor | None = None) -> None:
        """Remember what :attr:`last_loss` reports."""
        if skip is None or not isinstance(signal, Tensor):
            self._inbox.last_loss = signal
        else:
            self._inbox.last_loss = _kept(self._inbox.last_loss, signal, skip)

    def _run_base(
        self, rates: Sequence[Scalar], denominators: Sequence[Scalar], found_inf: Tensor | None, more: Group
    ) -> None:
        grad_scale: Tensor | None = self.__dict__.get("grad_scale")
        with self._lent(rates, denominators):
            if grad_scale is None and found_inf is None:
                run_step(self.base, **more)
            else:
                with lent_amp(self.base, grad_scale, found_inf):
                    run_step(self.base, **more)

    def _lent(self, rates: Sequence[Scalar], denominators: Sequence[Scalar]) -> AbstractContextManager[None]:
        """Learning rates or gradients for one step; what was there comes back also when the step raises."""
        if self.scale == "gradient":
            divided = zip(self.param_groups, denominators, strict=True)
            pairs = ((p, denominator) for group, denominator in divided for p in group["params"])
            return lent_gradients((p, p.grad / denominator) for p, denominator in pairs if p.grad is not None)
        return LentRates(self.base.param_groups, rates, self._is_of_torch)


def adaptive_in(optimizer: Optimizer) -> RateAdaptive | None:
    """The optimizer if it is adaptive, else the adaptive one in it, as in ``Lookahead(AdaLoss(...))``."""
    return next((one for one in (optimizer, *inner_optimizers(optimizer)) if isinstance(one, RateAdaptive)), None)


def _takes_keyword(step: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(step).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _kept(last: Scalar | None, new: Tensor, skip: Tensor) -> Tensor:
    """`new`, or `last` where the step was skipped; in the memory of `last`, which a captured CUDA graph reads again."""
    if isinstance(last, Tensor) and (last.device, last.dtype, last.shape) == (new.device, new.dtype, new.shape):
        return last.copy_(torch.where(skip, last, new))
    return new.clone() if last is None else torch.where(skip, last, new)


def differentiates_lr(group: Group) -> bool:
    """Whether the learning rate is a tensor that a gradient flows into."""
    return isinstance(group["lr"], Tensor) and group["lr"].requires_grad
