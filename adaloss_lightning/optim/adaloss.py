"""AdaLoss and AdamLoss: the paper's two algorithms, each a base optimizer chosen for :class:`LossAdaptive`."""

from collections.abc import Iterable
from typing import Any

import torch.distributed as dist
from torch import Tensor

from adaloss_lightning.optim.engine import fused as bases
from adaloss_lightning.optim.loss_adaptive import LossAdaptive
from adaloss_lightning.optim.rate_adaptive import Scale
from adaloss_lightning.optim.validation import require_rate_settings

Params = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class AdaLoss(LossAdaptive):
    r"""AdaLoss (Algorithm 1): SGD whose step is :math:`\eta / b_t`, with b driven by the loss.

    .. math::
        b_{t+1}^2 = b_t^2 + \alpha \, |f_t(w_t) - c|, \qquad w_{t+1} = w_t - \frac{\eta}{b_{t+1}} \, g_t

    Source: Wu, Xie, Du, Ward, *AdaLoss: A computationally-efficient and provably convergent adaptive gradient method*,
    AAAI 2022, arXiv 2109.08282. With ``scale="lr"``, the default, coupled weight decay is divided by b like the
    gradient, and momentum buffers hold g. The paper's public code scales the loss instead: ``scale="gradient"``.
    Without momentum and weight decay the two are the same. ``alpha=0`` is the paper's SGD-Constant, eta / b0.

    Args:
        params: Parameters, named parameters or parameter groups, as for ``torch.optim.SGD``.
        lr: The paper's eta, >= 0: a float or a tensor of one element.
        b0: Start of b, > 0.
        alpha: How strongly the loss feeds b**2, >= 0.
        c: Surrogate of the optimal loss (0 for over-parameterized models).
        momentum, dampening, nesterov, weight_decay, maximize, foreach, differentiable: As for ``torch.optim.SGD``.
        fused: None uses torch's fused kernel wherever it is right for the parameters and their gradients.
        scale, sync_loss, process_group, check_finite: As for :class:`LossAdaptive`.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds; it names the value and the bound.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.1,
        *,
        b0: float = 1.0,
        alpha: float = 1.0,
        c: float = 0.0,
        momentum: float = 0.0,
        dampening: float = 0.0,
        nesterov: bool = False,
        weight_decay: float | Tensor = 0.0,
        maximize: bool = False,
        foreach: bool | None = None,
        differentiable: bool = False,
        fused: bool | None = None,
        scale: Scale = "lr",
        sync_loss: bool = True,
        process_group: dist.ProcessGroup | None = None,
        check_finite: bool = True,
    ) -> None:
        settings: dict[str, Any] = {
            "lr": lr, "momentum": momentum, "dampening": dampening, "nesterov": nesterov, "weight_decay": weight_decay,
        }  # fmt: skip
        require_rate_settings(settings)
        base = bases.SGD(
            params, **settings, maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused
        )
        super().__init__(
            base, b0=b0, alpha=alpha, c=c, scale=scale, sync_loss=sync_loss, process_group=process_group,
            check_finite=check_finite,
        )  # fmt: skip

    def _validate(self, settings: dict[str, Any]) -> None:
        super()._validate(settings)
        require_rate_settings(settings)


class AdamLoss(LossAdaptive):
    r"""AdamLoss (Algorithm 2): Adam at the rate :math:`\eta / \sqrt{b_t}`, with b driven by the loss.

    .. math:: b_t = b_{t-1} + \alpha \, |f_t(w_t) - c|, \qquad \eta_t = \eta / \sqrt{b_t}

    Source: as for :class:`AdaLoss`, Section 5, with the paper's beta2 = 0.99. One deviation: like ``torch.optim.Adam``,
    eps is added to the root of the second moment and not under it. ``alpha=0`` is Adam at the constant rate
    eta / sqrt(b0).

    Args:
        params: Parameters, named parameters or parameter groups, as for ``torch.optim.Adam``.
        lr: The paper's eta, >= 0: a float or a tensor of one element.
        b0: Start of b, > 0.
        alpha: How strongly the loss feeds b, >= 0.
        c: Surrogate of the optimal loss.
        betas, eps, weight_decay, amsgrad, maximize, foreach, capturable, differentiable: As for ``torch.optim.Adam``.
        decoupled_weight_decay: Decay the parameters by ``lr / sqrt(b) * weight_decay``, as AdamW does.
        fused: None uses torch's fused kernel wherever it is right for the parameters and their gradients.
        scale, sync_loss, process_group, check_finite: As for :class:`LossAdaptive`.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds; it names the value and the bound.
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        *,
        b0: float = 1.0,
        alpha: float = 1.0,
        c: float = 0.0,
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
        scale: Scale = "lr",
        sync_loss: bool = True,
        process_group: dist.ProcessGroup | None = None,
        check_finite: bool = True,
    ) -> None:
        settings: dict[str, Any] = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        require_rate_settings(settings)
        base = bases.Adam(
            params, **{**settings, "betas": tuple(betas)}, amsgrad=amsgrad, maximize=maximize, foreach=foreach,
            capturable=capturable, differentiable=differentiable, fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )  # fmt: skip
        super().__init__(
            base, b0=b0, alpha=alpha, c=c, rule="adamloss", scale=scale, sync_loss=sync_loss,
            process_group=process_group, check_finite=check_finite,
        )  # fmt: skip

    def _validate(self, settings: dict[str, Any]) -> None:
        super()._validate(settings)
        require_rate_settings(settings)
