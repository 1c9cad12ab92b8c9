"""The step of an adaptive optimizer in tensors alone: no look at any value, so an accelerator's queue never drains."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from adaloss_lightning.optim.engine._fused import reads_tensor_rates, skips_on_device
from adaloss_lightning.optim.engine.groups import RATE, Column, S, Vectors
from adaloss_lightning.optim.engine.host_step import Run
from adaloss_lightning.optim.engine.wrapper import Group
from adaloss_lightning.optim.method import Method
from adaloss_lightning.optim.recurrence import Scalar
from adaloss_lightning.optim.schedule import count_step, warming


class _Advanced(NamedTuple):
    """Of one group 0-dim tensors; of all groups together vectors, but for `skip`."""

    s: Tensor
    divisor: Tensor
    rate: Tensor
    skip: Tensor


def has_to_read(base: Optimizer, *, protects: bool, lends_rates: bool) -> bool:
    """Whether a step is cheaper with one read of the device, which gives rates that are floats, than without.

    Args:
        base: The optimizer that steps.
        protects: Whether the step is to be left out where the signal is not finite, if nothing on the device stops it.
        lends_rates: Whether the base gets other learning rates than its own.
    """
    if torch.compiler.is_compiling():
        return False
    if any(isinstance(group["lr"], Tensor) and group["lr"].requires_grad for group in base.param_groups):
        return False
    return (protects and not skips_on_device(base)) or (lends_rates and reads_tensor_rates(base))


def step_on_device(
    base: Optimizer,
    method: Method,
    vectors: Vectors,
    signal: Scalar,
    found_inf: Tensor | None,
    cooling: float,
    run: Run,
) -> Tensor:
    """One step; s and the rates stay where the signal is not finite, and so do the parameters of a fused base.

    Args:
        base: The optimizer that ``run`` steps.
        method: What moves s.
        vectors: Of the base's groups.
        signal: What drives this step's accumulators.
        found_inf: Not zero where ``GradScaler`` says that the gradients are not finite.
        cooling: What the rates are multiplied by.
        run: Runs the base's step at these rates.

    Returns:
        Whether the step was skipped, a 0-dim tensor on the device.
    """
    groups = base.param_groups
    if method.waits:
        method.settle_on_device(groups, vectors, signal, found_inf)
    factor = _times(warming(groups), cooling)
    s = vectors.s.vector(groups) if len(groups) > 1 and not torch.compiler.is_compiling() else None
    settings = method.settings(groups)
    keys = None if settings is None else (*settings, "lr")
    merged = None if s is None else vectors.merged(groups, keys, s)
    if s is None or merged is None:
        each = [_advanced(group, method, group[S], signal, found_inf, factor) for group in groups]
        skip = each[0].skip
        run([one.rate for one in each], [one.divisor for one in each], factor, _stop(base, skip, found_inf))
        for group, one in zip(groups, each, strict=True):
            group[RATE] = kept(group[RATE], one.rate.detach().to(one.s.dtype), one.skip)
            group[S].copy_(one.s)
    else:
        new, divisor, rate, skip = _advanced(merged, method, s, signal, found_inf, factor)
        run(rate.unbind(), divisor.unbind(), factor, _stop(base, skip, found_inf))
        _keep_rates(groups, vectors.rates, rate.detach().to(new.dtype), skip)
        s.copy_(new)
    count_step(groups, skip)
    return skip


def _times(rate: Any, factor: Scalar) -> Any:
    return rate if isinstance(factor, float) and factor == 1.0 else rate * factor


def _advanced(
    group: Group, method: Method, s: Tensor, signal: Scalar, found_inf: Tensor | None, factor: Scalar
) -> _Advanced:
    """What this step makes of one group's accumulator, or of the vector of all."""
    with torch.no_grad():
        value = torch.as_tensor(signal, dtype=s.dtype).to(s.device, non_blocking=True)
        moved = torch.as_tensor(method.advance(group, s, value), dtype=s.dtype)
        # not finite where the signal is not, and where the sum is out of range
        skip = ~torch.isfinite(moved) if moved.dim() == 0 else ~torch.isfinite(moved).all()
        if found_inf is not None:
            skip = skip | (found_inf.to(s.device, non_blocking=True).reshape(()) != 0)
        new = torch.where(skip, s, moved)
        divisor = torch.as_tensor(method.divisor(group, new))
    rate = _times(group["lr"] / divisor, factor)
    return _Advanced(new, divisor, for_kernels(rate), skip)


def for_kernels(rate: Any) -> Any:
    """A rate in the dtype in which the fused kernels of an accelerator read a tensor lr."""
    return rate.to(torch.float32) if isinstance(rate, Tensor) and not rate.is_cpu else rate


def _stop(base: Optimizer, skip: Tensor, found_inf: Tensor | None) -> Tensor | None:
    """What tells the base's kernel to change nothing."""
    return skip.to(torch.float32) if skips_on_device(base) else found_inf


def _keep_rates(groups: Sequence[Group], column: Column, rates: Tensor, skip: Tensor) -> None:
    for group, rate in zip(groups, rates.unbind(), strict=True):
        last = group[RATE]
        if not isinstance(last, Tensor) or (last.device, last.dtype) != (rate.device, rate.dtype):
            # none yet, or from the host or a file
            group[RATE] = rate if last is None else torch.as_tensor(last).to(rate, non_blocking=True)
    kept(column.vector(groups), rates, skip)


def kept(last: Scalar | None, new: Tensor, skip: Tensor) -> Tensor:
    """`new`, or `last` where the step was skipped; in the memory of `last`, which a captured CUDA graph reads again."""
    if isinstance(last, Tensor) and (last.device, last.dtype, last.shape) == (new.device, new.dtype, new.shape):
        return last.copy_(torch.where(skip, last, new))
    return new.clone() if last is None else torch.where(skip, last, new)
