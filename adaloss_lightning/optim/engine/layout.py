"""The layout of tensors in memory, as far as torch's fused kernels care.

They walk the raw memory of parameter, gradient and state side by side. That is right only where all of them are dense
and laid out alike; elsewhere (a strided slice as a parameter, a channels_last parameter with a row-major gradient) the
stock optimizers give silently wrong numbers. Sparse gradients and complex parameters have no fused kernel at all.
"""

from collections.abc import Iterable
from itertools import chain
from operator import attrgetter

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

_DEVICES = ("cpu", "cuda")  # where the fused kernels were measured to be right; fused=True asks for them elsewhere
_is_contiguous = Tensor.is_contiguous
_device_index = Tensor.get_device  # -1 on the CPU
_dtype = attrgetter("dtype")


def is_dense(tensor: Tensor) -> bool:
    """Whether the elements fill one block of memory without gap or overlap, in whatever order of dimensions."""
    if tensor.layout is not torch.strided:
        return False
    if tensor.is_contiguous():
        return True
    order = sorted(range(tensor.dim()), key=lambda dim: (tensor.stride(dim), tensor.size(dim)), reverse=True)
    return tensor.permute(order).is_contiguous()


def same_layout(parameter: Tensor, other: Tensor) -> bool:
    """Whether element i in the memory of one is element i in the memory of the other, for a dense ``parameter``."""
    if other.layout is not torch.strided or other.shape != parameter.shape:
        return False
    pairs = zip(parameter.shape, parameter.stride(), other.stride(), strict=True)
    return all(mine == theirs for size, mine, theirs in pairs if size > 1)


def fits(parameters: Iterable[Tensor]) -> bool:
    """Whether the fused kernels may take these parameters, as far as can be said before there are gradients."""
    return all(
        not is_lazy(p) and p.is_floating_point() and p.device.type in _DEVICES and is_dense(p) for p in parameters
    )


def agree(parameters: list[Tensor], others: list[Tensor]) -> bool:
    """Whether the other tensors (gradients, state) lie in memory as the parameters do.

    Raises:
        TypeError: If one of them is None.
    """
    # the first of each is enough: model.double() after the optimizer was built changes all
    if others and others[0] is not None and others[0].dtype != parameters[0].dtype:
        return False
    try:
        if all(map(_is_contiguous, parameters)) and all(map(_is_contiguous, others)):
            return True
    except RuntimeError:  # a sparse tensor has no strides to speak of
        return False
    if any(other is None for other in others):  # behind the first that is not contiguous
        raise TypeError("a parameter has no gradient")
    return all(map(is_dense, parameters)) and all(map(same_layout, parameters, others))


def are_alike(parameters: list[Tensor], gradients: list[Tensor]) -> bool:
    """Whether one device and one dtype hold for all, so that one call of a kernel may take them."""
    return len(set(map(_device_index, parameters))) < 2 and len(set(map(_dtype, chain(parameters, gradients)))) < 2
