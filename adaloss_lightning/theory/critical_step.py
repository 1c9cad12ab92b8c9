r"""The critical value of b below which gradient descent is unstable, and bounds of the step that passes it.

Gradient descent at the rate :math:`\eta / b` on a quadratic of largest curvature :math:`\lambda_1` contracts where
:math:`b > \eta \lambda_1 / 2` and grows along the top eigenvector where b is smaller. Source: Section 3 and Lemma 1 of
Wu, Xie, Du, Ward, *AdaLoss*, AAAI 2022.
"""

from typing import Literal

import torch
from torch import Tensor

Rule = Literal["adaloss", "adagrad_norm"]


def critical_b(lr: float, curvature: Tensor) -> Tensor:
    r"""The critical value :math:`\eta \lambda_1 / 2`.

    Args:
        lr: The paper's eta.
        curvature: Largest eigenvalue of the Hessian (linear regression: of :math:`X^T X`), any shape.

    Returns:
        Same shape, in units of b.
    """
    return lr * curvature / 2


def largest_eigenvalue(gram: Tensor) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue of symmetric matrices and its unit eigenvector.

    Args:
        gram: Shape `[..., d, d]`.

    Returns:
        Eigenvalues `[...]` and eigenvectors `[..., d]`.
    """
    values, vectors = torch.linalg.eigh(gram)
    return values[..., -1], vectors[..., -1]


def crossing_bound(rule: Rule, b0: Tensor, lr: float, lambda1: Tensor, s0: Tensor) -> Tensor:
    r"""Upper bound of the first step whose b is above the critical value, bounded for every b0.

    Write :math:`s_t = ([V^T w_t]_1 - [V^T w^*]_1)^2` for the squared error along the top eigenvector. Below the
    critical value s grows or stays (eq. 7), so a step adds at least :math:`\lambda_1 s_0` (AdaLoss,
    :math:`b_{t+1}^2 = b_t^2 + \|X w_t - y\|^2`) or :math:`\lambda_1^2 s_0` (AdaGrad-Norm) to :math:`b^2`:

    .. math:: N \le \frac{(\eta\lambda_1/2)^2 - b_0^2}{\lambda_1 s_0} + 1, \qquad
        N \le \frac{(\eta\lambda_1/2)^2 - b_0^2}{\lambda_1^2 s_0} + 1

    Args:
        rule: Which method fills b.
        b0: Start of b, > 0.
        lr: The paper's eta.
        lambda1: Largest eigenvalue of the Gram matrix; broadcasts with `b0` and `s0`.
        s0: Squared error of the start along the top eigenvector, > 0.

    Returns:
        The bound; 1 where b0 is above the critical value.
    """
    missing = (critical_b(lr, lambda1).square() - b0.square()).clamp(min=0)
    return missing / _least_gain(rule, lambda1, s0) + 1


def logarithmic_crossing_bound(rule: Rule, b0: Tensor, lr: float, lambda1: Tensor, s0: Tensor) -> Tensor:
    r"""The bound in the form of Lemma 1: logarithmic in 1/b0, weaker than :func:`crossing_bound`.

    As :math:`b_t \le \eta\lambda_1/2` until the crossing, each step multiplies :math:`b^2` by at least
    :math:`1 + 4 s_0 / (\eta^2 \lambda_1)` (AdaLoss) or :math:`1 + 4 s_0 / \eta^2` (AdaGrad-Norm):

    .. math::
        N \le \frac{\log((\eta\lambda_1)^2 / (4 b_0^2))}{\log(1 + 4 s_0 / (\eta^2 \lambda_1))} + 1, \qquad
        N \le \frac{\log((\eta\lambda_1)^2 / (4 b_0^2))}{\log(1 + 4 s_0 / \eta^2)} + 1

    Args:
        rule: Which method fills b.
        b0: Start of b, > 0.
        lr: The paper's eta.
        lambda1: Largest eigenvalue of the Gram matrix; broadcasts with `b0` and `s0`.
        s0: Squared error of the start along the top eigenvector, > 0.

    Returns:
        The bound; 1 where b0 is above the critical value.
    """
    critical = critical_b(lr, lambda1)
    growth = torch.log1p(_least_gain(rule, lambda1, s0) / critical.square())
    return 2 * torch.log(critical / b0).clamp(min=0) / growth + 1


def _least_gain(rule: Rule, lambda1: Tensor, s0: Tensor) -> Tensor:
    return lambda1 * s0 if rule == "adaloss" else lambda1.square() * s0
