"""Arguments of the theory as float64 tensors: from tensors, arrays and lists, and refused with index and value."""

from numbers import Integral
from typing import Any

import torch
from torch import Tensor

Numbers = Any  # a tensor, an array of NumPy or of another library that has __array__, a number, or lists of them

_UNIT = 1e-4  # inputs normalized in float32, or written with four decimals, pass; a missing normalization does not
_SYMMETRIC = {torch.float64: 1e-12, torch.float32: 1e-5}  # relative: what rounding makes of a symmetric matrix


def as_double(name: str, value: Numbers) -> Tensor:
    """A detached float64 tensor of finite numbers, on the device of `value` where that has float64.

    Args:
        name: How an error calls it.
        value: A tensor, an array, a number, or lists of them.

    Raises:
        ValueError: It holds no real numbers, or one that is not finite.
    """
    tensor = _as_tensor(name, value)
    _require_finite(name, tensor)
    return tensor.double()


def as_positive(name: str, value: Numbers) -> Tensor:
    """The same, and every number > 0."""
    tensor = as_double(name, value)
    _require(name, tensor, tensor > 0, "Must be > 0.")
    return tensor


def as_matrix(name: str, value: Numbers, shape: str) -> Tensor:
    """The same as :func:`as_double`, with two dimensions and at least one number; `shape` is how an error wants it."""
    tensor = as_double(name, value)
    if tensor.dim() != 2 or not tensor.numel():
        raise ValueError(f"Invalid shape {tuple(tensor.shape)} of {name}. Must be {shape}, none of them 0.")
    return tensor


def as_symmetric(name: str, value: Numbers) -> Tensor:
    """Symmetric matrices `[..., n, n]`, n >= 1, without the rounding by which the two triangles differ."""
    given = _as_tensor(name, value)
    matrix = as_double(name, given)
    if matrix.dim() < 2 or matrix.shape[-1] != matrix.shape[-2] or not matrix.numel():
        raise ValueError(f"Invalid shape {tuple(matrix.shape)} of {name}. Must be [..., n, n], none of them 0.")
    gap = (matrix - matrix.mT).abs()
    allowed = _SYMMETRIC.get(given.dtype, 1e-2) * matrix.abs().amax((-2, -1), keepdim=True)
    if (gap > allowed).any():
        *batch, i, j = (gap > allowed).nonzero()[0].tolist()
        there, mirrored = (matrix[(*batch, *place)].item() for place in ((i, j), (j, i)))
        raise ValueError(
            f"Invalid {_at(name, [*batch, i, j])}={there:g} with {_at(name, [*batch, j, i])}={mirrored:g}. "
            "Must be symmetric."
        )
    return (matrix + matrix.mT) / 2


def as_unit_rows(name: str, value: Numbers) -> Tensor:
    """Rows `[n, d]` of norm 1 to within 1e-4, normalized again in float64."""
    x = as_matrix(name, value, "[n, d]")
    norms: Tensor = torch.linalg.vector_norm(x, dim=1, keepdim=True)
    wrong = ((norms - 1).abs() > _UNIT).flatten().nonzero()
    if len(wrong):
        row = int(wrong[0])
        raise ValueError(
            f"Invalid norm {norms[row].item():g} of {name}[{row}]. "
            "Must be 1: use torch.nn.functional.normalize(x, dim=1), which leaves a row of zeros zero."
        )
    return x / norms


def require_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless `value` is one of `choices`."""
    if value not in choices:
        raise ValueError(f"Invalid {name}={value!r}. Must be one of {', '.join(map(repr, choices))}.")


def require_count(name: str, value: object) -> None:
    """Raise ``ValueError`` unless `value` is a whole number >= 1."""
    if not isinstance(value, Integral) or value < 1:
        raise ValueError(f"Invalid {name}={value!r}. Must be a whole number >= 1.")


def _as_tensor(name: str, value: Numbers) -> Tensor:
    try:
        tensor = _converted(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"Invalid {name} of type {type(value).__name__}. Must hold real numbers: {error}") from error
    if tensor.is_complex():
        raise ValueError(f"Invalid dtype {tensor.dtype} of {name}. Must be real.")
    return tensor.cpu() if tensor.device.type == "mps" else tensor  # which has no float64


def _converted(value: Numbers) -> Tensor:
    if isinstance(value, Tensor):
        return value.detach()
    if hasattr(value, "__array__"):
        array: Any = value.__array__()
        return torch.tensor(array.astype(array.dtype.newbyteorder("=")))  # a copy: torch warns of read-only arrays
    if isinstance(value, (list, tuple)) and any(hasattr(part, "__array__") for part in value):
        return torch.stack([_converted(part) for part in value])
    return torch.tensor(value, dtype=torch.float64)


def _require_finite(name: str, tensor: Tensor) -> None:
    _require(name, tensor, torch.isfinite(tensor), "Must be finite.")


def _require(name: str, tensor: Tensor, holds: Tensor, message: str) -> None:
    if not holds.all():
        index = (~holds).nonzero()[0].tolist()
        raise ValueError(f"Invalid {_at(name, index)}={tensor[tuple(index)].item():g}. {message}")


def _at(name: str, index: list[int]) -> str:
    return f"{name}[{', '.join(map(str, index))}]" if index else name
