"""Learning rates as they were configured, and how to change them with all that schedulers have taken from them."""

from collections.abc import Iterable, Sequence
from typing import Any

from torch.optim import Optimizer

from adaloss_lightning.optim.probe import configured_lr

_OF_GROUPS = ("lr", "initial_lr", "max_lr", "min_lr", "swa_lr")
_OF_SCHEDULERS = ("base_lrs", "max_lrs", "min_lrs", "_last_lr", "eta_min")
_OF_TIMM = ("base_values", "warmup_lr_init", "warmup_steps", "lr_min")  # warmup_steps: by how much each step raises it


def largest_lr(optimizers: Sequence[Optimizer]) -> float:
    """The largest configured rate of all groups; SPS has none at all."""
    groups = (group for one in optimizers for group in one.param_groups)
    return max((configured_lr(group) for group in groups if "lr" in group), default=0.0)


def rescale(optimizers: Sequence[Optimizer], schedulers: Iterable[Any], lr: float) -> None:
    """Give the group with the largest rate ``lr``; the others and the schedulers keep their ratio to it.

    Args:
        optimizers: Of one trainer; the ratio between two of them stays, too.
        schedulers: Those that work on them.
        lr: The new eta.
    """
    largest = largest_lr(optimizers)
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            for key in _OF_GROUPS:
                if key in group:
                    # not written into a tensor that the user may hold; in this order the largest becomes lr to the bit
                    group[key] = group[key] / largest * lr
    for scheduler in schedulers:
        _rescale(scheduler, largest, lr)


def _rescale(scheduler: Any, largest: float, lr: float) -> None:
    # timm's may schedule something else than the rate
    for name in _OF_TIMM if vars(scheduler).get("param_group_field") == "lr" else _OF_SCHEDULERS:
        rates = vars(scheduler).get(name)
        if isinstance(rates, (list, tuple)):
            setattr(scheduler, name, type(rates)(rate / largest * lr for rate in rates))
        elif isinstance(rates, (int, float)):
            setattr(scheduler, name, rates / largest * lr)
    inner = [*vars(scheduler).get("_schedulers", ())]  # of SequentialLR and ChainedScheduler
    if "lr_scheduler" in vars(scheduler):  # timm's PlateauLRScheduler
        inner.append(scheduler.lr_scheduler)
    for one in inner:
        _rescale(one, largest, lr)
