r"""The critical value of b below which gradient descent is unstable, and bounds of the step that passes it.

Gradient descent at the rate :math:`\eta / b` on a quadratic of largest curvature :math:`\lambda_1` contracts where
:math:`b > \eta \lambda_1 / 2` and grows along the top eigenvector where b is smaller. Source: Section 3 and Lemma 1 of
Wu, Xie, Du, Ward, *AdaLoss*, AAAI 2022.

Numbers are taken as tensors, arrays, lists or floats that broadcast; results are float64 tensors.
"""

from typing import Literal

import torch
from torch import Tensor

from adaloss_lightning.theory.arrays import Numbers, as_double, as_positive, as_symmetric, require_choice

Rule = Literal["adaloss", "adagrad_norm"]
RULES: tuple[Rule, ...] = ("adaloss", "adagrad_norm")
ALPHA = 2.0  # of Algorithm 1, where the loss is 1/2 norm(Xw - y)^2 and b^2 grows by norm(Xw - y)^2 as in Section 3


def critical_b(lr: Numbers, curvature: Numbers) -> Tensor:
    r"""The critical value :math:`\eta \lambda_1 / 2`.

    Args:
        lr: The paper's eta, > 0.
        curvature: Largest eigenvalue of the Hessian (linear regression: of :math:`X^T X`), any shape.

    Returns:
        Same shape, float64, in units of b.

    Raises:
        ValueError: A number that is not finite, or an `lr` that is not > 0.

    Example:
        >>> critical_b(0.5, 8.0).item()
        2.0
    """
    return as_positive("lr", lr) * as_double("curvature", curvature) / 2


def largest_eigenvalue(gram: Numbers) -> tuple[Tensor, Tensor]:
    """Largest eigenvalue of symmetric matrices and its unit eigenvector.

    Args:
        gram: Shape `[..., d, d]`.

    Returns:
        Eigenvalues `[...]` and eigenvectors `[..., d]`, float64.

    Raises:
        ValueError: A matrix that is empty, not square, not symmetric or not finite.

    Example:
        >>> value, vector = largest_eigenvalue([[1.0, 0.0], [0.0, 5.0]])
        >>> value.item(), vector.abs().tolist()
        (5.0, [0.0, 1.0])
    """
    values, vectors = torch.linalg.eigh(as_symmetric("gram", gram))
    return values[..., -1], vectors[..., -1]


def crossing_bound(
    rule: Rule, b0: Numbers, lr: Numbers, lambda1: Numbers, s0: Numbers, *, alpha: float = ALPHA
) -> Tensor:
    r"""Upper bound of the first step whose b is above the critical value, bounded for every b0.

    Write :math:`s_t = ([V^T w_t]_1 - [V^T w^*]_1)^2` for the squared error along the top eigenvector. Below the
    critical value s grows or stays (eq. 7), so a step adds at least :math:`\frac\alpha2 \lambda_1 s_0` (AdaLoss,
    :math:`b_{t+1}^2 = b_t^2 + \frac\alpha2 \|X w_t - y\|^2`) or :math:`\lambda_1^2 s_0` (AdaGrad-Norm) to :math:`b^2`:

    .. math:: N \le \frac{(\eta\lambda_1/2)^2 - b_0^2}{\frac\alpha2 \lambda_1 s_0} + 1, \qquad
        N \le \frac{(\eta\lambda_1/2)^2 - b_0^2}{\lambda_1^2 s_0} + 1

    This is ours; :func:`lemma_1_bound` is the paper's.

    Args:
        rule: Which method fills b.
        b0: Start of b, > 0.
        lr: The paper's eta, > 0.
        lambda1: Largest eigenvalue of the Gram matrix, > 0.
        s0: Squared error of the start along the top eigenvector, > 0.
        alpha: AdaLoss's, for the loss :math:`\frac12 \|Xw - y\|^2`; 2 is Section 3. AdaGrad-Norm has none.

    Returns:
        The bound in steps, float64; 1 where b0 is above the critical value.

    Raises:
        ValueError: A number that is not finite or not > 0, an unknown rule, or an alpha for AdaGrad-Norm.

    Example:
        >>> crossing_bound("adaloss", 2.0, 2.0, 4.0, 0.5).item()  # (16 - 4) / 2 + 1
        7.0
    """
    missing = critical_b(lr, lambda1).square() - as_positive("b0", b0).square()
    return missing.clamp(min=0) / _least_gain(rule, lambda1, s0, alpha) + 1


def logarithmic_crossing_bound(
    rule: Rule, b0: Numbers, lr: Numbers, lambda1: Numbers, s0: Numbers, *, alpha: float = ALPHA
) -> Tensor:
    r"""A bound that is logarithmic in 1/b0, as Lemma 1 is described; ours, weaker than :func:`crossing_bound`.

    As :math:`b_t \le \eta\lambda_1/2` until the crossing, each step multiplies :math:`b^2` by at least
    :math:`1 + 2 \alpha s_0 / (\eta^2 \lambda_1)` (AdaLoss) or :math:`1 + 4 s_0 / \eta^2` (AdaGrad-Norm):

    .. math::
        N \le \frac{\log((\eta\lambda_1)^2 / (4 b_0^2))}{\log(1 + 2 \alpha s_0 / (\eta^2 \lambda_1))} + 1, \qquad
        N \le \frac{\log((\eta\lambda_1)^2 / (4 b_0^2))}{\log(1 + 4 s_0 / \eta^2)} + 1

    Args:
        rule: Which method fills b.
        b0: Start of b, > 0.
        lr: The paper's eta, > 0.
        lambda1: Largest eigenvalue of the Gram matrix, > 0.
        s0: Squared error of the start along the top eigenvector, > 0.
        alpha: AdaLoss's, as in :func:`crossing_bound`.

    Returns:
        The bound in steps, float64; 1 where b0 is above the critical value.

    Raises:
        ValueError: As :func:`crossing_bound`.

    Example:
        >>> round(logarithmic_crossing_bound("adaloss", 2.0, 2.0, 4.0, 0.5).item(), 2)  # log(4) / log(1.125) + 1
        12.77
    """
    critical = critical_b(lr, lambda1)
    growth = torch.log1p(_least_gain(rule, lambda1, s0, alpha) / critical.square())
    return 2 * torch.log(critical / as_positive("b0", b0)).clamp(min=0) / growth + 1


def lemma_1_bound(rule: Rule, b0: Numbers, lr: Numbers, lambda1: Numbers, s0: Numbers) -> Tensor:
    r"""The bound of Lemma 1 as the paper prints it, as far as our copy can be read.

    .. math::
        N \le \frac{\log(1 + ((\eta\lambda_1)^2 - 4 b_0^2) / (\eta^2 \lambda_1))}
                     {\log(1 + 4 s_0 / (\eta^2 \lambda_1))} + 1, \qquad
        N \le \frac{\log(1 + ((\eta\lambda_1)^2 - 4 b_0^2) / (\eta^2 \lambda_1^2))}{\log(1 + 4 s_0 / \eta^2)} + 1

    for AdaLoss and AdaGrad-Norm. The difference :math:`(\eta\lambda_1)^2 - 4 b_0^2` is clear; of the denominators our
    copy shows the factors :math:`\lambda_1` and :math:`\lambda_1^2` alone; eta is our completion, under which AdaLoss's
    depends on the unit of x. N is the first index with :math:`b_{N+1} > \eta\lambda_1/2`: step N + 1 crosses.
    The numerators saturate: the bound stays finite as b0 goes to 0, where :func:`logarithmic_crossing_bound` grows.

    For AdaLoss it takes :math:`\lambda_1 > 1`, which the paper supposes in what it says after the lemma, not in it.
    Below that this reading fails: at :math:`\lambda_1 = 0.0108`, eta 4.38, s0 2.84e-8 and b0 at 0.9999 of the critical
    value, N is 348 where the bound is 4.9. :func:`crossing_bound` holds there too.

    Args:
        rule: Which method fills b.
        b0: Start of b, > 0.
        lr: The paper's eta, > 0.
        lambda1: Largest eigenvalue of the Gram matrix, > 0.
        s0: Squared error of the start along the top eigenvector, > 0.

    Returns:
        The bound in steps, float64; 1 where b0 is above the critical value.

    Raises:
        ValueError: As :func:`crossing_bound`.

    Example:
        >>> round(lemma_1_bound("adagrad_norm", 2.0, 2.0, 4.0, 0.5).item(), 2)  # log(1.75) / log(1.5) + 1
        2.38
    """
    rate, curvature = as_positive("lr", lr), as_positive("lambda1", lambda1)
    growth = torch.log1p(_least_gain(rule, curvature, s0, ALPHA) / critical_b(rate, curvature).square())
    missing = ((rate * curvature).square() - 4 * as_positive("b0", b0).square()).clamp(min=0)
    unit = rate.square() * (curvature if rule == "adaloss" else curvature.square())
    return torch.log1p(missing / unit) / growth + 1


def _least_gain(rule: Rule, lambda1: Numbers, s0: Numbers, alpha: float) -> Tensor:
    """The least that a step below the critical value adds to b^2."""
    require_choice("rule", rule, RULES)
    curvature = as_positive("lambda1", lambda1)
    gain = curvature * as_positive("s0", s0)
    if rule == "adaloss":
        return gain * as_positive("alpha", alpha) / 2
    if alpha != ALPHA:
        raise ValueError(f"Invalid alpha={alpha!r} for 'adagrad_norm'. Must be left out: the norm of g feeds its b.")
    return gain * curvature
