"""AdaLoss and AdamLoss: the paper's two algorithms, each a base optimizer chosen for :class:`LossAdaptive`."""

import torch.distributed as dist
from torch import Tensor

from adaloss_lightning.optim.engine import _fused as bases
from adaloss_lightning.optim.engine.fused_choice import Params
from adaloss_lightning.optim.loss_adaptive import LossAdaptive
from adaloss_lightning.optim.rate_adaptive import Scale
from adaloss_lightning.optim.recurrence import Alpha


class AdaLoss(LossAdaptive):
    r"""AdaLoss: SGD whose step is divided by b, with b driven by the loss.

    For each step t = 0, 1, ... with the loss :math:`f_t(w_t)` and its gradient :math:`g_t`:

    1. :math:`b_{t+1}^2 = b_t^2 + \alpha \, |f_t(w_t) - c|`
    2. :math:`g_t \leftarrow g_t + \lambda w_t` with the weight decay :math:`\lambda`
    3. :math:`v_{t+1} = \mu v_t + (1 - \tau) \, g_t` with the momentum :math:`\mu` and the dampening :math:`\tau`;
       :math:`v_1 = g_0`
    4. :math:`w_{t+1} = w_t - \frac{\eta}{b_{t+1}} \, v_{t+1}`, or with :math:`g_t + \mu v_{t+1}` for Nesterov's

    Source: Algorithm 1 of Wu, Xie, Du, Ward, *AdaLoss: A computationally-efficient and provably convergent adaptive
    gradient method*, AAAI 2022, arXiv 2109.08282; lines 2 and 3 are those of ``torch.optim.SGD``. With ``scale="lr"``,
    the default, coupled weight decay is divided by b like the gradient, and momentum buffers hold g. The paper's public
    code scales the loss instead: ``scale="gradient"``. Without momentum and weight decay the two are the same.
    ``alpha=0`` is the paper's SGD-Constant, eta / b0.

    Args:
        params: Parameters, named parameters or parameter groups, as for ``torch.optim.SGD``.
        lr: The paper's eta, >= 0: a float or a tensor of one element.
        b0: Start of b, > 0.
        alpha: How strongly the loss feeds b**2, >= 0; ``"auto"`` frees it of the unit of the loss: see
            :class:`LossAdaptive`.
        c: Surrogate of the optimal loss (0 for over-parameterized models).
        momentum, dampening, nesterov, weight_decay, maximize, foreach, differentiable: As for ``torch.optim.SGD``.
        fused: None uses torch's fused kernel wherever it is right for the parameters and their gradients.
        scale, sync_loss, process_group, check_finite: As for :class:`LossAdaptive`.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds; it names the value and the bound.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = AdaLoss([w], lr=1.0, b0=3.0)
        >>> loss = 4 * w.square().sum()
        >>> loss.backward()  # the gradient is 16
        >>> _ = optimizer.step(loss=loss)  # b becomes sqrt(9 + 16) = 5
        >>> optimizer.b[0].item(), round(w.item(), 4)
        (5.0, -1.2)
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.1,
        *,
        b0: float = 1.0,
        alpha: Alpha = 1.0,
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
        base = bases.SGD(
            params, lr=lr, momentum=momentum, dampening=dampening, weight_decay=weight_decay, nesterov=nesterov,
            maximize=maximize, foreach=foreach, differentiable=differentiable, fused=fused,
        )  # fmt: skip
        super().__init__(
            base, b0=b0, alpha=alpha, c=c, scale=scale, sync_loss=sync_loss, process_group=process_group,
            check_finite=check_finite,
        )  # fmt: skip


class AdamLoss(LossAdaptive):
    r"""AdamLoss: Adam at the rate :math:`\eta / \sqrt b`, with b driven by the loss.

    For each step t = 1, 2, ... with the loss :math:`f_t(w_t)` and its gradient :math:`g_t`:

    1. :math:`b_t = b_{t-1} + \alpha \, |f_t(w_t) - c|` and :math:`\eta_t = \eta / \sqrt{b_t}`
    2. :math:`g_t \leftarrow g_t + \lambda w_t`; decoupled weight decay is :math:`w_t \leftarrow w_t - \eta_t \lambda
       w_t` instead
    3. :math:`m_t = \beta_1 m_{t-1} + (1 - \beta_1) \, g_t` and :math:`v_t = \beta_2 v_{t-1} + (1 - \beta_2) \, g_t^2`
    4. :math:`w_{t+1} = w_t - \eta_t \, \frac{m_t / (1 - \beta_1^t)}{\sqrt{v_t / (1 - \beta_2^t)} + \epsilon}`

    Source: Algorithm 2 of the paper of :class:`AdaLoss`, Section 5, with the paper's beta2 = 0.99. Its line 4 has
    eta = 1, and it has no c and no weight decay. Where it puts eps cannot be read in our copy: here it is added to the
    root of the second moment, as in ``torch.optim.Adam``. ``alpha=0`` is Adam at the constant rate eta / sqrt(b0).

    Args:
        params: Parameters, named parameters or parameter groups, as for ``torch.optim.Adam``.
        lr: The paper's eta, >= 0: a float or a tensor of one element.
        b0: Start of b, > 0.
        alpha: How strongly the loss feeds b, >= 0; ``"auto"`` frees it of the unit of the loss: see
            :class:`LossAdaptive`.
        c: Surrogate of the optimal loss.
        betas, eps, weight_decay, amsgrad, maximize, foreach, capturable, differentiable: As for ``torch.optim.Adam``.
        decoupled_weight_decay: Decay the parameters by ``lr / sqrt(b) * weight_decay``, as AdamW does.
        fused: None uses torch's fused kernel wherever it is right for the parameters and their gradients.
        scale, sync_loss, process_group, check_finite: As for :class:`LossAdaptive`.

    Raises:
        ValueError: If a hyper-parameter is out of its bounds; it names the value and the bound.

    Example:
        >>> import torch
        >>> w = torch.nn.Parameter(torch.tensor([2.0]))
        >>> optimizer = AdamLoss([w], lr=1.0)
        >>> loss = 0.75 * w.square().sum()
        >>> loss.backward()
        >>> _ = optimizer.step(loss=loss)  # b becomes 1 + 3, and Adam's first step is lr / sqrt(b) long
        >>> optimizer.b[0].item(), round(w.item(), 4)
        (4.0, 1.5)
    """

    def __init__(
        self,
        params: Params,
        lr: float | Tensor = 0.01,
        *,
        b0: float = 1.0,
        alpha: Alpha = 1.0,
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
        base = bases.Adam(
            params, lr=lr, betas=betas, eps=eps, weight_decay=weight_decay, amsgrad=amsgrad, maximize=maximize,
            foreach=foreach, capturable=capturable, differentiable=differentiable, fused=fused,
            decoupled_weight_decay=decoupled_weight_decay,
        )  # fmt: skip
        super().__init__(
            base, b0=b0, alpha=alpha, c=c, rule="adamloss", scale=scale, sync_loss=sync_loss,
            process_group=process_group, check_finite=check_finite,
        )  # fmt: skip
