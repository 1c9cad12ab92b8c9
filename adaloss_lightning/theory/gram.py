r"""Gram matrices that govern gradient descent on a two-layer ReLU network, :math:`du/dt = H (y - u)`.

The network is :math:`f(W, a, x) = m^{-1/2} \sum_{r=1}^m a_r \max(\langle w_r, x \rangle, 0)`.

Sources: Wu, Xie, Du, Ward (arXiv 2109.08282, Section 4, Definition 1) and Du, Zhai, Poczos, Singh (arXiv 1810.02054).
Everything is computed in float64: the smallest eigenvalues are lost in float32.
"""

import math

import torch
from torch import Tensor


def h_infinity(x: Tensor) -> Tensor:
    r"""The Gram matrix of infinite width, for unit vectors.

    .. math:: H^\infty_{ij} = \mathbb{E}_{w \sim N(0, I)} \, x_i^T x_j \, 1\{w^T x_i \ge 0, w^T x_j \ge 0\}
        = x_i^T x_j \, \frac{\pi - \arccos(x_i^T x_j)}{2 \pi}

    Args:
        x: Inputs as rows, shape `[n, d]`, each of norm 1.

    Returns:
        Symmetric matrix, shape `[n, n]`, float64: 1/2 on the diagonal, 0 for orthogonal inputs.

    Raises:
        ValueError: The rows are not unit vectors, or `x` is no matrix.
    """
    x = _unit_rows(x)
    # Rounding puts the product of equal or opposite vectors beyond 1, where arccos is no number.
    cosines = (x @ x.T).clamp(-1.0, 1.0)
    return cosines * (math.pi - torch.arccos(cosines)) / (2 * math.pi)


def h_empirical(x: Tensor, w: Tensor, a: Tensor | None = None) -> Tensor:
    r"""The Gram matrix of the first layer's weights at finite width.

    .. math:: H_{ij} = \frac1m x_i^T x_j \sum_{r=1}^m a_r^2 \, 1\{w_r^T x_i \ge 0, w_r^T x_j \ge 0\}

    Args:
        x: Inputs as rows, shape `[n, d]`.
        w: Weights of the first layer, shape `[m, d]`.
        a: Output weights, shape `[m]`; None stands for signs, whose squares are 1.

    Returns:
        Symmetric matrix, shape `[n, n]`, float64.

    Raises:
        ValueError: Shapes that do not fit.
    """
    x, w = _fitting(x, w, a)
    active = (x @ w.T >= 0).double()
    weighted = active if a is None else active * a.detach().double().square()
    return (x @ x.T) * (weighted @ active.T) / len(w)


def g_empirical(x: Tensor, w: Tensor) -> Tensor:
    r"""What the output weights add when they are trained too, :math:`du/dt = (H + G)(y - u)`.

    .. math:: G_{ij} = \frac1m \sum_{r=1}^m \max(w_r^T x_i, 0) \max(w_r^T x_j, 0)

    Args:
        x: Inputs as rows, shape `[n, d]`.
        w: Weights of the first layer, shape `[m, d]`.

    Returns:
        Symmetric matrix, shape `[n, n]`, float64.

    Raises:
        ValueError: Shapes that do not fit.
    """
    x, w = _fitting(x, w, None)
    hidden = (x @ w.T).relu()
    return hidden @ hidden.T / len(w)


def lambda_0(gram: Tensor) -> float:
    """The smallest eigenvalue of a symmetric matrix: positive for H-infinity where no two inputs are parallel."""
    return float(torch.linalg.eigvalsh(gram.double())[0])


def spectral_norm(gram: Tensor) -> float:
    """The largest absolute eigenvalue of a symmetric matrix, the paper's norm of H and of differences of them."""
    return float(torch.linalg.eigvalsh(gram.double()).abs().max())


def _unit_rows(x: Tensor) -> Tensor:
    if x.dim() != 2:
        raise ValueError(f"Invalid shape {tuple(x.shape)} of x. Must be [n, d].")
    x = x.detach().double()
    norms = torch.linalg.vector_norm(x, dim=1)
    worst = norms[(norms - 1).abs().argmax()].item() if len(x) else 1.0
    if not abs(worst - 1) < 1e-4:  # inputs normalized in float32 pass, a missing normalization or a NaN does not
        raise ValueError(f"Invalid norm {worst:g} of an input. Must be 1: use torch.nn.functional.normalize(x, dim=1).")
    return x


def _fitting(x: Tensor, w: Tensor, a: Tensor | None) -> tuple[Tensor, Tensor]:
    if x.dim() != 2 or w.dim() != 2 or x.shape[1] != w.shape[1] or not len(w):
        raise ValueError(f"Invalid shapes {tuple(x.shape)} of x and {tuple(w.shape)} of w. Must be [n, d] and [m, d].")
    if a is not None and a.shape != w.shape[:1]:
        raise ValueError(f"Invalid shape {tuple(a.shape)} of a. Must be [{len(w)}], one weight for each row of w.")
    return x.detach().double(), w.detach().double()
