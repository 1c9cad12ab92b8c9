"""The learning rate from a few short runs that leave no trace: for any loop that can be started over."""

import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer

from adaloss_lightning.optim.engine.loaders import fresh, twin
from adaloss_lightning.optim.engine.snapshot import Snapshot
from adaloss_lightning.optim.probe import STEPS, Found, mean_over_ranks, probe
from adaloss_lightning.optim.rate_adaptive import adaptive_in


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
    that pays; one whose loss rises tenfold ends at once. A run's score is the mean loss after its first 5 steps. The
    critical rate is the one above the best where the score is worse by 0.05 of the mean ``|f - c|`` at the start,
    between two rates by linear interpolation, to an eighth of the half decade; a quarter of it is taken. Neither the
    unit nor the sign of the loss matters. Where the optimizer warms up (``optimizer.warm_up(steps)`` in the factory),
    so do the runs, over their first 5 steps. eta is then as much larger as its divisor will have grown between the end
    of a run and the end of the warm-up, if ``|f - c|`` goes on falling as a power of the step: so the effective rate
    peaks at what was found.

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
