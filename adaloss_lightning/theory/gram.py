r"""Gram matrices that govern gradient descent on a two-layer ReLU network, :math:`du/dt = H (y - u)`.

The network is :math:`f(W, a, x) = m^{-1/2} \sum_{r=1}^m a_r \max(\langle w_r, x \rangle, 0)`.

Sources: Wu, Xie, Du, Ward (arXiv 2109.08282, Section 4, Definition 1) and Du, Zhai, Poczos, Singh (arXiv 1810.02054).
Everything is computed in float64: the smallest eigenvalues are lost in float32. Tensors, NumPy's arrays and lists are
taken alike.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from adaloss_lightning.theory.arrays import Numbers, as_double, as_matrix, as_symmetric, as_unit_rows

# Distance up to which two rows are one direction: normalizing x and 3x leaves them so far apart, and the smallest
# eigenvalue there, distance / (2 pi), is what rounding makes of 0.
PARALLEL = 8 * torch.finfo(torch.float64).eps
_ROWS = 256  # of a block: 40 MB at n = 20,000
_NEAR = 0.9  # |cosine| from which arccos loses digits: the angle's error is that of the cosine over its sine


def h_infinity(x: Numbers) -> Tensor:
    r"""The Gram matrix of infinite width, for unit vectors.

    .. math:: H^\infty_{ij} = \mathbb{E}_{w \sim N(0, I)} \, x_i^T x_j \, 1\{w^T x_i \ge 0, w^T x_j \ge 0\}
        = x_i^T x_j \, \frac{\pi - \theta_{ij}}{2 \pi}, \qquad
        \pi - \theta_{ij} = 2 \operatorname{atan2}(\|x_i + x_j\|, \|x_i - x_j\|)

    Definition 1 has :math:`\theta_{ij} = \arccos(x_i^T x_j)`, which loses half of the digits where rows are nearly
    parallel; there the angle is taken from the distances.

    Args:
        x: Inputs as rows, shape `[n, d]`, each of norm 1. They are normalized again in float64.

    Returns:
        Symmetric matrix, shape `[n, n]`, float64, on the device of `x`: 1/2 on the diagonal, 0 for orthogonal and for
        opposite inputs. Each entry has an error of about 1e-16.

    Raises:
        ValueError: `x` is no matrix, holds NaN, a row is not of norm 1, or two rows are parallel with the same
            direction, where the matrix is singular. Opposite rows are parallel too, which Du et al. exclude, but
            the matrix of a pair of them is not singular: see :func:`~adaloss_lightning.theory.parallel_rows`.

    Example:
        >>> h_infinity([[1.0, 0.0], [0.0, 1.0], [-0.6, 0.8]]).diagonal().tolist()
        [0.5, 0.5, 0.5]
        >>> torch.round(h_infinity([[1.0, 0.0], [0.5, 0.75**0.5]]) * 6, decimals=12).tolist()  # 60 degrees
        [[3.0, 1.0], [1.0, 3.0]]
    """
    rows = as_unit_rows("x", x)
    h = rows.new_empty(len(rows), len(rows))
    for start, block in upper_blocks(rows):
        stop = start + len(block)
        h[start:stop, start:] = block
        h[stop:, start:stop] = block[:, len(block) :].T
    return h


def upper_blocks(x: Tensor) -> Iterator[tuple[int, Tensor]]:
    """H-infinity in blocks of rows, each from its diagonal on: what a matrix too large for memory is read from.

    Args:
        x: Rows as :func:`~adaloss_lightning.theory.arrays.as_unit_rows` gives them, `[n, d]`.

    Yields:
        Index of the first row `i`, and the rows from `i` on, `[rows, n - i]`.

    Raises:
        ValueError: Two rows are parallel with the same direction.
    """
    for start in range(0, len(x), _ROWS):
        yield start, _block(x[start : start + _ROWS], x[start:], start)


def _block(left: Tensor, right: Tensor, start: int) -> Tensor:
    cosines = left @ right.T
    supplements = math.pi - torch.arccos(cosines.clamp(-1, 1))
    near = (cosines.abs() > _NEAR).any(0).nonzero().flatten()  # columns, among them those of `left` itself
    apart = distances(left, right[near])
    supplements[:, near] = 2 * torch.atan2(distances(left, -right[near]), apart)
    apart.fill_diagonal_(math.inf)  # the columns of `left` come first
    if apart.min() <= PARALLEL:
        i, j = divmod(int(apart.argmin()), len(near))
        raise ValueError(
            f"Invalid x[{start + int(near[j])}] and x[{start + i}], {apart[i, j]:g} apart after normalization. "
            "Must not be parallel: H-infinity is singular then. Leave one of them out."
        )
    block = cosines * supplements / (2 * math.pi)
    block.fill_diagonal_(0.5)
    return block


def distances(left: Tensor, right: Tensor) -> Tensor:
    """Euclidean distances of all rows of `left` from all rows of `right`."""
    # By differences: the shortcut through the product loses half of the digits where the distance is small.
    return torch.cdist(left, right, compute_mode="donot_use_mm_for_euclid_dist")


def h_empirical(x: Numbers, w: Numbers, a: Numbers = None) -> Tensor:
    r"""The Gram matrix of the first layer's weights at finite width (Section 4, after Assumption 2).

    .. math:: H_{ij} = \frac1m x_i^T x_j \sum_{r=1}^m a_r^2 \, 1\{w_r^T x_i \ge 0, w_r^T x_j \ge 0\}

    Args:
        x: Inputs as rows, shape `[n, d]`; the definition holds for any norms.
        w: Weights of the first layer, shape `[m, d]`.
        a: Output weights, shape `[m]`; None stands for signs, whose squares are 1.

    Returns:
        Symmetric matrix, shape `[n, n]`, float64.

    Raises:
        ValueError: Shapes that do not fit, or a number that is not finite.

    Example:
        >>> h_empirical([[1.0, 0.0], [0.6, 0.8]], w=[[1.0, 0.0], [-1.0, 1.0]]).tolist()  # the second sees one x
        [[0.5, 0.3], [0.3, 1.0]]
    """
    inputs, weights = _fitting(x, w)
    m = len(weights)
    signs = inputs.new_ones(m) if a is None else as_double("a", a).to(inputs.device)
    if signs.shape != (m,):
        raise ValueError(f"Invalid shape {tuple(signs.shape)} of a. Must be [{m}], one weight for each row of w.")
    active = (inputs @ weights.T >= 0).double()
    return (inputs @ inputs.T) * ((active * signs.square()) @ active.T) / m


def g_empirical(x: Numbers, w: Numbers) -> Tensor:
    r"""What the output weights add when they are trained too, :math:`du/dt = (H + G)(y - u)` (Du et al.).

    .. math:: G_{ij} = \frac1m \sum_{r=1}^m \max(w_r^T x_i, 0) \max(w_r^T x_j, 0)

    Args:
        x: Inputs as rows, shape `[n, d]`.
        w: Weights of the first layer, shape `[m, d]`.

    Returns:
        Symmetric matrix, shape `[n, n]`, float64.

    Raises:
        ValueError: Shapes that do not fit, or a number that is not finite.

    Example:
        >>> g_empirical([[1.0, 0.0], [0.0, 1.0]], w=[[2.0, 4.0]]).tolist()
        [[4.0, 8.0], [8.0, 16.0]]
    """
    inputs, weights = _fitting(x, w)
    hidden = (inputs @ weights.T).relu()
    return hidden @ hidden.T / len(weights)


def lambda_0(gram: Numbers) -> float | Tensor:
    r"""The smallest eigenvalue, :math:`\lambda_0` of Assumption 2: positive for H-infinity where no rows are parallel.

    Args:
        gram: Symmetric, shape `[n, n]`, or a batch `[..., n, n]`.

    Returns:
        A float; of a batch a float64 tensor `[...]`.

    Raises:
        ValueError: A matrix that is empty, not square, not symmetric or not finite.

    Example:
        >>> round(lambda_0([[2.0, 1.0], [1.0, 2.0]]), 12)
        1.0
    """
    return _number(torch.linalg.eigvalsh(as_symmetric("gram", gram))[..., 0])


def spectral_norm(matrix: Numbers) -> float | Tensor:
    """The largest singular value, the paper's norm of H and of differences of them.

    Args:
        matrix: Real numbers, shape `[n, m]`, or a batch `[..., n, m]`.

    Returns:
        A float; of a batch a float64 tensor `[...]`.

    Raises:
        ValueError: A matrix that is empty or not finite.

    Example:
        >>> spectral_norm([[0.0, 5.0], [0.0, 0.0]])
        5.0
    """
    values = as_double("matrix", matrix)
    if values.dim() < 2 or not values.numel():
        raise ValueError(f"Invalid shape {tuple(values.shape)} of matrix. Must be [..., n, m], none of them 0.")
    if values.shape[-1] == values.shape[-2] and torch.equal(values, values.mT):
        return _number(torch.linalg.eigvalsh(values).abs().amax(-1))  # several times faster
    return _number(torch.linalg.svdvals(values)[..., 0])


def _number(values: Tensor) -> float | Tensor:
    return values.item() if values.dim() == 0 else values


def _fitting(x: Numbers, w: Numbers) -> tuple[Tensor, Tensor]:
    inputs, weights = as_matrix("x", x, "[n, d]"), as_matrix("w", w, "[m, d]")
    if inputs.shape[1] != weights.shape[1]:
        shapes = f"{tuple(inputs.shape)} of x and {tuple(weights.shape)} of w"
        raise ValueError(f"Invalid shapes {shapes}. Must be [n, d] and [m, d].")
    return inputs, weights.to(inputs.device)
