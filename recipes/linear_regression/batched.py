r"""Every b0 and seed of a method at once: the recurrences of Section 3 on one tensor `[seed, d, b0]`.

The state is the error :math:`e_t = w_t - w^*`. With :math:`y = X w^*` the residual is :math:`X e_t`, so that this is
the same recurrence, free of the rounding of y, which would floor the loss near 1e-28.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import torch
from torch import Tensor

from adaloss_lightning.theory.critical_step import Rule
from recipes.linear_regression.data import draw_problem, second_generator

Method = Literal["adaloss", "adagrad_norm", "sgd_constant", "sgd_decay_sqrt"]
METHODS: tuple[Method, ...] = ("adaloss", "adagrad_norm", "sgd_constant", "sgd_decay_sqrt")
ADAPTIVE: tuple[Rule, ...] = ("adaloss", "adagrad_norm")


@dataclass(frozen=True)
class Problems:
    """One problem a seed.

    Attributes:
        x: Rows, `[seed, n, d]`, float64.
        start: Errors w_0 - w* of the start, `[seed, d]`.
        rows: Row of each step, `[seed, step]`, for one row a step; None for the full batch.
        curvature: Eigenvalues of X^T X, `[seed, d]`, where its eigenvectors are the basis of `x` and `start`.
    """

    x: Tensor
    start: Tensor
    rows: Tensor | None = None
    curvature: Tensor | None = None

    @classmethod
    def draw(cls, seeds: Sequence[int], n: int, d: int, stochastic_steps: int | None = None) -> Self:
        """The problems that `RegressionData` draws from these seeds, started at w = 0.

        Args:
            seeds: Seed of each problem.
            n: Rows.
            d: Unknowns.
            stochastic_steps: Number of steps to draw rows for; None is the full batch.
        """
        drawn = [draw_problem(seed, n, d) for seed in seeds]
        rows = None
        if stochastic_steps is not None:
            drawn_rows = [torch.randint(n, (stochastic_steps,), generator=second_generator(seed)) for seed in seeds]
            rows = torch.stack(drawn_rows)
        return cls(torch.stack([x for x, _, _ in drawn]), -torch.stack([w_star for _, w_star, _ in drawn]), rows)

    def from_distance(self, factor: float) -> Self:
        """The same problems, started `factor` times as far from w*."""
        return replace(self, start=factor * self.start)

    def in_eigenbasis(self) -> Self:
        """The same problems in coordinates in which X^T X is diagonal: a full-batch step costs d instead of d^2.

        No recurrence here sees the difference: each uses norms of the residual, the gradient and the error alone.
        """
        curvature, basis = torch.linalg.eigh(self.gram)
        start = (basis.mT @ self.start.unsqueeze(-1)).squeeze(-1)
        return replace(self, x=self.x @ basis, start=start, curvature=curvature)

    @property
    def gram(self) -> Tensor:
        """X^T X, `[seed, d, d]`."""
        return self.x.mT @ self.x if self.curvature is None else torch.diag_embed(self.curvature)

    def loss(self, error: Tensor) -> Tensor:
        """1/2 norm(X e)^2 of the whole problem, `[seed, b0]`."""
        if self.curvature is None:
            return (self.x @ error).square().sum(1) / 2
        return (error * (self.curvature.unsqueeze(-1) * error)).sum(1) / 2


class Step(NamedTuple):
    """One step of all runs.

    Attributes:
        t: 1 for the first step.
        before: Errors w - w* that the step starts from, `[seed, d, b0]`.
        b: b of the step, which has seen the loss of this step, `[seed, b0]`.
        after: Errors after the step. NaN or inf where a run diverged.
    """

    t: int
    before: Tensor
    b: Tensor
    after: Tensor


def trajectory(
    problems: Problems, method: Method, b0: Tensor, steps: int, *, lr: float = 1.0, c_s: float = 1.0
) -> Iterator[Step]:
    r"""Runs `method` on all problems from all b0, step by step.

    .. math:: w_t = w_{t-1} - \frac{\eta}{b_t} g_t

    with :math:`b_t^2 = b_{t-1}^2 + \|X w_{t-1} - y\|^2` (AdaLoss, alpha = 2: this is twice the loss),
    :math:`b_t^2 = b_{t-1}^2 + \|g_t\|^2` (AdaGrad-Norm), :math:`b_t = b_0` (SGD-Constant) or
    :math:`b_t = b_0 + c_s \sqrt t` (SGD-DecaySqrt). With one row a step X and y are that row (eq. 9 and 10).

    Args:
        problems: The problems; their `rows` decide between full batch and one row a step.
        method: Which recurrence.
        b0: Starts of b, > 0, shape `[b0]`, or `[seed, b0]` where each seed has its own.
        steps: Number of steps, at most the number of rows drawn.
        lr: The paper's eta.
        c_s: Factor of SGD-DecaySqrt.
    """
    slope = _full_batch(problems) if problems.rows is None else _one_row(problems, problems.rows)
    after = problems.start.unsqueeze(-1).repeat(1, 1, b0.shape[-1])
    start = b = b0.expand(len(problems.start), -1)
    b2 = start.square()
    for t in range(1, steps + 1):
        before = after
        residual2, gradient2, gradient = slope(before, t - 1)
        if method == "sgd_decay_sqrt":
            b = start + c_s * t**0.5
        elif method != "sgd_constant":
            b2 = b2 + (residual2 if method == "adaloss" else gradient2)
            b = b2.sqrt()
        after = before - (lr / b).unsqueeze(1) * gradient
        yield Step(t, before, b, after)


_Slope = Callable[[Tensor, int], tuple[Tensor, Tensor, Tensor]]  # errors, step -> norm(residual)^2, norm(g)^2, g


def _full_batch(problems: Problems) -> _Slope:
    if problems.curvature is None:
        factor, times = problems.gram, torch.matmul
    else:
        factor, times = problems.curvature.unsqueeze(-1), torch.mul

    def slope(error: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        gradient = times(factor, error)
        return (error * gradient).sum(1), gradient.square().sum(1), gradient

    return slope


def _one_row(problems: Problems, rows: Tensor) -> _Slope:
    seeds = torch.arange(len(rows))
    squared_norms = problems.x.square().sum(2)  # [seed, n]

    def slope(error: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
        row = rows[:, step]
        x = problems.x[seeds, row].unsqueeze(1)  # [seed, 1, d]
        residual = x @ error  # [seed, 1, b0]
        residual2 = residual.squeeze(1).square()
        return residual2, squared_norms[seeds, row].unsqueeze(1) * residual2, x.mT * residual

    return slope
