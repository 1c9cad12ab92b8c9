"""The extreme eigenvalues of H-infinity for more inputs than a dense matrix is good for."""

import torch
from torch import Tensor

from adaloss_lightning.theory.arrays import Numbers, as_positive, as_unit_rows, require_count
from adaloss_lightning.theory.gram import h_infinity, upper_blocks
from adaloss_lightning.theory.lanczos import Ends, lanczos

_DENSE = 2048  # inputs up to which all eigenvalues of the dense matrix, 32 MB, are there sooner
_FLOOR = 1e-14  # residual relative to the largest eigenvalue that rounding allows


def extreme_eigenvalues(
    x: Numbers, *, tolerance: float = 1e-6, max_products: int = 3000, max_bytes: int = 2 * 2**30, seed: int = 0
) -> tuple[float, float]:
    r"""The smallest and the largest eigenvalue of H-infinity, :math:`\lambda_0` and :math:`\|H^\infty\|`.

    Lanczos' method needs products with H-infinity alone. Its upper triangle is computed once in blocks of rows and
    kept where it fits into `max_bytes` (up to n = 23,000 by default, half of the dense matrix); beyond that each
    product computes the blocks again. Up to n = 2,048 the dense matrix is the faster way, and is taken.

    Args:
        x: Inputs as rows of norm 1, shape `[n, d]`.
        tolerance: Largest residual, relative to the eigenvalue. The error is at most that, and by far smaller where
            the eigenvalue has some distance from the next.
        max_products: Products with H-infinity at most, >= 1.
        max_bytes: Memory for the blocks. The vectors take 8 n bytes for each product more.
        seed: Of the start vector. Random numbers of the caller do not move.

    Returns:
        `(smallest, largest)`, float64.

    Raises:
        ValueError: What :func:`~adaloss_lightning.theory.h_infinity` refuses, or a setting that is out of its bounds.
        RuntimeError: `max_products` was not enough. The smallest eigenvalue of many inputs in few dimensions lies so
            close to its neighbours, and to 0, that no number of products finds it to six digits.

    Example:
        >>> smallest, largest = extreme_eigenvalues([[1.0, 0.0], [0.5, 0.75**0.5]])  # 1/2 -+ 1/6
        >>> round(smallest * 6, 9), round(largest * 6, 9)
        (2.0, 4.0)
    """
    rows = as_unit_rows("x", x)
    relative = as_positive("tolerance", tolerance).item()
    require_count("max_products", max_products)
    if len(rows) <= _DENSE and 8 * len(rows) ** 2 <= max_bytes:
        values = torch.linalg.eigvalsh(h_infinity(rows))
        return values[0].item(), values[-1].item()
    kept = list(upper_blocks(rows)) if 4 * len(rows) ** 2 <= max_bytes else None

    def product(vector: Tensor) -> Tensor:
        result = torch.zeros_like(vector)
        for first, block in upper_blocks(rows) if kept is None else kept:
            last = first + len(block)
            result[first:last] += block @ vector[first:]
            result[last:] += block[:, len(block) :].T @ vector[first:last]
        return result

    def is_enough(ends: Ends) -> bool:
        floor = _FLOOR * ends.largest.value
        return all(end.error <= max(relative * abs(end.value), floor) for end in (ends.smallest, ends.largest))

    start = torch.randn(len(rows), generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(rows.device)
    ends = lanczos(product, start, is_enough, most=max_products)
    if ends.products == max_products < len(rows) and not is_enough(ends):
        raise RuntimeError(
            f"The smallest eigenvalue is {ends.smallest.value:g} +- {ends.smallest.error:.1g} and the largest "
            f"{ends.largest.value:g} +- {ends.largest.error:.1g} after {max_products} products. "
            "Give a larger tolerance or more max_products."
        )
    return ends.smallest.value, ends.largest.value
