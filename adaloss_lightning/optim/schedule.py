"""Warm-up and cool-down of the effective rate: eta and b stay what they are.

The warm-up counts the steps that go through, so its count is part of the optimizer's state: kept in the first parameter
group, a float on the CPU and a 0-dim tensor on an accelerator, where the host does not know which steps were skipped.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from adaloss_lightning.optim.engine.groups import S
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group
from adaloss_lightning.optim.recurrence import Scalar

WARMUP = PREFIX + "warmup"  # steps
STEPS = PREFIX + "steps"  # that went through since the warm-up began
_WITHOUT_BETA2 = 100
_MOST = 0.2  # of the run


def default_warmup(optimizer: Optimizer, total: float = math.inf) -> int:
    """Steps over which an optimizer warms up: ``2 / (1 - beta2)`` (Ma and Yarats 2019), 100 without a beta2.

    Args:
        optimizer: With ``betas`` in its groups, as Adam has.
        total: Steps of the whole run; the warm-up takes a fifth of them at most.
    """
    beta2 = max((float(group["betas"][1]) for group in optimizer.param_groups if "betas" in group), default=None)
    steps = _WITHOUT_BETA2 if beta2 is None or beta2 >= 1 else round(2 / (1 - beta2))
    return int(min(steps, _MOST * total))


def shorten(groups: Sequence[Group], done: int, progress: float) -> None:
    """Let a warm-up end with the first fifth of the run, as far as that can be foreseen.

    Args:
        groups: Of the optimizer.
        done: Steps that it was asked for so far.
        progress: Share of the run that is over.
    """
    if groups[0].get(WARMUP) and done and progress:
        groups[0][WARMUP] = min(groups[0][WARMUP], max(1, int(done * _MOST / progress + 1e-9)))


def cooling(progress: float, share: float) -> float:
    """What the rate is multiplied by: 1, then linearly to 0 over the last ``share`` of the run.

    Args:
        progress: Share of the run that is over when the step begins.
        share: In (0, 1]; 0 is no cool-down.
    """
    left = max(0.0, 1.0 - progress)
    return 1.0 if left >= share else left / share


def warming(groups: Sequence[Group]) -> Scalar:
    """What the rate of the next step is multiplied by: ``(t + 1) / warmup`` after t steps, 1 from the end on."""
    warmup = groups[0].get(WARMUP) if groups else None
    if not warmup:
        return 1.0
    ramp = (groups[0][STEPS] + 1.0) / warmup
    return ramp.clamp(max=1.0) if isinstance(ramp, Tensor) else min(1.0, ramp)


def count_step(groups: Sequence[Group], skip: Tensor | None = None) -> None:
    """Count a step, on a device unless it was skipped."""
    if not (groups and groups[0].get(WARMUP)):
        return
    group = groups[0]
    if skip is None:
        group[STEPS] += 1.0
        return
    if not isinstance(group[STEPS], Tensor):  # on the CPU, where a compiler or a lr with a gradient asks for tensors
        group[STEPS] = torch.full_like(group[S], group[STEPS])
    group[STEPS].add_((~skip).to(group[STEPS].dtype))


def adopt(group: Group) -> None:
    """Put the count where the arithmetic of this group's steps is done."""
    if WARMUP in group:
        s, steps = group[S], group.get(STEPS, 0.0)
        group[STEPS] = float(steps) if s.is_cpu else torch.as_tensor(steps).to(s)
