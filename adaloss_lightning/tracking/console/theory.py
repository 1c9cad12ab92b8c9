"""`adaloss theory`: the theory's quantities of a matrix in a file."""

import argparse
import math
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from adaloss_lightning.tracking.errors import TrackingError, one_line
from adaloss_lightning.tracking.terminal import show

if TYPE_CHECKING:
    from torch import Tensor

_FILE = "matrix in a .npy, .pt or .csv file (comma-separated numbers, with or without a line of names)"


def add_theory(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the command to the parser of the console."""
    theory = commands.add_parser(
        "theory", allow_abbrev=False, help="H-infinity, critical b and sharpness of a matrix in a file"
    )
    quantities = theory.add_subparsers(required=True, metavar="{gram,critical,sharpness}")
    for name, what, compute in (
        ("gram", "lambda_0 and norm of H-infinity of a two-layer ReLU network, whose inputs are the rows", _gram),
        ("critical", "critical b of linear regression on the rows", _critical),
        ("sharpness", "largest eigenvalue of a symmetric matrix, a Hessian, and the rate that it allows", _sharpness),
    ):
        quantity = quantities.add_parser(name, allow_abbrev=False, help=what, description=f"Print the {what}.")
        quantity.add_argument("file", type=Path, metavar="FILE", help=_FILE)
        quantity.add_argument("--lr", type=float, default=1.0, help="the paper's eta, for critical b (default: 1)")
        quantity.set_defaults(command=_run, compute=compute)
        if name == "gram":
            quantity.add_argument("--normalize", action="store_true", help="divide each row by its norm first")


def _run(arguments: argparse.Namespace) -> int:
    if not 0 < arguments.lr < math.inf:
        raise TrackingError(f"Invalid --lr={arguments.lr:g}. Must be > 0 and finite.")
    compute: Callable[[Any, argparse.Namespace], Mapping[str, float]] = arguments.compute
    try:
        found = compute(read_matrix(arguments.file), arguments)
    except (ValueError, RuntimeError) as error:
        raise TrackingError(f"{arguments.file}: {one_line(error, '')}") from error
    width = max(map(len, found))
    show("\n".join(f"{name:{width}}  {value:.10g}" for name, value in found.items()))
    return 0


def _gram(x: "Tensor", arguments: argparse.Namespace) -> dict[str, float]:
    from torch.nn.functional import normalize

    from adaloss_lightning.theory import extreme_eigenvalues

    smallest, largest = extreme_eigenvalues(normalize(x.double(), dim=-1) if arguments.normalize else x)
    return {
        "lambda_0": smallest,
        "norm": largest,
        "norm / lambda_0": largest / smallest,
        "critical b": arguments.lr * (smallest + largest) / 2,
    }


def _critical(x: "Tensor", arguments: argparse.Namespace) -> dict[str, float]:
    from adaloss_lightning.theory import critical_b, spectral_norm

    lambda1 = float(spectral_norm(x)) ** 2
    return {"lambda_1": lambda1, "critical b": critical_b(arguments.lr, lambda1).item()}


def _sharpness(hessian: "Tensor", arguments: argparse.Namespace) -> dict[str, float]:
    from adaloss_lightning.theory import critical_b, largest_eigenvalue

    value = largest_eigenvalue(hessian)[0].item()
    found = {"lambda_max": value}
    if value > 0:
        found |= {"critical rate": 2 / value, "critical b": critical_b(arguments.lr, value).item()}
    return found


def read_matrix(path: Path) -> "Tensor":
    """The matrix that a file holds.

    Raises:
        TrackingError: The file cannot be read, or holds no matrix of numbers.
    """
    import torch

    readers = {".npy": _read_npy, ".pt": _read_pt, ".csv": _read_csv}
    if path.suffix.lower() not in readers:
        raise TrackingError(f"Invalid FILE={path}. Must end in .npy, .pt or .csv.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)  # NumPy's of an empty file
            value = readers[path.suffix.lower()](path)
    except OSError as error:
        raise TrackingError(f"Cannot read {path}: {error.strerror or one_line(error, '')}.") from error
    except Exception as error:  # torch and NumPy raise anything for files of another kind
        raise TrackingError(f"Cannot read {path} as a {path.suffix} file: {one_line(error, '', 200)}") from error
    if not isinstance(value, torch.Tensor) or value.dim() != 2:
        shape = f"of shape {tuple(value.shape)}" if isinstance(value, torch.Tensor) else type(value).__name__
        raise TrackingError(f"Invalid content of {path}: {shape}. Must be a matrix of numbers.")
    return value


def _read_npy(path: Path) -> Any:
    import numpy as np
    import torch

    return torch.tensor(np.load(path, allow_pickle=False))


def _read_pt(path: Path) -> Any:
    import torch

    return torch.load(path, map_location="cpu", weights_only=True)


def _read_csv(path: Path) -> Any:
    import numpy as np
    import torch

    try:
        table = np.loadtxt(path, delimiter=",", ndmin=2)
    except ValueError:
        table = np.loadtxt(path, delimiter=",", ndmin=2, skiprows=1)  # a line of names
    return torch.tensor(table)
