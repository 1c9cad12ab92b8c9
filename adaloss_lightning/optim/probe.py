"""Short runs from one start, and the learning rate that they find."""

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, TypeGuard

import torch
from torch import Tensor
from torch.optim import Optimizer

from adaloss_lightning.optim.engine.loss import as_scalar
from adaloss_lightning.optim.engine.ranks import GlobalLoss, spans_ranks
from adaloss_lightning.optim.engine.traits import normalizes_gradient
from adaloss_lightning.optim.engine.wrapper import Group, device_of
from adaloss_lightning.optim.loss_driven import C
from adaloss_lightning.optim.rate_adaptive import adaptive_in
from adaloss_lightning.optim.recurrence import FLOOR
from adaloss_lightning.optim.schedule import WARMUP

STEPS = 25  # of a run at one rate
_WARMUP = 5  # its first steps, which no score counts; at rising rates, where the optimizer warms up
_STRETCH = 8  # steps, at its end twice, over which the growth of the divisor is measured
_A_DECADE = 2  # rates
_START = {True: -6, False: -2}  # exponent of the first rate, 1e-3 for a base that normalizes its gradient, else 0.1
_LOWEST, _HIGHEST = -16, 8  # exponents: 1e-8 to 1e4
_WORSE = 9.0  # a loss that has risen by so many mean losses of the start ends its run: the rate is out
_SLACK = 0.05  # in mean losses of the start: what the critical rate is worse by than the best
_FINE = 8  # parts of the step between two rates, to which the critical one is rounded: the same on other machines
_BELOW_CRITICAL = 4.0  # the critical rate over the one that is taken: a full run bears less than a short one


# What a model raises that meets NaN, such as a distribution that checks its arguments.
_DIVERGED = (ArithmeticError, AssertionError, ValueError, torch.linalg.LinAlgError)  # type: ignore[attr-defined]


@dataclass(frozen=True)
class Found:
    """What the probe found.

    Attributes:
        lr: eta for the group with the largest one.
        batches: How many it trained on, in all runs together.
        seconds: How long it took.
    """

    lr: float
    batches: int
    seconds: float

    def __str__(self) -> str:
        return f"lr {self.lr:.3g}, found in {self.batches} batches, {self.seconds:.1f} s"


def probe(
    optimizer: Optimizer,
    step: Callable[[int], float | None],
    restore: Callable[[], None],
    *,
    distinct: int = STEPS,
) -> Found:
    """Find eta for an optimizer.

    Args:
        optimizer: Whose groups have their rates: their ratios are kept.
        step: Makes the step with this index, from 0, and returns its loss, the same on all ranks; None where the
            batch has none.
        restore: Puts everything back to where the first step starts.
        distinct: Steps with other batches than earlier ones.

    Raises:
        ValueError: If no group has a rate above 0, or the loss is not finite at any rate.
    """
    began = time.monotonic()
    try:
        runs = _Runs(optimizer, step, restore, min(distinct, STEPS))
        taken = _search(runs)
        lr = runs.rate(taken) * runs.growth(taken)
    finally:
        restore()
    return Found(lr, runs.steps, time.monotonic() - began)


def configured_lr(group: Group) -> float:
    """The rate of a group before any schedule; where a schedule rises to one (``OneCycleLR``), that."""
    lr: Any = group.get("max_lr", group.get("initial_lr", group["lr"]))
    return float(lr)


def set_lr(optimizer: Optimizer, lr: float, ratios: Sequence[float]) -> None:
    """Give each group its share of ``lr``, for a run of the probe."""
    for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
        own = group["lr"]  # some bases want a tensor; the one that is there is the user's
        group["lr"] = torch.full_like(own, lr * ratio) if isinstance(own, Tensor) else lr * ratio


def mean_over_ranks(loss: Tensor, optimizer: Optimizer) -> float:
    """The loss, averaged over all ranks where there are several."""
    value = as_scalar(loss)
    if spans_ranks(None):
        value = GlobalLoss(value, device_of(optimizer.param_groups[0]), None).wait()
    return float(value)


class _Runs:
    """Short runs of one optimizer, each from the same start; rates are told by their exponent on the grid."""

    def __init__(
        self, optimizer: Optimizer, step: Callable[[int], float | None], restore: Callable[[], None], distinct: int
    ) -> None:
        self._optimizer, self._step, self._restore = optimizer, step, restore
        lrs = [configured_lr(group) for group in optimizer.param_groups]
        largest = max(lrs, default=0.0)
        if largest <= 0:
            raise ValueError(
                f"Invalid lr={largest:g} in every parameter group. Must be > 0 in one, to be found for it."
            )
        self._ratios = [lr / largest for lr in lrs]
        self._reference = lrs.index(largest)
        self.steps = 0
        self.error: Exception | None = None  # that ended the last run that was ended by one
        self._adaptive = adaptive_in(optimizer)
        self.normalizes = normalizes_gradient(optimizer if self._adaptive is None else self._adaptive.base)
        self._warmup = int(optimizer.param_groups[0].get(WARMUP, 0))
        self._ramp = min(_WARMUP, self._warmup) or 1
        self._squares: dict[int, list[float]] = {}  # of the divisor, three times in each run
        self._unit = 1.0  # eta of the rate 1 on the grid
        self._starts = self._look(distinct)

    def _look(self, distinct: int) -> list[float | None]:
        """The loss of each batch at the start, for those of small batches differ widely, and the unit of the grid.

        A batch whose loss is not finite there says nothing of a rate.

        For a base that normalizes its gradient a rate is a length, and the grid is one of what eta is divided down to.
        For one that is linear in it, it is one of rates times the mean loss: the unit of the loss stays out.
        """
        starts: list[float | None] = []
        finite: list[float] = []
        for index in range(distinct):
            set_lr(self._optimizer, 0.0, self._ratios)
            starts.append(loss := self._counted(index))
            if not _is_finite(loss):
                self._restore()  # what such a step may have done to an optimizer that does not leave it out
                continue
            finite.append(loss)
            if len(finite) == 1 and self._adaptive is not None:
                self._unit = float(self._adaptive.divisor[self._reference])
        if not finite:
            raise ValueError(
                f"Invalid loss={starts[0]} of the first batch. One of the first {distinct} must be finite for lr to be "
                "found: look at the data and at the model's first output, or give lr."
            )
        c = float(self._optimizer.param_groups[self._reference].get(C, 0.0))
        self.loss_unit = max(math.fsum(abs(loss - c) for loss in finite) / len(finite), FLOOR)
        if not self.normalizes:
            self._unit /= self.loss_unit * math.sqrt(2.0) if self.loss_unit > FLOOR else 1.0
        return starts

    def _counted(self, index: int) -> float | None:
        self.steps += 1
        return self._step(index)

    def rate(self, exponent: float) -> float:
        """The eta of a rate on the grid."""
        return float(self._unit * 10 ** (exponent / _A_DECADE))

    def growth(self, exponent: float) -> float:
        """How much larger the divisor will be at the end of the warm-up than at the end of the run nearest this rate.

        The square of every method's divisor grows by a multiple of its signal (``|f - c|``, squared gradients). The
        last two stretches of the run are continued as a power of the step.
        """
        squares = self._squares[min(self._squares, key=lambda other: abs(other - exponent))]
        before, now = (later - earlier for earlier, later in pairwise(squares)) if len(squares) == 3 else (0.0, 0.0)
        if not (before > 0 and now > 0 and math.isfinite(squares[-1])):
            return 1.0
        middle = STEPS - _STRETCH / 2
        power = max(0.0, math.log(before / now) / math.log(middle / (middle - _STRETCH)))
        ahead = now / _STRETCH * math.fsum((step / middle) ** -power for step in range(STEPS, self._warmup))
        return math.sqrt(1.0 + ahead / squares[-1])

    def score(self, exponent: int) -> float:
        """Mean loss of a run after its first steps; infinite where one is not finite or has risen too far.

        A mean over fewer is noise where no rate has begun to learn.
        """
        self._restore()
        squares = self._squares[exponent] = []
        if self._adaptive is not None:
            self._adaptive.warm_up(0)
        losses: list[float] = []
        for index in range(STEPS):
            set_lr(self._optimizer, self.rate(exponent) * min(1.0, (index + 1) / self._ramp), self._ratios)
            try:
                loss = self._counted(index)
            except _DIVERGED as error:
                if spans_ranks(None):  # the other ranks are in the middle of this step
                    raise
                self.error = error
                return math.inf
            if self._adaptive is not None and STEPS - 1 - index in (0, _STRETCH, 2 * _STRETCH):
                squares.append(float(self._adaptive.divisor[self._reference]) ** 2)
            start = self._starts[index % len(self._starts)]
            if loss is None or not _is_finite(start):
                continue
            if not loss <= start + _WORSE * self.loss_unit:
                return math.inf
            if index >= _WARMUP:
                losses.append(loss)
        return math.fsum(losses) / len(losses) if losses else math.inf


def _is_finite(loss: float | None) -> TypeGuard[float]:
    return loss is not None and math.isfinite(loss)


def _search(runs: _Runs) -> float:
    """The exponent of the rate: below the critical one, at which runs become worse than the best.

    It goes up until a rate is out or two in a row are worse than that, and down as long as the lowest is the best.
    Between the last rate that is not and the next, the score is taken to be linear in the exponent.
    """
    scores: dict[int, float] = {}

    def limit() -> float:
        return min(scores.values()) + _SLACK * runs.loss_unit

    lowest = highest = _START[runs.normalizes]
    scores[lowest] = runs.score(lowest)
    while math.isfinite(scores[highest]) and highest < _HIGHEST:
        if highest - 1 in scores and min(scores[highest], scores[highest - 1]) > limit():
            break
        highest += 1
        scores[highest] = runs.score(highest)
    while lowest > _LOWEST and (math.isinf(scores[lowest]) or scores[lowest] <= min(scores.values())):
        lowest -= 1
        scores[lowest] = runs.score(lowest)
    last = min(scores, key=lambda exponent: (scores[exponent], -exponent))
    if math.isinf(scores[last]):
        raise ValueError(
            f"Invalid lr: the loss rises or is not finite at every rate down to {runs.rate(lowest):.0e}. Look at the "
            "data and the model, or give lr."
        ) from runs.error
    while last < highest and scores[last + 1] <= limit():
        last += 1
    if last == _HIGHEST:  # no rate makes any difference
        return _START[runs.normalizes]
    critical = last + round(_FINE * (limit() - scores[last]) / (scores[last + 1] - scores[last])) / _FINE
    return critical - _A_DECADE * math.log10(_BELOW_CRITICAL)
