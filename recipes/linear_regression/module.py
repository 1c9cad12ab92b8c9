"""The unknowns w and their squared loss."""

from typing import Literal

import torch
from torch import Tensor, nn

from recipes.linear_regression.data import D, second_generator
from recipes.shared.module import Supervised
from recipes.shared.settings import require_at_least


class RegressionModule(Supervised):
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
        require_at_least(1, d=d)
        self.save_hyperparameters(logger=False)
        w = torch.zeros(d, dtype=torch.float64)
        self.w = nn.Parameter(w if start == "zero" else w.normal_(generator=second_generator(torch.initial_seed())))

    def forward(self, x: Tensor) -> Tensor:
        """Predictions, shape `[n]`, of rows of shape `[n, d]`."""
        return x @ self.w

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Half the squared residual of the batch."""
        return (predicted - targets).square().sum() / 2
