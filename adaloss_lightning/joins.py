"""torch's ``Join``, noticed before an all-reduce of ours meets one of its own."""

import gc
from typing import Any
from weakref import WeakKeyDictionary

import torch.distributed as dist

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
