"""The schedules that the paper compares with, SGD-DecaySqrt and AdamSqrt, and what all of its baselines share.

They are built, saved and read like :class:`~adaloss_lightning.AdaLoss`, so that one training script runs all of them:
they accept a loss and ignore it. SGD-Constant is ``AdaLoss(alpha=0)``, Adam at eta / sqrt(b0) is ``AdamLoss(alpha=0)``.
"""

from typing import Literal

import torch
from torch import Tensor

from adaloss_lightning.optim.adaloss import Params
from adaloss_lightning.optim.engine import fused as bases
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group
from adaloss_lightning.optim.rate_adaptive import B0, RateAdaptive, S
from adaloss_lightning.optim.recurrence import Rule, Scalar, require_b0, sqrt, start
from adaloss_lightning.optim.validation import require_choice, require_number, require_rate_settings

FORM = PREFIX + "form"
C_S = PREFIX + "c_s"


class Baseline(RateAdaptive):
    """A method that needs no loss. One that it is given is kept for :attr:`last_loss` and otherwise ignored."""

    def _validate(self, settings: Group) -> None:
        super()._validate(settings)
        require_rate_settings(settings)
        require_b0(settings[B0], self._rule(settings))

    def _rule(self, group: Group) -> Rule:
        """What b0 starts."""
        return "adaloss"

    def _start(self, group: Group) -> float:
        return start(group[B0], self._rule(group))

    def _signal(self, loss: Scalar | None, recorded: bool) -> Scalar:
        self._inbox.last_loss = loss
        return 1.0

    def _advance(self, group: Group, s: Scalar, signal: Scalar) -> Scalar:
        return s + signal

    def _saw(self, signal: Scalar, skip: Tensor | None = None) -> None:
        """The signal is no loss."""


class SGDDecaySqrt(Baseline):
    r"""SGD whose step decays with the square root of time, in either of the forms the paper runs.

    .. math:: w_t = w_{t-1} - \frac{\eta}{b_t} \, g_t, \qquad
        b_t = \sqrt{b_0^2 + t} \;\text{(root)} \quad\text{or}\quad b_t = b_0 + c_s \sqrt t \;\text{(linear)}

    for t = 1, 2, ... Source: the AdaLoss paper, Table 1 (root) and Section 3, Figure 1 (linear).

    Args:
        params: As for ``torch.optim.SGD``.
        lr: The paper's eta, >= 0.
        b0: Start of b, > 0.
        form: ``"root"`` or ``"linear"``.
        c_s: Factor of the linear form, >= 0.
        momentum, dampening, nesterov, weight_decay, maximize, foreach, differentiable, fused: As for
            ``torch.optim.SGD``.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds.
    """

    _used = (B0, C_S, FORM)

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.1,
        *,
        b0: float = 1.0,
        form: Literal["root", "linear"] = "root",
        c_s: float = 1.0,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        base = sgd(params, lr, momentum, dampening, nesterov, weight_decay, maximize, foreach, fused, differentiable)
        super().__init__(base, {B0: b0, C_S: c_s, FORM: form})

    def _validate(self, settings: Group) -> None:
        require_choice("form", settings[FORM], ("root", "linear"))
        super()._validate(settings)
        require_number("c_s", settings[C_S], at_least=0)

    def _rule(self, group: Group) -> Rule:
        return "adaloss" if group[FORM] == "root" else "adamloss"  # the linear form squares nothing

    def _start(self, group: Group) -> float:
        return super()._start(group) if group[FORM] == "root" else 0.0  # the linear form counts t itself

    def _denominator(self, group: Group, s: Scalar) -> Scalar:
        return sqrt(s) if group[FORM] == "root" else group[B0] + group[C_S] * sqrt(s)

    def _b(self, group: Group) -> Tensor:
        return torch.as_tensor(self._denominator(group, group[S]))


class AdamSqrt(Baseline):
    r"""AdamSqrt: Adam at the rate :math:`\eta / \sqrt{b_0 + t}` for t = 1, 2, ... (the AdaLoss paper, Section 5).

    Args:
        params: As for ``torch.optim.Adam``.
        lr: The paper's eta, >= 0.
        b0: Start of b, > 0.
        betas, eps, weight_decay, amsgrad, decoupled_weight_decay, maximize, foreach, capturable, differentiable, fused:
            As for :class:`~adaloss_lightning.AdamLoss`.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        *,
        b0: float = 1.0,
        betas: tuple[float | Tensor, float | Tensor] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        decoupled_weight_decay: bool = False,
        maximize: bool = False,
        foreach: bool | None = None,
        capturable: bool = False,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        require_rate_settings({"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        base = bases.Adam(
            params,
            lr,
            (betas[0], betas[1]),
            eps,
            weight_decay,
            amsgrad,
            maximize=maximize,
            foreach=foreach,
            capturable=capturable,
            differentiable=differentiable,
            fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )
        super().__init__(base, {B0: b0})

    def _rule(self, group: Group) -> Rule:
        return "adamloss"

    def _b(self, group: Group) -> Tensor:
        b: Tensor = group[S].clone()
        return b


def sgd(
    params: Params, lr: float | Tensor, momentum: float, dampening: float, nesterov: bool, weight_decay: float,
    maximize: bool, foreach: bool | None, fused: bool | None, differentiable: bool = False,
) -> bases.SGD:  # fmt: skip
    """The SGD that a baseline divides the steps of, its settings checked."""
    settings = (lr, momentum, dampening, weight_decay, nesterov)
    require_rate_settings(dict(zip(("lr", "momentum", "dampening", "weight_decay", "nesterov"), settings, strict=True)))
    return bases.SGD(params, *settings, maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused)
