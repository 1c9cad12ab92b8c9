"""The mean of the ranks' losses, by one all-reduce of one number."""

import torch
import torch.distributed as dist

from adaloss_lightning.accumulator import Scalar

_AVAILABLE = dist.is_available()


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
        if self._work is not None:
            self._work.wait()
            self._work = None
        return self._sum.item() / self._ranks if self._sum.is_cpu else self._sum / self._ranks


def spans_ranks(group: dist.ProcessGroup | None) -> bool:
    """Whether there is anyone to average with."""
    return _AVAILABLE and dist.is_initialized() and dist.get_world_size(group) > 1
