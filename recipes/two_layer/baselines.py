"""Earlier methods for the same network: gradient descent of Du et al., and the residual norm of Wu, Du and Ward (2019).

Our documents describe neither in full. Each docstring states the reading that is implemented.
"""

import math
from collections.abc import Sequence
from typing import Any

import torch

from adaloss_lightning import AdaLoss
from adaloss_lightning.optim.engine.wrapper import Group
from adaloss_lightning.optim.loss_driven import LossDriven
from adaloss_lightning.optim.recurrence import Scalar
from adaloss_lightning.theory.gram import lambda_0
from recipes.two_layer.descent import MakeOptimizer, adaloss


class _ResidualDriven(LossDriven):
    """AdaLoss fed by norm(y - u), which is the root of twice the loss."""

    def signal(self, loss: Scalar | None, groups: Sequence[Group]) -> Scalar:
        agreed = super().signal(loss, groups)
        return (2 * agreed).sqrt() if isinstance(agreed, torch.Tensor) else math.sqrt(2 * agreed)


class ResidualAdaLoss(AdaLoss):
    r"""The prior method: gradient descent whose b is driven by the norm of the residual, not its square.

    .. math:: b_{k+1}^2 = b_k^2 + \alpha \|y - u(k)\|, \qquad w(k+1) = w(k) - \frac{\eta}{b_{k+1}} \nabla L(w(k))

    Reading of Wu, Du, Ward, arXiv 1902.07111: their :math:`\alpha^2 \sqrt n` is `alpha` here. Our copies of the
    documents do not print their update. The step takes the loss :math:`\frac12 \|y - u\|^2` of :func:`half_squares`.

    Args:
        params: As for `AdaLoss`.
        lr: The paper's eta, >= 0.
        b0: Start of b, > 0.
        alpha: How strongly the norm feeds b**2, >= 0.

    Raises:
        ValueError: A hyper-parameter is out of its bounds.
    """

    def __init__(self, params: Any, lr: float = 0.1, *, b0: float = 1.0, alpha: float = 1.0) -> None:
        super().__init__(params, lr, b0=b0, alpha=alpha)
        self.method = _ResidualDriven()


def residual_adaloss(lr: float, b0: float, alpha: float = 1.0) -> MakeOptimizer:
    """The prior method, as :func:`adaloss` is AdaLoss."""
    return lambda network: ResidualAdaLoss(network.parameters(), lr=lr, b0=b0, alpha=alpha)


def du_rate(gram: torch.Tensor) -> float:
    r"""The constant step of Du et al., :math:`\lambda_0 / (4 n^2)`.

    Their theorem has :math:`\eta = O(\lambda_0 / n^2)` and leaves the constant open. 1/4 is ours: at this step the
    second-order term :math:`\eta^2 n^2` takes a quarter of the decrease :math:`\eta \lambda_0`.
    """
    return float(lambda_0(gram)) / (4 * len(gram) ** 2)


def gradient_descent(rate: float) -> MakeOptimizer:
    """Gradient descent at a constant rate."""
    return adaloss(rate, b0=1.0, alpha=0.0)
