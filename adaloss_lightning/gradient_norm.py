"""The squared norm of a whole gradient, in one read of it."""

import math
from collections.abc import Sequence
from operator import attrgetter

import torch
from torch import Tensor

_SMALL = 4096  # numbers; below, calling a kernel takes longer than copying them beside others
_FEW = 32  # tensors, of which it is not worth while to find and join the small ones
_TINY = 1e-30  # below, squares may be missing that float32 cannot hold
_BLAS = {torch.float32, torch.float64}
_dtype = attrgetter("dtype")


def squared_norm(gradients: Sequence[Tensor]) -> float | Tensor:
    """Sum of the squares of all numbers: a float where all lie on the CPU, else a 0-dim tensor.

    On the CPU each tensor is one dot product of BLAS and small ones share one; the sums over tensors are float64. That
    is both faster and closer to the true value than torch's norms of single tensors, whose float32 sums over 20 million
    numbers are off by 0.2 %. Elsewhere it is torch's own total norm.

    Args:
        gradients: Not empty; of any shapes, dtypes and devices that ``torch.nn.utils.get_total_norm`` takes, or sparse.
    """
    if not torch.compiler.is_compiling():
        parts = gradients if len(gradients) < _FEW else _with_small_ones_joined(gradients)
        if _are_blas(parts):
            try:
                return _sum_of_squares(parts)
            except RuntimeError:  # one of them is sparse, or does not lie in one block: rare, and dear to ask each
                pass
        if not all(map(_is_plain, parts)):
            parts = gradients = [_values(gradient) for gradient in gradients]
        if all(map(_is_plain, parts)):
            return sum(map(_square, parts))
    with torch.no_grad():
        norm = torch.nn.utils.get_total_norm(gradients)
        norm = norm if norm.device.type == "mps" else norm.double()  # MPS has no float64
        return norm * norm


def _with_small_ones_joined(gradients: Sequence[Tensor]) -> Sequence[Tensor]:
    sizes = list(map(Tensor.numel, gradients))
    if max(sizes) < _SMALL:
        small, large = gradients, []
    else:
        pairs = list(zip(gradients, sizes, strict=True))
        small = [gradient for gradient, size in pairs if size < _SMALL]
        large = [gradient for gradient, size in pairs if size >= _SMALL]
    if len(small) < _FEW:
        return gradients
    try:
        if set(map(Tensor.dim, small)) != {1}:
            small = [gradient if gradient.dim() == 1 else gradient.reshape(-1) for gradient in small]
        return [torch.cat(small), *large]  # type: ignore[arg-type]
    except RuntimeError:  # on several devices, or sparse
        return gradients


def _are_blas(tensors: Sequence[Tensor]) -> bool:
    """Whether BLAS takes them, if each lies in one block: asked of all at once, since each question costs time."""
    return (
        set(map(type, tensors)) == {Tensor}
        and set(map(Tensor.get_device, tensors)) == {-1}  # the CPU
        and set(map(_dtype, tensors)) <= _BLAS
    )


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) is Tensor and tensor.is_cpu and tensor.layout is torch.strided


def _values(gradient: Tensor) -> Tensor:
    return gradient.coalesce().values() if gradient.layout is torch.sparse_coo else gradient


def _sum_of_squares(gradients: Sequence[Tensor]) -> float:
    total = 0.0
    for gradient in reversed(gradients):  # the step that follows finds the first, with which it begins, in the caches
        flat = gradient.view(-1)
        total += torch.dot(flat, flat).item()
    return total if _TINY < total < math.inf else sum(map(_square_of_norm, gradients))


def _square(gradient: Tensor) -> float:
    if _are_blas([gradient]) and gradient.is_contiguous():
        return _sum_of_squares([gradient])
    return _square_of_norm(gradient)


def _square_of_norm(gradient: Tensor) -> float:
    """In float64 from the start: squares of what float32 holds may be out of its range, to either side."""
    real = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    return float(torch.linalg.vector_norm(real, dtype=torch.float64)) ** 2
