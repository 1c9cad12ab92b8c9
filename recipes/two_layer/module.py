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
    steps. `training_loss` and `example_metrics` are for `adaloss sweep --together`.

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

    def training_loss(self, batch: Batch) -> Tensor:
        """L of the batch."""
        # The data are float64 for the sake of the Gram matrices.
        x, y = (part.to(self.network.w.dtype) for part in batch)
        return half_squares(self(x), y)

    def example_metrics(self, batch: Batch) -> dict[str, Tensor]:
        """L of the batch: the validation set is one."""
        return {"loss": self.training_loss(batch)}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """L of the batch."""
        loss = self.training_loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """L of the validation set."""
        self.log("val/loss", self.training_loss(batch), prog_bar=True)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """L of the test set."""
        self.log("test/loss", self.training_loss(batch))
