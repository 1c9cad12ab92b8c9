"""The network of the theory, one wide hidden layer of ReLUs under signs that need no training, and its regression."""

from typing import Literal

import torch
from torch import Tensor, nn

from recipes.shared.module import Supervised
from recipes.shared.settings import require_at_least
from recipes.two_layer.data import Batch


class TwoLayerNetwork(nn.Module):
    r"""f(W, a, x) with the initialization of Section 4 (equation 11).

    .. math:: f(W, a, x) = \frac{1}{\sqrt m} \sum_{r=1}^m a_r \max(\langle w_r, x \rangle, 0), \qquad
        w_r \sim N(0, I_d), \; a_r \sim \text{Uniform}\{-1, +1\}

    Args:
        dim: d, the size of an input.
        width: m, the number of hidden units.
        train_output: Train a jointly with W (Du et al., joint training of both layers). Otherwise a is a buffer: it is
            saved but no optimizer sees it.

    Raises:
        ValueError: A size below 1.
    """

    def __init__(self, dim: int, width: int, train_output: bool = False) -> None:
        super().__init__()
        require_at_least(1, dim=dim, width=width)
        self.w = nn.Parameter(torch.randn(width, dim))
        signs = 2.0 * torch.randint(0, 2, (width,)) - 1.0
        self.a: Tensor
        if train_output:
            self.a = nn.Parameter(signs)
        else:
            self.register_buffer("a", signs)

    def forward(self, x: Tensor) -> Tensor:
        """Predictions u, shape `[n]`, for inputs of shape `[n, d]`."""
        u: Tensor = (x @ self.w.T).relu() @ self.a / len(self.a) ** 0.5
        return u


def half_squares(u: Tensor, y: Tensor) -> Tensor:
    """The paper's L = 1/2 norm(u - y)^2, a sum over the examples and not their mean."""
    return (u - y).square().sum() / 2


class TwoLayerModule(Supervised):
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

    def outputs(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Predictions and labels in the network's dtype: the data are float64 for the sake of the Gram matrices."""
        x, y = (part.to(self.network.w.dtype) for part in batch)
        return self(x), y

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """L of the batch."""
        return half_squares(predicted, targets)
