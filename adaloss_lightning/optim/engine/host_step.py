"""The step of an adaptive optimizer in the host's own arithmetic: the fastest where nothing lies on an accelerator."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from adaloss_lightning.optim.engine.groups import RATE, S, Vectors, are_numbers
from adaloss_lightning.optim.engine.wrapper import Group
from adaloss_lightning.optim.method import Method
from adaloss_lightning.optim.recurrence import Scalar
from adaloss_lightning.optim.schedule import count_step, warming

MANY = 16  # groups from which on one operation on a vector is faster than Python's own arithmetic for each
Run = Callable[[Sequence[Scalar], Sequence[Scalar], Scalar, Tensor | None], None]  # rates, divisors, factor, found_inf
_FLOAT64 = torch.empty((), dtype=torch.float64)
_Advanced = tuple[list[float], list[float], list[float]]


def can_step_on_host(groups: Sequence[Group], vectors: Vectors, signal: Scalar) -> bool:
    """Whether the host may do this step's scalar arithmetic without waiting for a device."""
    if isinstance(signal, Tensor) and not signal.is_cpu:
        return False
    vector = vectors.s.vector(groups)
    if not (all(group[S].is_cpu for group in groups) if vector is None else vector.is_cpu):
        return False
    lrs = [group["lr"] for group in groups]
    return are_numbers(lrs) or not any(isinstance(lr, Tensor) and lr.requires_grad for lr in lrs)


def step_on_host(
    groups: Sequence[Group],
    method: Method,
    vectors: Vectors,
    signal: Scalar,
    found_inf: Tensor | None,
    cooling: float,
    run: Run,
) -> bool:
    """One step; False, and nothing changed, where the signal is not finite or would bring s out of range.

    Args:
        groups: Of the base.
        method: What moves s.
        vectors: Of the groups.
        signal: What drives this step's accumulators.
        found_inf: Not zero where ``GradScaler`` says that the gradients are not finite.
        cooling: What the rates are multiplied by.
        run: Runs the base's step at these rates.
    """
    memory = vectors.s.memory(groups)
    overflows = 0.0 if found_inf is None else found_inf
    scalars = [signal, overflows, warming(groups), *[group["lr"] for group in groups]]
    if memory is None:  # on an accelerator everything comes in one read
        scalars += [group[S] for group in groups]
    value, overflow, ramp, *rest = read(scalars)
    if value - value != 0.0 or overflow != 0.0:  # inf - inf is NaN
        return False
    etas = rest[: len(groups)]
    before = rest[len(groups) :] if memory is None else memory.tolist()
    if method.waits:
        method.settle(groups, value)
    merged = vectors.merged(groups, method.settings(groups), _FLOAT64) if len(groups) >= MANY else None
    if merged is None:
        accumulators, divisors, rates = _advance_each(groups, method, before, value, etas)
    else:
        accumulators, divisors, rates = _advance_merged(merged, method, before, value, etas)
    if not all(map(math.isfinite, accumulators)):  # the loss is so large that s would be lost for good
        return False
    factor = cooling * ramp
    if factor != 1.0:
        rates = [rate * factor for rate in rates]
    run(rates, divisors, factor, found_inf)
    if memory is None:
        for group, s in zip(groups, accumulators, strict=True):
            group[S].fill_(s)
    else:
        memory[:] = accumulators
    for group, rate in zip(groups, rates, strict=True):
        group[RATE] = rate
    count_step(groups)
    return True


def _advance_each(
    groups: Sequence[Group], method: Method, before: list[float], value: float, etas: list[float]
) -> _Advanced:
    """New accumulators, divisors and rates, in Python's arithmetic."""
    accumulators, divisors, rates = [], [], []
    for group, last, eta in zip(groups, before, etas, strict=True):
        s = method.advance(group, last, value)
        divisor = method.divisor(group, s)
        accumulators.append(s)
        divisors.append(divisor)
        rates.append(eta / divisor)
    return accumulators, divisors, rates  # type: ignore[return-value]  # floats make floats


def _advance_merged(merged: Group, method: Method, before: list[float], value: float, etas: list[float]) -> _Advanced:
    """The same for many groups in one vector's; torch's square root may be off by the last bit."""
    s = torch.as_tensor(method.advance(merged, torch.tensor(before, dtype=torch.float64), value))
    divisor = torch.as_tensor(method.divisor(merged, s))
    eta = torch.tensor(etas[0] if etas.count(etas[0]) == len(etas) else etas, dtype=s.dtype)
    return s.tolist(), divisor.tolist(), (eta / divisor).tolist()


def read(scalars: Sequence[Any]) -> list[float]:
    """The values on the host; where tensors lie on an accelerator, all in one read."""
    if are_numbers(scalars):
        return list(scalars)
    device = next((x.device for x in scalars if isinstance(x, Tensor) and not x.is_cpu), None)
    if device is not None:
        dtype = torch.float32 if device.type == "mps" else torch.float64  # MPS has no float64
        columns = [torch.as_tensor(x).detach().to(device, dtype, non_blocking=True) for x in scalars]
        return list(torch.stack([column.reshape(()) for column in columns]).tolist())
    return [x.item() if isinstance(x, Tensor) else float(x) for x in scalars]  # NumPy's float64 is a float, too
