r"""The equations of the paper as pure functions, and a plain step that follows them.

AdaLoss (Wu, Xie, Du, Ward, AAAI 2022, Algorithm 1) and AdamLoss (Algorithm 2) are one recurrence

.. math:: s_{t+1} = s_t + \alpha \, |f_t(w_t) - c|, \qquad \eta_t = \eta / \sqrt{s_{t+1}}

that differs in its start alone: :math:`s_0 = b_0^2` for AdaLoss (so :math:`b = \sqrt{s}`), :math:`s_0 = b_0` for
AdamLoss (so :math:`b = s`, and the step is :math:`\eta / \sqrt{b}`).

With ``alpha="auto"`` the loss is measured in units of the first one, :math:`F = |f_1 - c|`, so that its unit does not
matter: s grows by :math:`|f - c| / F`, and AdaLoss divides the gradient by :math:`b = F \sqrt{s}`, which has its unit.
Written out, AdaLoss starts at :math:`F b_0` and has :math:`\alpha = F`, AdamLoss has :math:`\alpha = 1 / F`. AdaSPS
(Jiang and Stich, NeurIPS 2023) scales by the initial loss in the same way.

Every function takes Python floats or 0-dim float64 tensors and returns the same kind: floats are the faster arithmetic
on the CPU, tensors keep an accelerator from waiting for the host.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.optim import Optimizer

Rule = Literal["adaloss", "adamloss"]
RULES: tuple[Rule, ...] = ("adaloss", "adamloss")
Scalar = float | Tensor
Alpha = float | Literal["auto"]
AUTO: Literal["auto"] = "auto"  # the alpha of a loss that is measured in units of the first one
FLOOR = 1e-7  # a first |loss - c| up to here is rounding, as of PPO's first surrogate, and no unit


def start(b0: float, rule: Rule) -> float:
    """The accumulator before the first step: ``b0**2`` for ``"adaloss"``, ``b0`` for ``"adamloss"``."""
    return b0 * b0 if rule == "adaloss" else b0


def advance(s: Scalar, loss: Scalar, alpha: float, c: float) -> Scalar:
    """One step of the recurrence: ``s + alpha * |loss - c|``."""
    distance: Any = abs(loss - c)
    new: Scalar = s + alpha * distance
    if isinstance(new, Tensor) and isinstance(s, float):  # a setting is a tensor, whose float32 would become that of s
        return advance(s, float(loss), float(alpha), float(c))
    return new


def divisor(s: Scalar) -> Scalar:
    """What eta is divided by: ``sqrt(s)``. Of a tensor to the last bit or the one before it, as torch computes it."""
    return torch.sqrt(s) if isinstance(s, Tensor) else math.sqrt(s)


def b(s: Scalar, rule: Rule) -> Scalar:
    """The paper's b: ``sqrt(s)`` for ``"adaloss"``, ``s`` for ``"adamloss"``."""
    return divisor(s) if rule == "adaloss" else s


def reference_step(
    base: Optimizer,
    accumulators: Sequence[float],
    signal: float,
    *,
    alpha: float = 1.0,
    c: float = 0.0,
    divisor: Callable[[float], Any] = divisor,
) -> list[float]:
    """One adaptive step of ``base``, the equations in the paper's order and nothing else.

    The optimizers of this package do the same faster, on accelerators without a look at any value, and with a loss that
    is averaged over the ranks. A test holds them to this function.

    Args:
        base: Any optimizer; ``group["lr"]`` is the paper's eta.
        accumulators: s of each parameter group.
        signal: What drives s: the loss for AdaLoss and AdamLoss, the squared norm of the gradient for AdaGrad-Norm, 1
            for the schedules.
        alpha: How strongly the signal feeds s.
        c: Surrogate of the optimal loss.
        divisor: What eta is divided by, from the new s.

    Returns:
        The new s of each group.
    """
    if not math.isfinite(signal):
        return list(accumulators)
    advanced = [s + alpha * abs(signal - c) for s in accumulators]
    etas = [group["lr"] for group in base.param_groups]
    for group, eta, s in zip(base.param_groups, etas, advanced, strict=True):
        group["lr"] = eta / divisor(s)
    base.step()
    for group, eta in zip(base.param_groups, etas, strict=True):
        group["lr"] = eta
    return advanced
