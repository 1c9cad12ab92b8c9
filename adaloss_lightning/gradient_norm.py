"""The squared norm of a whole gradient, in one read of it."""

from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor
from torch._utils import _flatten_dense_tensors

_SMALL = 4096  # numbers; below, calling a kernel takes longer than copying them beside others
_BLAS = (torch.float32, torch.float64)
_place = attrgetter("is_cpu", "layout")
_dtype = attrgetter("dtype")


@torch.no_grad()
def squared_norm(gradients: Sequence[Tensor]) -> float | Tensor:
    """Sum of the squares of all numbers: a float where all lie on the CPU, else a 0-dim tensor.

    On the CPU each tensor is one dot product of BLAS and small ones share one; the sums over tensors are float64. That
    is both faster and closer to the true value than torch's norms of single tensors, whose float32 sums over 20 million
    numbers are off by 0.2 %. Elsewhere it is torch's own total norm.

    Args:
        gradients: Not empty; dense, of any shapes, dtypes and devices that ``torch.nn.utils.get_total_norm`` takes.
    """
    is_plain = set(map(type, gradients)) == {Tensor} and set(map(_place, gradients)) == {(True, torch.strided)}
    if not is_plain or torch.compiler.is_compiling():
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm if norm.device.type == "mps" else norm.double()  # MPS has no float64
        return norm * norm
    large: Sequence[Tensor] = gradients
    total = 0.0
    if set(map(_dtype, gradients)) == {torch.float32}:
        sizes = list(map(Tensor.numel, gradients))
        small = [g for g, size in zip(gradients, sizes, strict=True) if size < _SMALL]
        large = [g for g, size in zip(gradients, sizes, strict=True) if size >= _SMALL]
        if small:
            total += _square(_flatten_dense_tensors(small))  # type: ignore[no-untyped-call]
    return total + sum(map(_square, large))


def _square(gradient: Tensor) -> float:
    if gradient.dtype in _BLAS and gradient.is_contiguous():
        flat = gradient.view(-1)
        return float(torch.dot(flat, flat))
    real = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    return float(torch.linalg.vector_norm(real, dtype=torch.float64)) ** 2
