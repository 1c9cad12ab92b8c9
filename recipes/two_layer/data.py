"""Unit vectors and labels of size O(1), as in Assumption 1 of the paper."""

from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, Dataset, TensorDataset

from recipes.shared.data import ThreeSets
from recipes.shared.settings import require_at_least

Batch = tuple[Tensor, Tensor]
Geometry = Literal["gaussian", "nearly_orthogonal"]
Labels = Literal["teacher", "random"]


def gaussian_inputs(n: int, dim: int, generator: torch.Generator) -> Tensor:
    """Draws n points uniformly from the unit sphere, as normalized Gaussian vectors: shape `[n, d]`, float64."""
    return normalize(torch.randn(n, dim, generator=generator, dtype=torch.float64), dim=1)


def nearly_orthogonal_inputs(n: int, dim: int, generator: torch.Generator, noise: float = 0.1) -> Tensor:
    """Draws n orthonormal vectors, moves each by a Gaussian vector of norm about `noise`, and normalizes them.

    Args:
        n: Number of vectors.
        dim: Their dimension, at least n.
        generator: Source of randomness.
        noise: Expected norm of the move; 0 leaves the vectors exactly orthogonal.

    Returns:
        Shape `[n, d]`, float64.

    Raises:
        ValueError: More vectors than dimensions.
    """
    if n > dim:
        raise ValueError(f"Invalid n={n} for dim={dim}. Must be <= dim: no more vectors than that are orthogonal.")
    basis = torch.linalg.qr(torch.randn(dim, n, generator=generator, dtype=torch.float64)).Q.T
    return normalize(basis + noise * torch.randn(n, dim, generator=generator, dtype=torch.float64) / dim**0.5, dim=1)


GEOMETRIES: dict[Geometry, Callable[[int, int, torch.Generator], Tensor]] = {
    "gaussian": gaussian_inputs,
    "nearly_orthogonal": nearly_orthogonal_inputs,
}


class TwoLayerData(ThreeSets):
    """Synthetic regression on the unit sphere: training, validation and test sets of one distribution, in float64.

    Labels are standard Gaussian either way. A `teacher` draws a direction v and labels x by sqrt(d) <v, x>, so that
    unseen inputs can be predicted; `random` labels (the experiments of Du et al.) can only be memorized, and their
    validation loss says nothing.

    Args:
        n: Training examples.
        n_eval: Examples in each of the validation and the test set.
        dim: Dimension d of the inputs.
        geometry: `gaussian`: uniform on the sphere. `nearly_orthogonal`: an orthonormal set with small noise.
        labels: `teacher` or `random`.
        batch_size: Examples per step; None takes all of them, the paper's gradient descent.
        seed: Of the data alone, so that every run of every method and seed trains on the same examples.

    Raises:
        ValueError: A size below 1, or nearly orthogonal sets larger than the dimension.
    """

    def __init__(
        self,
        n: int = 50,
        n_eval: int = 50,
        dim: int = 50,
        geometry: Geometry = "gaussian",
        labels: Labels = "teacher",
        batch_size: int | None = None,
        seed: int = 0,
    ) -> None:
        require_at_least(1, n=n, n_eval=n_eval, dim=dim, batch_size=batch_size)
        super().__init__(batch_size or n, n_eval)
        if geometry == "nearly_orthogonal" and max(n, n_eval) > dim:
            raise ValueError(f"Invalid dim={dim} for nearly_orthogonal. Must be >= n={n} and n_eval={n_eval}.")
        self.n, self.n_eval, self.dim, self.seed = n, n_eval, dim, seed
        self.geometry, self.labels = geometry, labels
        self.is_full_batch = batch_size is None

    def read(self) -> dict[str, Dataset[Any]]:
        """Draws the three sets."""
        generator = torch.Generator().manual_seed(self.seed)
        direction = normalize(torch.randn(self.dim, generator=generator, dtype=torch.float64), dim=0)
        drawn: dict[str, Dataset[Any]] = {}
        for name, size in (("train", self.n), ("val", self.n_eval), ("test", self.n_eval)):
            x = GEOMETRIES[self.geometry](size, self.dim, generator)
            noise = torch.randn(size, generator=generator, dtype=torch.float64)
            drawn[name] = TensorDataset(x, self.dim**0.5 * (x @ direction) if self.labels == "teacher" else noise)
        return drawn

    @property
    def train_set(self) -> Batch:
        """All training inputs and labels, of which the quantities of the theory are functions."""
        x, y = self.sets["train"].tensors  # type: ignore[attr-defined]
        return x, y

    def train_dataloader(self) -> DataLoader[Batch]:
        """All examples in one batch, or shuffled again each epoch."""
        return self.loader("train", self.batch_size, shuffle=not self.is_full_batch)
