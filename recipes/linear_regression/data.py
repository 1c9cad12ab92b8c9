"""Realizable least squares: Gaussian rows, y = X w*."""

import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, RandomSampler, TensorDataset

from recipes.shared.settings import require_at_least

N, D = 100, 80
_HIGHEST_SEED = 2**32 - 1  # torch's CPU generator ignores the bits above

Batch = tuple[Tensor, Tensor]


def draw_problem(seed: int, n: int = N, d: int = D, n_test: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Draws a problem: every entry of X and of w* is standard normal.

    Args:
        seed: Of a generator of its own, so that the problem does not depend on what was drawn before.
        n: Rows to train on.
        d: Columns, the unknowns.
        n_test: Rows to test on, drawn last: their number changes neither X nor w*.

    Returns:
        X of shape `[n, d]`, w* of shape `[d]` and the test rows of shape `[n_test, d]`, float64.
    """
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, d, dtype=torch.float64, generator=generator)
    w_star = torch.randn(d, dtype=torch.float64, generator=generator)
    return x, w_star, torch.randn(n_test, d, dtype=torch.float64, generator=generator)


def second_generator(seed: int) -> torch.Generator:
    """A generator for what else a run draws: the seed that draws X, used again, would repeat rows of X."""
    return torch.Generator().manual_seed(_HIGHEST_SEED - seed % (_HIGHEST_SEED + 1))  # counted from the other end


class FullBatch(Dataset[Batch]):
    """The same whole problem at every index, one index a step."""

    def __init__(self, x: Tensor, y: Tensor, steps: int) -> None:
        self.batch = (x, y)
        self.steps = steps

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, index: int) -> Batch:
        return self.batch


class RegressionData(LightningDataModule):
    """Least squares with a realizable y = X w*, full batch or one uniformly drawn row a step (Section 3, eq. 3 and 9).

    Validation is the whole training problem, whose loss Figure 1 shows. Testing takes `n` other rows of the same w*.

    Args:
        n: Rows, >= d: with fewer the Gram matrix is singular and the theory does not apply.
        d: Unknowns.
        stochastic: One row a step, drawn with replacement, instead of all of them.
        steps_per_epoch: Steps between validations; an epoch has no other meaning here.
        seed: Draws X and w*; None takes the run's seed, so that every seed is another problem.

    Raises:
        ValueError: `n` < `d`, or `d` or `steps_per_epoch` below 1.
    """

    def __init__(
        self, n: int = N, d: int = D, stochastic: bool = False, steps_per_epoch: int = 100, seed: int | None = None
    ) -> None:
        super().__init__()
        require_at_least(1, d=d, steps_per_epoch=steps_per_epoch)
        if n < d:
            raise ValueError(f"Invalid n={n}. Must be >= d={d}, or X^T X is singular.")
        self.stochastic = stochastic
        self.steps_per_epoch = steps_per_epoch
        seed = torch.initial_seed() if seed is None else seed
        self.x, w_star, self.x_test = draw_problem(seed, n, d, n_test=n)
        self.y, self.y_test = self.x @ w_star, self.x_test @ w_star

    def train_dataloader(self) -> DataLoader[Batch]:
        """`steps_per_epoch` batches of the whole problem, or of one row each."""
        if not self.stochastic:
            return DataLoader(FullBatch(self.x, self.y, self.steps_per_epoch), batch_size=None)
        rows = TensorDataset(self.x, self.y)
        sampler = RandomSampler(rows, replacement=True, num_samples=self.steps_per_epoch)
        return DataLoader(rows, batch_size=1, sampler=sampler)  # type: ignore[arg-type]  # a TensorDataset of two

    def val_dataloader(self) -> DataLoader[Batch]:
        """The whole training problem in one batch."""
        return DataLoader(FullBatch(self.x, self.y, 1), batch_size=None)

    def test_dataloader(self) -> DataLoader[Batch]:
        """The test rows in one batch."""
        return DataLoader(FullBatch(self.x_test, self.y_test, 1), batch_size=None)
