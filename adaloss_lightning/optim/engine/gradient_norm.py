"""The squared norm of a whole gradient, in one read of it."""

import math
from collections.abc import Sequence
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor

_SMALL = 4096  # numbers; below, calling a kernel takes longer than copying them beside others
_ROW = 512  # numbers whose squares are added in float32, among the small ones that are joined
LONGEST = 2**22  # numbers in one dot product; fewer cost calls, more cost digits
_FEW = 32  # tensors; below, joining the small ones does not pay
_TINY = 1e-30  # below, squares may be missing that float32 cannot hold
_BLAS = {torch.float32, torch.float64}
_dtype = attrgetter("dtype")


def squared_norm(gradients: Sequence[Tensor]) -> float | Tensor:
    """Sum of the squares of all numbers: a float where all lie on the CPU, else a 0-dim tensor.

    On the CPU each tensor is read by dot products of BLAS, small ones are joined, and what these give is added in
    float64. That is both faster and closer to the true value than torch's norms of single tensors, whose float32 sums
    over 20 million numbers are off by 0.2 %. BLAS adds in float32 too, and the fewer cores, the more numbers each adds.
    So no sum in float32 is long: on a single core that adds equal numbers, the worst case, those in tensors below 4096
    are off by 4e-6 at most, and any others by 0.1 % to 0.4 %. Elsewhere it is torch's own total norm, over all
    ranks where gradients are sharded.

    Args:
        gradients: Not empty; of any shapes, dtypes and devices that ``torch.nn.utils.get_total_norm`` takes, or sparse.
    """
    if not torch.compiler.is_compiling():
        parts = gradients if len(gradients) < _FEW else _with_small_ones_joined(gradients)
        if _are_blas(parts):
            try:
                return _sum_of_squares(parts, gradients)
            except RuntimeError:  # one of them is sparse, or does not lie in one block: rare, and dear to ask each
                pass
        if not all(map(_is_plain, parts)):
            parts = gradients = [_values(gradient) for gradient in gradients]
        if all(map(_is_plain, parts)):
            return sum(map(_square, parts))
    by_mesh: dict[Any, list[Tensor]] = {}  # torch takes no norm of plain and sharded gradients together
    for gradient in gradients:
        by_mesh.setdefault(getattr(gradient, "device_mesh", None), []).append(gradient)
    return sum(map(_square_of_total_norm, by_mesh.values()))


@torch.no_grad()
def _square_of_total_norm(gradients: Sequence[Tensor]) -> Tensor:
    norm: Any = torch.nn.utils.get_total_norm(gradients)
    if hasattr(norm, "full_tensor"):  # of sharded gradients; nothing that follows takes a DTensor
        norm = norm.full_tensor()
    norm = norm if norm.device.type == "mps" else norm.double()  # MPS has no float64
    return torch.square(norm)


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
        joined = torch.cat(small)  # type: ignore[arg-type]
    except RuntimeError:  # on several devices, or sparse
        return gradients
    if not _are_blas([joined]):
        return [joined, *large]
    end = joined.numel() // _ROW * _ROW
    norms = torch.linalg.vector_norm(joined[:end].view(-1, _ROW), dim=1)  # as many squares in all as the numbers have
    return [norms.double(), joined[end:], *large]


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


def _sum_of_squares(parts: Sequence[Tensor], gradients: Sequence[Tensor]) -> float:
    """That of the parts, unless BLAS cannot hold it; then that of the gradients, which has the same value."""
    total = 0.0
    for part in reversed(parts):  # the step that follows finds the first, with which it begins, in the caches
        flat = part.view(-1)
        for piece in torch.split(flat, LONGEST) if flat.numel() > LONGEST else (flat,):
            total += torch.dot(piece, piece).item()
    return total if _TINY < total < math.inf else sum(map(_square_of_norm, gradients))


def _square(gradient: Tensor) -> float:
    if _are_blas([gradient]) and gradient.is_contiguous():
        return _sum_of_squares([gradient], [gradient])
    return _square_of_norm(gradient)


def _square_of_norm(gradient: Tensor) -> float:
    """In float64 from the start: squares of what float32 holds may be out of its range, to either side."""
    real = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    return float(torch.linalg.vector_norm(real, dtype=torch.float64)) ** 2
