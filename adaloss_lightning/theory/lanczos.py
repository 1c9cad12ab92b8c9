"""Lanczos' method: both ends of the spectrum of a symmetric operator, from products with it alone.

Source: Golub and Van Loan, *Matrix Computations*, 4th edition, Section 10.1.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

_EXHAUSTED = 1e-13  # a next vector this small beside the operator is rounding: all that the start contains was found


class Ritz(NamedTuple):
    """An approximate eigenvalue, and the norm of its residual: a true eigenvalue is at most that far away."""

    value: float
    error: float


class Ends(NamedTuple):
    """What was found, after how many products."""

    smallest: Ritz
    largest: Ritz
    products: int


def lanczos(
    product: Callable[[Tensor], Tensor],
    start: Tensor,
    is_enough: Callable[[Ends], bool],
    *,
    most: int,
    orthogonalize: bool = True,
) -> Ends:
    """Approximate the smallest and the largest eigenvalue.

    Args:
        product: The operator: a vector as `start` to one of the same shape and dtype.
        start: Random, so that no eigenvector is missing in it, shape `[n]`; float64 where the device has it.
        is_enough: Looks at what was found so far; asked after 1, 2, 3, ... and then every tenth more products.
        most: Products at most. It ends there whether or not it is enough.
        orthogonalize: Whether to keep all vectors, `[products, n]`, and each new one orthogonal to them. Without
            that, values and errors stay right, and it may take more products.

    Returns:
        The ends. The largest may still be too small and the smallest too large by their errors.
    """
    n = len(start)
    basis = start.new_empty(0, n)
    alphas: list[float] = []
    betas: list[float] = []
    previous, vector, beta, next_look = torch.zeros_like(start), start / start.norm(), 0.0, 1
    for count in range(1, min(most, n) + 1):
        new = product(vector)
        alphas.append((new @ vector).item())
        new = new - alphas[-1] * vector - beta * previous
        if orthogonalize:
            if count > len(basis):
                basis = torch.cat([basis, basis.new_empty(max(16, len(basis)), n)])
            basis[count - 1] = vector
            for _ in range(2):  # the second time removes what rounding left by the first
                new = new - basis[:count].T @ (basis[:count] @ new)
        beta = new.norm().item()
        is_last = count == min(most, n) or beta <= _EXHAUSTED * max(map(abs, alphas + betas))
        if is_last or count >= next_look:
            ends = _ends(alphas, betas, beta)
            if is_last or is_enough(ends):
                break
            next_look = count + max(1, count // 10)
        betas.append(beta)
        previous, vector = vector, new / beta
    return ends


def _ends(alphas: list[float], betas: list[float], beta: float) -> Ends:
    """The eigenvalues of the tridiagonal matrix; the last entries of its eigenvectors give the residuals."""
    off = torch.diag(torch.tensor(betas, dtype=torch.float64), 1)
    values, vectors = torch.linalg.eigh(torch.diag(torch.tensor(alphas, dtype=torch.float64)) + off + off.T)
    first, last = (Ritz(values[i].item(), abs(beta * vectors[-1, i].item())) for i in (0, -1))
    return Ends(first, last, len(alphas))
