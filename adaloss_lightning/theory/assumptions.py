"""Assumptions 1 and 2 of the AdaLoss paper (Section 4), and that of Du et al. which implies the second."""

import torch

from adaloss_lightning.theory.arrays import Numbers, as_double, as_unit_rows
from adaloss_lightning.theory.gram import PARALLEL, distances, h_infinity

_ROWS = 256  # compared with all others at once


def check_assumption_1(x: Numbers, y: Numbers, largest_label: float) -> float:
    r"""Check Assumption 1: :math:`\|x_i\| = 1` and :math:`|y_i| = O(1)`.

    Args:
        x: Inputs as rows, shape `[n, d]`.
        y: Labels, shape `[n]`.
        largest_label: The constant behind O(1), which the paper leaves open.

    Returns:
        The largest :math:`|y_i|`, in units of y.

    Raises:
        ValueError: A norm other than 1, or a label above `largest_label`, each with its index.

    Example:
        >>> check_assumption_1([[1.0, 0.0], [0.6, 0.8]], [0.5, -2.0], largest_label=3.0)
        2.0
    """
    inputs, labels = as_unit_rows("x", x), as_double("y", y)
    if labels.shape != inputs.shape[:1]:
        raise ValueError(f"Invalid shape {tuple(labels.shape)} of y. Must be [{len(inputs)}], a label for each row.")
    worst = int(labels.abs().argmax())
    largest = abs(labels[worst].item())
    if largest > largest_label:
        raise ValueError(f"Invalid y[{worst}]={labels[worst]:g}. Must be at most {largest_label:g} in size.")
    return largest


def check_assumption_2(x: Numbers) -> float:
    r"""Check Assumption 2: :math:`\lambda_0 = \lambda_{\min}(H^\infty) > 0`.

    It holds where no two rows are parallel (Du et al.), but in float64 only eigenvalues above about
    :math:`n \epsilon \|H^\infty\|` can be told from 0.

    Args:
        x: Inputs as rows of norm 1, shape `[n, d]`.

    Returns:
        :math:`\lambda_0`.

    Raises:
        ValueError: :math:`\lambda_0` cannot be told from 0, or what
            :func:`~adaloss_lightning.theory.h_infinity` refuses.

    Example:
        >>> round(check_assumption_2([[1.0, 0.0], [0.0, 1.0]]), 12)
        0.5
    """
    values = torch.linalg.eigvalsh(h_infinity(x))
    rounding = len(values) * torch.finfo(values.dtype).eps * values[-1].item()
    smallest: float = values[0].item()
    if smallest <= rounding:
        raise ValueError(f"Invalid lambda_0={smallest:g} of H-infinity. Must be > {rounding:g}, which is rounding.")
    return smallest


def parallel_rows(x: Numbers) -> list[tuple[int, int]]:
    r"""Pairs of rows with :math:`x_i = \pm x_j`, which Du et al. exclude.

    Rows of the same direction make H-infinity singular. Opposite ones need not: alone they leave it at 1/2 times the
    identity, while d + 1 opposite pairs in d dimensions are too many.

    Args:
        x: Inputs as rows of norm 1, shape `[n, d]`.

    Returns:
        Index pairs `(i, j)`, i < j, in order. Rows count as parallel where they differ by rounding.

    Raises:
        ValueError: `x` is no matrix of rows of norm 1.

    Example:
        >>> parallel_rows([[0.6, 0.8], [1.0, 0.0], [-0.6, -0.8]])
        [(0, 2)]
    """
    rows = as_unit_rows("x", x)
    found: list[tuple[int, int]] = []
    for start in range(0, len(rows), _ROWS):
        some, rest = rows[start : start + _ROWS], rows[start:]
        gaps = torch.minimum(distances(some, rest), distances(some, -rest))
        found += [(start + i, start + j) for i, j in (gaps <= PARALLEL).nonzero().tolist() if i < j]
    return found
