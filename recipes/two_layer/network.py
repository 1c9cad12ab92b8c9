"""The network of the theory: one wide hidden layer of ReLUs under signs that need no training."""

import torch
from torch import Tensor, nn


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
        for name, value in (("dim", dim), ("width", width)):
            if value < 1:
                raise ValueError(f"Invalid {name}={value}. Must be >= 1.")
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
