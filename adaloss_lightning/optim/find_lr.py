"""The learning rate from a few short runs that leave no trace: for any loop that can be started over."""

import math
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from adaloss_lightning.optim.engine.loaders import fresh, twin
from adaloss_lightning.optim.engine.loss import as_scalar
from adaloss_lightning.optim.engine.ranks import GlobalLoss, spans_ranks
from adaloss_lightning.optim.engine.snapshot import Snapshot
from adaloss_lightning.optim.engine.traits import normalizes_gradient
from adaloss_lightning.optim.engine.wrapper import Group, device_of
from adaloss_lightning.optim.loss_driven import C
from adaloss_lightning.optim.rate_adaptive import adaptive_in
from adaloss_lightning.optim.recurrence import FLOOR
from adaloss_lightning.optim.schedule import WARMUP

STEPS = 25  # of a run at one rate
_WARMUP = 5  # its first steps, at rising rates, where the optimizer warms up: over these, and not over its own many
_LAST = 8  # its last steps, whose mean loss is its score
_A_DECADE = 2  # rates
_START = {True: -6, False: -2}  # exponent of the first rate, 1e-3 for a base that normalizes its gradient, else 0.1
_LOWEST, _HIGHEST = -16, 8  # exponents: 1e-8 to 1e4
_WORSE = 9.0  # a loss that has risen by so many mean losses of the start ends its run: the rate is out
_SLACK = 0.02  # in mean losses of the start: what a larger rate may be worse by than the best


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


def find_lr(
    model: nn.Module,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    optimizer_factory: Callable[[Iterable[nn.Parameter]], Optimizer],
    *,
    verbose: bool = True,
) -> float:
    """Find eta by short runs from the model as it is, and leave the model as it was.

    Runs of 25 steps over the first batches, at rates a half decade apart, go up and down from a middle one as long as
    that pays; one whose loss rises tenfold ends at once. A run's score is the mean loss of its last 8 steps. From the
    best rate the probe goes up as long as scores are within 0.02 of the mean ``|f - c|`` at the start, and takes the
    rate where that ends. Neither the unit nor the sign of the loss matters. Where the optimizer warms up
    (``optimizer.warm_up(steps)`` in the factory), so do the runs, over their first 5 steps.

    Parameters, buffers, gradients, plain attributes of modules, the random numbers of torch, NumPy and Python, and the
    order of a loader's data are afterwards what they were. Under ``torch.distributed`` every rank has to call it; all
    find the same.

    Args:
        model: In the mode in which it trains.
        loss_fn: Gets the model and a batch and returns the loss, a tensor of one element.
        batches: A list or a loader of batches as ``loss_fn`` takes them. Its first 25 are kept in memory; fewer are
            gone through several times. An iterator loses what is read of it.
        optimizer_factory: Makes the optimizer from the model's parameters: ``LossAdaptive``, or any other.
        verbose: Whether to print what was found.

    Returns:
        The ``lr`` for that optimizer, the paper's eta.

    Raises:
        ValueError: If there is no batch, or the loss is not finite at any rate.

    Example:
        >>> import torch
        >>> from adaloss_lightning import AdamLoss
        >>> model, x = torch.nn.Linear(3, 1), torch.randn(64, 3)
        >>> data = [(x, x.sum(1, keepdim=True))]
        >>> loss = lambda model, batch: torch.nn.functional.mse_loss(model(batch[0]), batch[1])
        >>> lr = find_lr(model, loss, data, lambda p: AdamLoss(p, alpha="auto"), verbose=False)
        >>> optimizer = AdamLoss(model.parameters(), lr=lr, alpha="auto")
    """
    before = Snapshot(model, drawn_from=[batches])
    try:
        found = _find_lr(model, loss_fn, batches, optimizer_factory)
    finally:
        before.restore()
    if verbose:
        sys.stderr.write(f"{found}\n")
    return found.lr


def _find_lr(
    model: nn.Module,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    batches: Iterable[Any],
    optimizer_factory: Callable[[Iterable[nn.Parameter]], Optimizer],
) -> Found:
    kept = list(islice(iter(batches if isinstance(batches, Iterator) else twin(batches)), STEPS))
    if not kept:
        raise ValueError("Invalid batches: there are none. Must be a list or a loader that gives at least one batch.")
    optimizer = optimizer_factory(model.parameters())
    adaptive = adaptive_in(optimizer)

    def step(index: int) -> float:
        optimizer.zero_grad()
        loss = loss_fn(model, fresh(kept[index % len(kept)]))
        loss.backward()  # type: ignore[no-untyped-call]
        value = mean_over_ranks(loss, optimizer)
        if adaptive is not None:
            adaptive.record_loss(value, is_global=True)
        optimizer.step()
        return value

    return probe(optimizer, step, Snapshot(model, optimizer).restore, distinct=len(kept))


def probe(
    optimizer: Optimizer,
    step: Callable[[int], float],
    restore: Callable[[], None],
    *,
    distinct: int = STEPS,
) -> Found:
    """Find eta for an optimizer.

    Args:
        optimizer: Whose groups have their rates: their ratios are kept.
        step: Makes the step with this index, from 0, and returns its loss, the same on all ranks.
        restore: Puts everything back to where the first step starts.
        distinct: Steps with other batches than earlier ones.

    Raises:
        ValueError: If no group has a rate above 0, or the loss is not finite at any rate.
    """
    began = time.monotonic()
    try:
        runs = _Runs(optimizer, step, restore, min(distinct, STEPS))
        lr = runs.rate(_search(runs))
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
        self, optimizer: Optimizer, step: Callable[[int], float], restore: Callable[[], None], distinct: int
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
        self._ramp = min(_WARMUP, optimizer.param_groups[0].get(WARMUP, 0)) or 1
        self._unit = 1.0  # eta of the rate 1 on the grid
        self._starts = self._look(distinct)

    def _look(self, distinct: int) -> list[float]:
        """The loss of each batch at the start, for those of small batches differ widely, and the unit of the grid.

        For a base that normalizes its gradient a rate is a length, and the grid is one of what eta is divided down to.
        For one that is linear in it, it is one of rates times the mean loss: the unit of the loss stays out.
        """
        set_lr(self._optimizer, 0.0, self._ratios)
        starts: list[float] = []
        for index in range(distinct):
            starts.append(self._counted(index))
            if not math.isfinite(starts[-1]):
                batch = f"batch {index}" if index else "the first batch"
                raise ValueError(
                    f"Invalid loss={starts[-1]} of {batch}. Must be finite for lr to be found: look at the data and at "
                    "the model's first output, or give lr."
                )
            if index == 0 and self._adaptive is not None:
                self._unit = float(self._adaptive.divisor[self._reference])
        c = float(self._optimizer.param_groups[self._reference].get(C, 0.0))
        self.loss_unit = max(math.fsum(abs(start - c) for start in starts) / distinct, FLOOR)
        if not self.normalizes:
            self._unit /= self.loss_unit * math.sqrt(2.0) if self.loss_unit > FLOOR else 1.0
        return starts

    def _counted(self, index: int) -> float:
        self.steps += 1
        return self._step(index)

    def rate(self, exponent: int) -> float:
        """The eta of a rate on the grid."""
        return float(self._unit * 10 ** (exponent / _A_DECADE))

    def score(self, exponent: int) -> float:
        """Mean of the last losses of a run; infinite where one is not finite or has risen too far."""
        self._restore()
        if self._adaptive is not None:
            self._adaptive.warm_up(0)
        losses: list[float] = []
        for index in range(STEPS):
            set_lr(self._optimizer, self.rate(exponent) * min(1.0, (index + 1) / self._ramp), self._ratios)
            try:
                losses.append(self._counted(index))
            except _DIVERGED as error:
                if spans_ranks(None):  # the other ranks are in the middle of this step
                    raise
                self.error = error
                return math.inf
            if not losses[-1] <= self._starts[index % len(self._starts)] + _WORSE * self.loss_unit:
                return math.inf
        return math.fsum(losses[-_LAST:]) / _LAST


def _search(runs: _Runs) -> int:
    """The exponent of the largest rate that is about as good as the best.

    It goes up until a rate is out or two in a row are worse than that, and down as long as the lowest is the best.
    """
    scores: dict[int, float] = {}

    def is_good(exponent: int) -> bool:
        best = min(scores.values())
        return scores[exponent] <= best + _SLACK * runs.loss_unit

    lowest = highest = _START[runs.normalizes]
    scores[lowest] = runs.score(lowest)
    while math.isfinite(scores[highest]) and highest < _HIGHEST:
        if highest - 1 in scores and not (is_good(highest) or is_good(highest - 1)):
            break
        highest += 1
        scores[highest] = runs.score(highest)
    while lowest > _LOWEST and (math.isinf(scores[lowest]) or scores[lowest] <= min(scores.values())):
        lowest -= 1
        scores[lowest] = runs.score(lowest)
    taken = min(scores, key=lambda exponent: (scores[exponent], -exponent))
    if math.isinf(scores[taken]):
        raise ValueError(
            f"Invalid lr: the loss rises or is not finite at every rate down to {runs.rate(lowest):.0e}. Look at the "
            "data and the model, or give lr."
        ) from runs.error
    while taken < highest and is_good(taken + 1):
        taken += 1
    return taken if taken < _HIGHEST else _START[runs.normalizes]  # no rate makes any difference
