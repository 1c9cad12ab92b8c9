r"""Numbers of steps and widths of Theorems 1 to 3, Corollary 1 and Du et al., and the critical b of two-layer networks.

Sources: Wu, Xie, Du, Ward, *AdaLoss*, AAAI 2022 (Theorems 1 to 3, Corollary 1), and Du, Zhai, Poczos, Singh, *Gradient
Descent Provably Optimizes Over-parameterized Neural Networks* (arXiv 1810.02054).

The theorems are orders of magnitude, :math:`\tilde O`, whose constants and logarithms the papers leave open. The
functions named after them return the expression with constant 1: ratios of two such numbers mean something, one alone
does not. :func:`regression_steps` is a bound with all constants, and ours.

The main text of the paper, in the scan that this package was written from, does not let the following be read, so that
no function has them: the widths of Theorems 2 and 3, and the first terms of T in Theorem 1 and Corollary 1.
"""

import math

import torch
from torch import Tensor

from adaloss_lightning.theory.arrays import Numbers, as_double, as_matrix, as_positive, as_symmetric, require_choice
from adaloss_lightning.theory.critical_step import ALPHA, RULES, Rule


def critical_b_two_layer(lr: Numbers, gram: Numbers, constant: float = 1.0) -> Tensor:
    r"""The critical value of Theorem 3, :math:`\eta \, C (\lambda_0 + \|H^\infty\|) / 2`.

    C is a constant that the theorem leaves open. With C = 1 the rate :math:`\eta / b` is
    :math:`2 / (\lambda_0 + \|H\|)`, at which the slowest error shrinks fastest: a larger rate makes the error along the
    largest eigenvector the slowest. That error grows from :math:`b < \eta \|H\| / 2` on, which is
    :func:`~adaloss_lightning.theory.critical_b` and a little lower.

    Args:
        lr: The paper's eta, > 0.
        gram: H-infinity, or H at a finite width, shape `[n, n]`.
        constant: C, > 0.

    Returns:
        In units of b, float64.

    Raises:
        ValueError: A matrix that is not symmetric, or a number that is not > 0.

    Example:
        >>> critical_b_two_layer(30.0, [[0.5, 0.0], [0.0, 0.5]]).item()
        15.0
    """
    lowest, norm, _ = _extremes(gram)
    return as_positive("lr", lr) * as_positive("constant", constant) * (lowest + norm) / 2


def theorem_3_alpha(alpha: float, n: int) -> float:
    r"""Algorithm 1's alpha that runs Theorem 3's update, :math:`2 \alpha^2 \sqrt n`.

    Theorem 3 has :math:`b_{k+1}^2 = b_k^2 + \alpha^2 \sqrt n \|y - u(k)\|^2`, Algorithm 1 and the optimizers
    :math:`b_{k+1}^2 = b_k^2 + \alpha |f - c|` with the loss :math:`f = \frac12 \|y - u\|^2`.

    Args:
        alpha: Theorem 3's.
        n: Number of examples.

    Raises:
        ValueError: A number that is not > 0.

    Example:
        >>> theorem_3_alpha(0.5, 16)
        2.0
    """
    return 2 * _positive("alpha", alpha) ** 2 * math.sqrt(_positive("n", n))


def regression_steps(
    rule: Rule, x: Numbers, error: Numbers, b0: float, lr: float, epsilon: float, *, alpha: float = ALPHA
) -> float:
    r"""A bound of the steps of linear regression to :math:`\|w_T - w^*\|^2 \le \epsilon`; ours, for large b0.

    For :math:`b_0 \ge \eta \lambda_1` every step multiplies the error along each eigenvector by a factor between 0 and
    :math:`1 - \eta \lambda_0 / b`, and takes at least :math:`\eta \|X(w - w^*)\|^2 / b` from :math:`\|w - w^*\|^2`.
    Summed up, that bounds b, so that

    .. math::
        T \le \frac{b_{\max}}{2 \eta \lambda_0} \log \frac{\|w_0 - w^*\|^2}{\epsilon} + 1, \qquad
        b_{\max} = b_0 + \frac{\alpha}{2 \eta} \|w_0 - w^*\|^2

    for AdaLoss (Corollary 1), and with :math:`b_{\max} = b_0 + \|X(w_0 - w^*)\|^2 / \eta` for AdaGrad-Norm (Theorem 1).
    The two differences are the :math:`\Delta` of the paper, which has :math:`\tilde O(\ldots \lambda_1 \log(1/\epsilon)
    / \lambda_0)` for every b0. For a smaller b0 see :func:`~adaloss_lightning.theory.crossing_bound`.

    Args:
        rule: Which method fills b.
        x: Rows of the problem, shape `[n, d]`, of full column rank.
        error: :math:`w_0 - w^*`, shape `[d]`.
        b0: Start of b, > 0.
        lr: The paper's eta, > 0.
        epsilon: Squared distance that is close enough, > 0.
        alpha: AdaLoss's, for the loss :math:`\frac12 \|Xw - y\|^2`; 2 is Section 3.

    Returns:
        Steps; inf where b0 is below :math:`\eta \lambda_1`.

    Raises:
        ValueError: A number that is not > 0, shapes that do not fit, an unknown rule, or a singular :math:`X^T X`.

    Example:
        >>> regression_steps("adaloss", [[1.0, 0.0], [0.0, 1.0]], [1.0, 0.0], b0=1.0, lr=1.0, epsilon=math.exp(-4))
        5.0
    """
    require_choice("rule", rule, RULES)
    b, eta, enough = _positive("b0", b0), _positive("lr", lr), _positive("epsilon", epsilon)
    rows, start = as_matrix("x", x, "[n, d]"), as_double("error", error)
    if start.shape != rows.shape[1:]:
        raise ValueError(
            f"Invalid shape {tuple(start.shape)} of error. Must be [{rows.shape[1]}], a number for a column."
        )
    values = torch.linalg.eigvalsh(rows.T @ rows)
    lowest, highest = (float(value) for value in (values[0], values[-1]))
    if lowest <= len(values) * torch.finfo(values.dtype).eps * highest:
        raise ValueError(f"Invalid lambda_0={lowest:g} of X^T X. Must be > 0: x needs independent columns.")
    distance = float(start.square().sum())
    if distance <= enough:
        return 0.0
    if b < eta * highest:
        return math.inf
    fed = _positive("alpha", alpha) / 2 * distance if rule == "adaloss" else float((rows @ start).square().sum())
    return (b + fed / eta) / (2 * eta * lowest) * math.log(distance / enough) + 1


def theorem_2_steps(gram: Numbers, epsilon: float) -> float:
    r"""The order of gradient descent's steps to :math:`L \le \epsilon` at the rate :math:`\Theta(1 / \|H^\infty\|)`.

    .. math:: T = \tilde O\left( \frac{\|H^\infty\|}{\lambda_0} \log \frac1\epsilon \right)

    The tilde hides log(n), log(1 / lambda_0) and log(1 / delta), delta the probability that the random start fails.

    Args:
        gram: H-infinity, shape `[n, n]`.
        epsilon: Loss that is small enough, between 0 and 1.

    Returns:
        The expression, with constant 1.

    Raises:
        ValueError: A matrix that is not symmetric and positive definite, or an `epsilon` out of its bounds.

    Example:
        >>> theorem_2_steps([[0.5, 0.0], [0.0, 0.5]], epsilon=math.exp(-3))
        3.0
    """
    lowest, norm, _ = _definite(gram)
    return norm / lowest * math.log(1 / _share("epsilon", epsilon))


def theorem_3_steps(
    gram: Numbers, b0: float, lr: float, alpha: float, epsilon: float, delta: float, constant: float = 1.0
) -> float:
    r"""The order of AdaLoss's steps to :math:`\min_{k \le T} \|y - u(k)\|^2 \le \epsilon`, Theorem 3.

    .. math::
        T &= \tilde O\left( \left( \frac{b_0}{\eta\lambda_0} + \frac{\alpha^2 n^{3/2}}{\eta^2 \lambda_0^2 \delta}
            \right) \log \frac1\epsilon \right) & \text{(a) from above the critical value} \\
        T &= \tilde O\left( \frac{\lambda_0 + \sqrt n}{\alpha^2 \sqrt n \, \epsilon} + \left(
            \frac{\alpha^2 n^{3/2}}{\eta^2 \lambda_0^2 \delta} + \frac{\|H^\infty\|^2}{\lambda_0^2} \right)
            \log \frac1\epsilon \right) & \text{(b) from below}

    Args:
        gram: H-infinity, shape `[n, n]`.
        b0: Start of b, > 0.
        lr: The paper's eta, > 0.
        alpha: Theorem 3's, > 0; see :func:`theorem_3_alpha`.
        epsilon: Squared residual that is small enough, between 0 and 1.
        delta: Probability that the random start fails, between 0 and 1.
        constant: C of the critical value, :func:`critical_b_two_layer`.

    Returns:
        The expression, with constant 1.

    Raises:
        ValueError: A matrix that is not symmetric and positive definite, or a number out of its bounds.

    Example:
        >>> theorem_3_steps([[0.5]], b0=1.0, lr=1.0, alpha=0.5, epsilon=math.exp(-1), delta=0.5)  # 2 + 2
        4.0
    """
    lowest, norm, n = _definite(gram)
    b, eta, a = _positive("b0", b0), _positive("lr", lr), _positive("alpha", alpha)
    enough, log = _share("epsilon", epsilon), math.log(1 / _share("epsilon", epsilon))
    fed = a**2 * n * math.sqrt(n) / (eta**2 * lowest**2 * _share("delta", delta))
    if b >= critical_b_two_layer(eta, gram, constant).item():
        return (b / (eta * lowest) + fed) * log
    return (lowest + math.sqrt(n)) / (a**2 * math.sqrt(n) * enough) + (fed + (norm / lowest) ** 2) * log


def du_steps(gram: Numbers, epsilon: float) -> float:
    r"""The order of gradient descent's steps in Du et al., :math:`(n^2 / \lambda_0^2) \log(n / \epsilon)`.

    It is at the rate :math:`\Theta(\lambda_0 / n^2)`; :func:`theorem_2_steps` is what larger steps make of it.

    Args:
        gram: H-infinity, shape `[n, n]`.
        epsilon: Loss that is small enough, between 0 and 1.

    Returns:
        The expression, with constant 1.

    Raises:
        ValueError: As :func:`theorem_2_steps`.

    Example:
        >>> round(du_steps([[0.5, 0.0], [0.0, 0.5]], epsilon=2 * math.exp(-1)), 12)
        16.0
    """
    lowest, _, n = _definite(gram)
    return (n / lowest) ** 2 * math.log(n / _share("epsilon", epsilon))


def du_width(gram: Numbers, delta: float) -> float:
    r"""The order of the width that Du et al. ask for, :math:`m = \Omega(n^6 / (\lambda_0^4 \delta^3))`.

    Theorem 3 of AdaLoss asks for more, for a small b0 "much wider than" :math:`n^8`.

    Args:
        gram: H-infinity, shape `[n, n]`.
        delta: Probability that the random start fails, between 0 and 1.

    Returns:
        The expression, with constant 1, in hidden units.

    Raises:
        ValueError: A matrix that is not symmetric and positive definite, or a `delta` out of its bounds.

    Example:
        >>> du_width([[0.5, 0.0], [0.0, 0.5]], delta=0.5)
        8192.0
    """
    lowest, _, n = _definite(gram)
    return float(n**6 / (lowest**4 * _share("delta", delta) ** 3))


def _extremes(gram: Numbers) -> tuple[float, float, int]:
    """lambda_0, the norm and n."""
    matrix = as_symmetric("gram", gram)
    if matrix.dim() != 2:
        raise ValueError(f"Invalid shape {tuple(matrix.shape)} of gram. Must be [n, n].")
    values = torch.linalg.eigvalsh(matrix)
    return values[0].item(), values.abs().max().item(), len(values)


def _definite(gram: Numbers) -> tuple[float, float, int]:
    lowest, norm, n = _extremes(gram)
    if lowest <= 0:
        raise ValueError(f"Invalid lambda_0={lowest:g} of gram. Must be > 0: Assumption 2.")
    return lowest, norm, n


def _positive(name: str, value: float) -> float:
    tensor = as_positive(name, value)
    if tensor.dim():
        raise ValueError(f"Invalid shape {tuple(tensor.shape)} of {name}. Must be one number.")
    return float(tensor.item())


def _share(name: str, value: float) -> float:
    number = _positive(name, value)
    if number >= 1:
        raise ValueError(f"Invalid {name}={number:g}. Must be < 1.")
    return number
