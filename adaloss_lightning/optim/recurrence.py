r"""The recurrence behind every method here, as pure functions.

AdaLoss (Wu, Xie, Du, Ward, AAAI 2022, Algorithm 1) and AdamLoss (Algorithm 2) are one recurrence

.. math:: s_{t+1} = s_t + \alpha \, |f_t(w_t) - c|, \qquad \eta_t = \eta / \sqrt{s_{t+1}}

that differs in its start alone: :math:`s_0 = b_0^2` for AdaLoss (so :math:`b = \sqrt{s}`), :math:`s_0 = b_0` for
AdamLoss (so :math:`b = s`, and the step is :math:`\eta / \sqrt{b}`).

Every function takes Python floats or 0-dim float64 tensors alike and returns the same kind: floats are the faster
arithmetic on the CPU, tensors are what keeps an accelerator from waiting for the host.
"""

import math
from collections.abc import Sequence
from typing import Any, Literal, overload

import torch
from torch import Tensor

from adaloss_lightning.optim.validation import require_number

Rule = Literal["adaloss", "adamloss"]
RULES: tuple[Rule, ...] = ("adaloss", "adamloss")

Scalar = float | Tensor
_NUMBERS = frozenset((float, int))


@overload
def sqrt(x: float) -> float: ...
@overload
def sqrt(x: Tensor) -> Tensor: ...
@overload
def sqrt(x: Scalar) -> Scalar: ...
def sqrt(x: Scalar) -> Scalar:
    """Square root; of a tensor to the last bit or the one before it, as torch computes it."""
    return torch.sqrt(x) if isinstance(x, Tensor) else math.sqrt(x)


def start(b0: float, rule: Rule) -> float:
    """The accumulator before the first step: ``b0**2`` for ``"adaloss"``, ``b0`` for ``"adamloss"``."""
    return b0 * b0 if rule == "adaloss" else b0


def require_b0(b0: float, rule: Rule) -> None:
    """Raise ``ValueError`` unless ``b0`` is a number > 0 from which the accumulator can start."""
    require_number("b0", b0, above=0)
    if not 0 < start(b0, rule) < float("inf"):
        raise ValueError(f"Invalid b0={b0!r}. Must be > 0 and have a square that float64 can hold.")


def advance(s: Scalar, loss: Scalar, alpha: float, c: float) -> Scalar:
    """One step of the recurrence: ``s + alpha * |loss - c|``."""
    distance: Any = abs(loss - c)
    new: Scalar = s + alpha * distance
    if isinstance(new, Tensor) and isinstance(s, float):  # a setting is a tensor, whose float32 would be that of s
        return advance(s, float(loss), float(alpha), float(c))
    return new


def denominator(s: Tensor, rule: Rule) -> Tensor:
    """The paper's ``b``: ``sqrt(s)`` for ``"adaloss"``, ``s`` for ``"adamloss"``."""
    return sqrt(s) if rule == "adaloss" else s


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


def are_numbers(values: Sequence[object]) -> bool:
    """Whether all are Python's own numbers; a thousand take as long to ask as one tensor operation."""
    return _NUMBERS.issuperset(map(type, values))


def read(scalars: Sequence[Scalar]) -> list[float]:
    """The values on the host; where tensors lie on an accelerator, all in one read."""
    if are_numbers(scalars):
        return list(scalars)  # type: ignore[arg-type]
    for x in scalars:
        if isinstance(x, Tensor) and not x.is_cpu:
            return _read_at_once(scalars, x.device)
    return [x.item() if isinstance(x, Tensor) else float(x) for x in scalars]  # NumPy's float64 is a float, too


def _read_at_once(scalars: Sequence[Scalar], device: torch.device) -> list[float]:
    columns = [torch.as_tensor(x).detach().to(device, torch.float64, non_blocking=True).reshape(()) for x in scalars]
    return list(torch.stack(columns).tolist())
