"""SGDDecaySqrt and AdamSqrt: the schedules that the paper compares with.

They are built, saved and read like :class:`~adaloss_lightning.AdaLoss`, so that one training script runs all of them:
they accept a loss and ignore it. SGD-Constant is ``AdaLoss(alpha=0)``, Adam at eta / sqrt(b0) is ``AdamLoss(alpha=0)``.
"""

from collections.abc import Sequence
from typing import Literal

from torch import Tensor

from adaloss_lightning.optim.engine import _fused as bases
from adaloss_lightning.optim.engine.fused_choice import Params
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group
from adaloss_lightning.optim.method import B0, Method
from adaloss_lightning.optim.rate_adaptive import RateAdaptive, Scale
from adaloss_lightning.optim.recurrence import Rule, Scalar
from adaloss_lightning.optim.validation import require_choice, require_number

FORM = PREFIX + "form"
C_S = PREFIX + "c_s"


class _TimeDriven(Method):
    """s counts the steps. A loss is not needed; one that is given is not looked at."""

    may_fail = False

    def signal(self, loss: Scalar | None, groups: Sequence[Group]) -> Scalar:
        return 1.0


class _FromB0(_TimeDriven):
    """AdamSqrt: b counts the steps, from b0."""

    def rule(self, group: Group) -> Rule:
        return "adamloss"


class _SqrtDecay(_TimeDriven):
    """SGDDecaySqrt: ``root`` divides by ``sqrt(b0**2 + t)``, ``linear`` by ``b0 + c_s * sqrt(t)``."""

    def settings(self, groups: Sequence[Group]) -> tuple[str, ...]:
        return (B0, C_S, FORM)

    def rule(self, group: Group) -> Rule:
        return "adaloss" if group[FORM] == "root" else "adamloss"  # the linear form squares nothing

    def validate(self, group: Group) -> None:
        require_choice("form", group[FORM], ("root", "linear"))
        super().validate(group)
        require_number("c_s", group[C_S], at_least=0)

    def start(self, group: Group) -> float:
        return super().start(group) if group[FORM] == "root" else 0.0  # the linear form counts t itself

    def divisor(self, group: Group, s: Scalar) -> Scalar:
        root = super().divisor(group, s)
        return root if group[FORM] == "root" else group[B0] + group[C_S] * root

    def b(self, group: Group, s: Scalar) -> Scalar:
        return self.divisor(group, s)


class SGDDecaySqrt(RateAdaptive):
    r"""SGD whose step decays with the square root of time, in either of the forms that the paper runs.

    For each step t = 1, 2, ... with the gradient :math:`g_t`:

    1. :math:`b_t = \sqrt{b_0^2 + t}` (root) or :math:`b_t = b_0 + c_s \sqrt t` (linear)
    2. :math:`w_{t+1} = w_t - \frac{\eta}{b_t} \, g_t`, with weight decay and momentum as in ``torch.optim.SGD``

    Source: the AdaLoss paper, Table 1 (root) and Section 3, Figure 1 (linear).

    Args:
        params: As for ``torch.optim.SGD``.
        lr: The paper's eta, >= 0.
        b0: Start of b, > 0.
        form: ``"root"`` or ``"linear"``.
        c_s: Factor of the linear form, >= 0.
        scale: As for :class:`~adaloss_lightning.LossAdaptive`; ``"gradient"`` is the authors' public code, which leaves
            weight decay undivided.
        momentum, dampening, nesterov, weight_decay, maximize, foreach, differentiable, fused: As for
            ``torch.optim.SGD``.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = SGDDecaySqrt([w], lr=1.0, b0=1.0, form="linear")
        >>> (3 * w).sum().backward()
        >>> optimizer.step()  # b becomes 1 + sqrt(1) = 2
        >>> optimizer.b[0].item(), w.item()
        (2.0, 0.5)
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.1,
        *,
        b0: float = 1.0,
        form: Literal["root", "linear"] = "root",
        c_s: float = 1.0,
        scale: Scale = "lr",
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
    ) -> None:
        base = bases.SGD(
            params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
            maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused,
        )  # fmt: skip
        super().__init__(base, _SqrtDecay(), {B0: b0, C_S: c_s, FORM: form}, scale=scale)


class AdamSqrt(RateAdaptive):
    r"""Adam at a rate that decays with the square root of time (the AdaLoss paper, Section 5).

    For each step t = 1, 2, ...:

    1. :math:`b_t = b_0 + t` and :math:`\eta_t = \eta / \sqrt{b_t}`
    2. lines 2 to 4 of :class:`~adaloss_lightning.AdamLoss`

    Args:
        params: As for ``torch.optim.Adam``.
        lr: The paper's eta, >= 0.
        b0: Start of b, > 0.
        betas, eps, weight_decay, amsgrad, decoupled_weight_decay, maximize, foreach, capturable, differentiable, fused:
            As for :class:`~adaloss_lightning.AdamLoss`.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = AdamSqrt([w], lr=1.0, b0=3.0)
        >>> (3 * w).sum().backward()
        >>> optimizer.step()  # b becomes 4, and Adam's first step is lr / sqrt(b) long
        >>> optimizer.b[0].item(), round(w.item(), 4)
        (4.0, 1.5)
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
        base = bases.Adam(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
            foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )  # fmt: skip
        super().__init__(base, _FromB0(), {B0: b0})
