"""Windows of a text: one that begins at each byte, and the random ones of an epoch."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from recipes.shared.settings import SettingError

Batch = tuple[Tensor, Tensor]


class Windows(Dataset[Batch]):
    """Bytes and the bytes that follow them; index i is the window that begins at byte i.

    Args:
        text: The bytes, shape `[n]`, uint8.
        context: Bytes of a window.

    Raises:
        SettingError: The text has no window of that length and a byte that follows it.
    """

    def __init__(self, text: Tensor, context: int) -> None:
        if len(text) <= context:
            raise SettingError(f"Invalid context={context}. Must be below the {len(text)} bytes of the text.")
        self.text = text
        self.context = context

    def __len__(self) -> int:
        return len(self.text) - self.context

    def __getitem__(self, index: int) -> Batch:
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, starts: Sequence[int]) -> Batch:
        """Inputs and targets, both of shape `[n, context]`, int64."""
        places = torch.as_tensor(starts)[:, None] + torch.arange(self.context + 1)
        text = self.text[places].long()
        return text[:, :-1], text[:, 1:]

    def spread(self, count: int) -> list[int]:
        """Starts of `count` windows at equal distances from the first to the last; fewer where there are no more."""
        starts: list[int] = np.unique(np.linspace(0, len(self) - 1, count).astype(np.int64)).tolist()
        return starts


class RandomWindows(DistributedSampler[Any]):
    """Starts of the windows of an epoch, drawn with replacement, other ones each epoch.

    Rank r takes every `num_replicas`-th of them, beginning with the r-th, so one step of R ranks uses the same windows
    as one step of a single process with R times the batch size. It is a `DistributedSampler` because Lightning replaces
    any other sampler of a distributed run, and calls its `set_epoch` before each epoch.

    Args:
        windows: What is drawn from.
        count: Windows of an epoch, of all ranks together; what the ranks cannot share equally is left out.
        num_replicas: Number of ranks.
        rank: The rank whose windows these are.
        seed: The windows depend on it and the epoch only; the same on all ranks.
    """

    def __init__(self, windows: Windows, count: int, num_replicas: int = 1, rank: int = 0, seed: int = 0) -> None:
        super().__init__(windows, num_replicas, rank, seed=seed)
        self.count = count

    def __len__(self) -> int:
        return self.count // self.num_replicas

    def __iter__(self) -> Iterator[int]:
        random = np.random.default_rng([self.seed, self.epoch])
        starts = random.integers(len(self.dataset), size=self.count)  # type: ignore[arg-type]  # Windows has a length
        return iter(starts[self.rank :: self.num_replicas][: len(self)].tolist())
