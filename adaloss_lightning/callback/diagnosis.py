"""Diagnosis of a run: one line after it, where a change of settings would have helped."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from adaloss_lightning.optim.loss_adaptive import LossAdaptive
from adaloss_lightning.optim.loss_driven import ALPHA, C
from adaloss_lightning.optim.method import B0
from adaloss_lightning.optim.rate_adaptive import RateAdaptive
from adaloss_lightning.optim.recurrence import Scalar

_WINDOWS = 64  # means of the loss that are kept, at most
_FEW = 50  # steps that say nothing yet
_GREW = 1.01  # b less than this many times its start has not moved
_FELL = 50.0  # times that the divisor has grown by: the rate has come to little
_FALLS, _FLAT, _HIGH = 0.02, 0.01, 0.3  # of the first loss: a loss that still falls; that stands still; where it stands


@dataclass
class History:
    """The losses of one optimizer's steps, as means of windows that grow with the run.

    On an accelerator the sums stay on the device until they are asked for.

    Attributes:
        asked: Steps that were asked for with a loss, also those that were then skipped.
    """

    asked: int = 0
    _width: int = 1
    _count: int = 0
    _finite: Scalar = 0.0  # of the window that is open: how many losses were finite numbers, and their sum
    _sum: Scalar = 0.0
    _windows: list[tuple[Scalar, Scalar]] = field(default_factory=list)

    def add(self, loss: Scalar) -> None:
        """Take in the loss of a step."""
        if isinstance(loss, Tensor):
            self._finite = self._finite + torch.isfinite(loss).to(torch.float32)
            self._sum = self._sum + torch.nan_to_num(loss, 0.0, 0.0, 0.0)
        elif math.isfinite(loss):
            self._finite += 1.0
            self._sum += loss
        self._count += 1
        if self._count % self._width == 0:
            self._windows.append((self._finite, self._sum))
            self._finite = self._sum = 0.0
        if len(self._windows) == _WINDOWS:
            pairs = zip(self._windows[::2], self._windows[1::2], strict=True)
            self._windows = [(count + more, total + rest) for (count, total), (more, rest) in pairs]
            self._width *= 2

    def means(self) -> list[float]:
        """Mean of the finite losses of each window that has any, oldest first."""
        return [float(total) / float(count) for count, total in self._windows if count]

    @property
    def finite(self) -> int:
        """Steps whose loss was a finite number."""
        return int(sum(float(count) for count, _ in self._windows) + float(self._finite))


def report(
    runs: Iterable[tuple[RateAdaptive | None, History]], diagnose: Callable[[LossAdaptive, History], str | None]
) -> None:
    """Log what is to say of each loss-adaptive optimizer."""
    for optimizer, history in runs:
        if isinstance(optimizer, LossAdaptive) and (found := diagnose(optimizer, history)):
            rank_zero_info(f"AdaLossCallback: {found}")


def introduction(optimizer: LossAdaptive, history: History) -> str | None:
    """What lr now means, for an optimizer that was not made for it."""
    if not hasattr(optimizer, "optimizer"):  # the callback has not wrapped it
        return None
    eta = float(optimizer.param_groups[0]["lr"])
    rate = eta / float(optimizer.divisor[0])  # warm-up and cool-down apart
    return f"lr {eta:g} is eta: steps now run at {rate:.2g} and falling. AdaLossCallback(auto=True) finds it."


def early_diagnosis(optimizer: LossAdaptive, history: History) -> str | None:
    """Whether the rate has fallen a hundredfold while the loss has hardly moved."""
    group, means = optimizer.param_groups[0], history.means()
    eta, rate = float(group["lr"]), float(optimizer.effective_lr[0])
    if history.asked < _FEW or rate * 100 > eta or len(means) < 8:
        return None
    c = float(group[C])
    if abs(means[-1] - c) < 0.8 * abs(means[0] - c):
        return None
    return (
        f"steps run at {rate:.2g} now, a hundredth of lr={eta:g} or less, and the loss has hardly moved. "
        "AdaLossCallback(auto=True) finds an eta that fits."
    )


def diagnosis(optimizer: LossAdaptive, history: History, finds_lr: bool = False) -> str | None:
    """What was wrong with a run and which setting to change; None where nothing is to say.

    Args:
        optimizer: As it is at the end of the run.
        history: Of its steps.
        finds_lr: Whether eta was left to us: that the rate falls is then no advice.
    """
    if history.asked < _FEW:
        return None
    skipped = history.asked - history.finite
    if skipped >= history.asked / 2:
        return (
            f"{skipped} of {history.asked} steps were skipped: the loss or the gradients were not finite. Lower lr, "
            "clip gradients, or train in bf16 or float32 instead of fp16."
        )
    group = optimizer.param_groups[0]
    if not isinstance(group[ALPHA], str) and float(group[ALPHA]) == 0:
        return None
    method, b = optimizer.method, float(optimizer.b[0])
    start = method.start(group)
    if b < _GREW * float(method.b(group, start)):
        return (
            f"b stayed at its start, {b:.3g}: the losses add next to nothing to b0={group[B0]:g}, so the rate was "
            "constant. Lower b0, or use alpha='auto'."
        )
    divisor = float(optimizer.divisor[0])
    grew = 1.0 if finds_lr else divisor / float(method.divisor(group, start))
    return _of_the_loss(history.means(), float(group[C]), grew, float(group["lr"]) / divisor)


def _of_the_loss(means: Sequence[float], c: float, grew: float, rate: float) -> str | None:
    first = abs(means[0] - c)
    if len(means) < 8 or first == 0:
        return None
    quarter = len(means) // 4
    third, last = math.fsum(means[-2 * quarter : -quarter]) / quarter, math.fsum(means[-quarter:]) / quarter
    fall, height = (third - last) / first, (last - c) / first
    if grew > _FELL and fall > _FALLS:
        return (
            f"the rate has fallen {grew:.0f}-fold, to {rate:.2g}, while the loss still "
            "falls: it may have been too small. Raise lr, lower alpha, or leave both to auto=True."
        )
    if abs(fall) < _FLAT and height > _HIGH:
        return (
            f"the loss stands at {last:.3g} and feeds b all the same. If it cannot fall further, give what it cannot "
            f"fall below as c, such as c={c + 0.9 * (last - c):.2g}."
        )
    return None
