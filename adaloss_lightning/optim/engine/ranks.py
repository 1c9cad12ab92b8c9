"""The mean of the ranks' losses, by one all-reduce of one number, and torch's `Join`, in which there is none."""

import gc
from collections.abc import Sequence
from typing import Any
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist
from torch import Tensor

from adaloss_lightning.optim.recurrence import Scalar

_AVAILABLE = dist.is_available()
PLACES = 64  # losses in one window that are matched between the ranks


class GlobalLoss:
    """A mean over ranks that is under way from the moment this is made.

    Every rank has to make one, whatever its loss is: a loss that is not finite makes the mean not finite on all.

    Args:
        loss: This rank's loss.
        device: Where the number is reduced: that of the parameters, so that the backend knows it.
        group: The ranks; None is all of them.
    """

    def __init__(self, loss: Scalar, device: torch.device, group: dist.ProcessGroup | None) -> None:
        self._ranks = dist.get_world_size(group)
        self._sum = torch.as_tensor(loss, dtype=torch.float64, device=device).clone()
        self._work: dist.Work | None = dist.all_reduce(self._sum, group=group, async_op=True)

    def wait(self) -> Scalar:
        """The mean, a float on the CPU; elsewhere a tensor, and the device's queue waits in place of the host."""
        self._finish()
        return self._mean().item() if self._sum.is_cpu else self._mean()

    def _finish(self) -> None:
        if self._work is not None:
            self._work.wait()
            self._work = None

    def _mean(self) -> Tensor:
        return self._sum / self._ranks


class GlobalSum(GlobalLoss):
    """The sum, over those losses whose backward reached the parameters on any rank, of their means over the ranks.

    It is one all-reduce, whose size does not depend on the number of losses: ranks that had different numbers of
    backwards must not hang. The last :data:`PLACES` losses are matched between the ranks, counted from the last one;
    of earlier ones each rank counts those that reached its own parameters.

    Args:
        losses: This rank's losses, in the order of their backwards.
        reached: Whether the backward of each reached the parameters here.
        device: Where they are reduced.
        group: The ranks; None is all of them.
    """

    def __init__(
        self, losses: Sequence[Scalar], reached: Sequence[bool], device: torch.device, group: dist.ProcessGroup | None
    ) -> None:
        values = torch.stack([torch.as_tensor(loss, dtype=torch.float64, device=device) for loss in losses])
        flags = torch.tensor(reached, dtype=torch.float64).to(device)
        places = values.new_zeros(2, PLACES + 1)  # the last column: losses without a place
        count = min(len(losses), PLACES)
        places[0, :count], places[1, :count] = values[-count:].flip(0), flags[-count:].flip(0)
        earlier = flags[:-count] > 0
        places[0, PLACES], places[1, PLACES] = values[:-count][earlier].sum(), earlier.any()
        super().__init__(places, device, group)

    def reached_any_rank(self) -> bool:
        """Whether there is anything to sum. It reads the device: only a rank whose own losses reached nothing asks."""
        self._finish()
        return bool(self._sum[1].any())

    def _mean(self) -> Tensor:
        losses, reached = self._sum
        return torch.where(reached > 0, losses, 0.0).sum() / self._ranks


def spans_ranks(group: dist.ProcessGroup | None) -> bool:
    """Whether there is anyone to average with."""
    return _AVAILABLE and dist.is_initialized() and dist.get_world_size(group) > 1


if dist.is_available():
    from torch.distributed.algorithms.join import Join, Joinable


class Joins:
    """The modules and optimizers of this process that may be in a ``Join``, such as ``DistributedDataParallel``.

    A rank that has run out of batches answers, within ``Join``, the collectives that ``Join`` knows of. The all-reduce
    of a loss is none of them: it would meet another collective, and the processes would abort.
    """

    def __init__(self) -> None:
        # of each what the last Join left at it: it stays enabled when that has ended
        self._joinables: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()
        self._looks = 0

    def require_none(self, name: str) -> None:
        """Raise ``RuntimeError`` within a ``Join``. The first call searches the process, later ones look at flags.

        Args:
            name: Of the optimizer, for the message.
        """
        if not self._joinables:
            self._looks += 1
            if self._looks.bit_count() == 1:  # at the 1st, 2nd, 4th, 8th, ... step
                self._joinables.update((one, None) for one in gc.get_objects() if Joinable in type(one).__mro__)
        for joinable, ended in self._joinables.items():
            config = joinable._join_config
            if config.enable and config is not ended:
                if any(type(one) is Join and joinable in one._joinables for one in gc.get_objects()):
                    raise RuntimeError(
                        f"{name} cannot average its loss over the ranks within torch's Join: a rank that has run out "
                        "of batches does not take part. Give all ranks equally many batches, as DistributedSampler "
                        "does, or each step a loss that is the same on all ranks: record_loss(loss, is_global=True). "
                        "(With sync_loss=False each rank would have a b, and soon weights, of its own.)"
                    )
                self._joinables[joinable] = config
