"""Regression with the two-layer network, one training loop for all methods."""

from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from recipes.two_layer.data import Batch
from recipes.two_layer.network import TwoLayerNetwork, half_squares


class TwoLayerModule(LightningModule):
    """Trains with L = 1/2 norm(u - y)^2 of the batch; logs `train/loss`, `val/loss` and `test/loss`.

    The loss is a sum, as in the paper: over the whole training set for gradient descent, over the batch for stochastic
    steps.

    Args:
        dim: d, the size of an input; on the command line it is the data's.
        width: m, the number of hidden units.
        train_output: Train both layers instead of the first alone.
        dtype: What to compute in. In float64 the loss falls below 1e-20, in float32 it ends at about 1e-12.

    Raises:
        ValueError: A size below 1.
    """

    def __init__(
        self,
        dim: int = 50,
        width: int = 4096,
        train_output: bool = False,
        dtype: Literal["float32", "float64"] = "float64",
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        # Not left to the trainer's precision: with 64-true Lightning resumes into weights that are still float32.
        self.network = TwoLayerNetwork(dim, width, train_output).to(getattr(torch, dtype))

    def forward(self, x: Tensor) -> Tensor:
        """Predictions u, shape `[n]`."""
        u: Tensor = self.network(x)
        return u

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """L of the batch."""
        return self._loss("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """L of the validation set."""
        self._loss("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """L of the test set."""
        self._loss("test", batch)

    def _loss(self, stage: str, batch: Batch) -> Tensor:
        # The data are float64 for the sake of the Gram matrices.
        x, y = (part.to(self.network.w.dtype) for part in batch)
        loss = half_squares(self(x), y)
        self.log(f"{stage}/loss", loss, prog_bar=stage != "test")
        return loss
