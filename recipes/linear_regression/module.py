"""The unknowns w and their squared loss."""

from typing import Literal

import torch
from lightning.pytorch import LightningModule
from torch import Tensor, nn

from recipes.linear_regression.data import Batch, D


class RegressionModule(LightningModule):
    r"""Least squares, :math:`\frac12 \|X w - y\|^2`, in float64; logs `{train,val,test}/loss`.

    The loss is the sum over the rows of a batch, as in eq. 3: one row a step is :math:`\frac12 (x_i^T w - y_i)^2`.

    Args:
        d: Unknowns; the command line takes it from the data.
        start: All zeros, or standard normal.

    Raises:
        ValueError: `d` below 1.
    """

    def __init__(self, d: int = D, start: Literal["zero", "gaussian"] = "zero") -> None:
        super().__init__()
        if d < 1:
            raise ValueError(f"Invalid d={d}. Must be >= 1.")
        self.save_hyperparameters(logger=False)
        draw = torch.zeros if start == "zero" else torch.randn
        self.w = nn.Parameter(draw(d, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        """Predictions, shape `[n]`, of rows of shape `[n, d]`."""
        return x @ self.w

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Half the squared residual of the batch."""
        return self._loss("train", batch)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Half the squared residual of the whole problem."""
        self._loss("val", batch)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Half the squared residual of the test rows."""
        self._loss("test", batch)

    def _loss(self, stage: str, batch: Batch) -> Tensor:
        x, y = batch
        loss: Tensor = (self(x) - y).square().sum() / 2
        self.log(f"{stage}/loss", loss, prog_bar=True, batch_size=1)  # a stage has one batch, or steps that count alike
        return loss
