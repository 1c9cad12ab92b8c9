"""Unit vectors and labels of size O(1), as Assumption 1 of the paper wants them."""

from collections.abc import Callable
from typing import Literal

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.nn.functional import normalize
from torch.utils.data import DataLoader, TensorDataset

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


class TwoLayerData(LightningDataModule):
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
        super().__init__()
        sizes = {"n": n, "n_eval": n_eval, "dim": dim, "batch_size": n if batch_size is None else batch_size}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"Invalid {name}={value}. Must be >= 1.")
        if geometry == "nearly_orthogonal" and max(n, n_eval) > dim:
            raise ValueError(f"Invalid dim={dim} for nearly_orthogonal. Must be >= n={n} and n_eval={n_eval}.")
        self.n, self.n_eval, self.dim = n, n_eval, dim
        self.geometry, self.labels, self.batch_size, self.seed = geometry, labels, batch_size, seed
        self._sets: dict[str, Batch] = {}

    def setup(self, stage: str) -> None:
        """Draws the three sets once, whatever stage comes first."""
        if self._sets:
            return
        generator = torch.Generator().manual_seed(self.seed)
        direction = normalize(torch.randn(self.dim, generator=generator, dtype=torch.float64), dim=0)
        for name, size in (("train", self.n), ("val", self.n_eval), ("test", self.n_eval)):
            x = GEOMETRIES[self.geometry](size, self.dim, generator)
            noise = torch.randn(size, generator=generator, dtype=torch.float64)
            self._sets[name] = (x, self.dim**0.5 * (x @ direction) if self.labels == "teacher" else noise)

    @property
    def train_set(self) -> Batch:
        """All training inputs and labels, of which the quantities of the theory are functions."""
        return self._sets["train"]

    def train_dataloader(self) -> DataLoader[Batch]:
        """All examples in one batch, or shuffled anew each epoch."""
        return self._loader("train", self.batch_size or self.n, shuffle=self.batch_size is not None)

    def val_dataloader(self) -> DataLoader[Batch]:
        """The validation set in one batch."""
        return self._loader("val", self.n_eval)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test set in one batch."""
        return self._loader("test", self.n_eval)

    def _loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Batch]:
        return DataLoader(
            TensorDataset(*self._sets[name]),  # type: ignore[arg-type]  # a tuple of any length, to mypy
            batch_size=batch_size,
            shuffle=shuffle,
        )
