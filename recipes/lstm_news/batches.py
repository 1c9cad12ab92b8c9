"""Batches of articles of similar length, dealt to the ranks of a distributed run."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import DistributedSampler

Indices = NDArray[np.int64]


class BucketSampler(DistributedSampler[Any]):
    """Whole batches, as lists of indices, for `DataLoader(sampler=..., batch_size=None)`.

    Each epoch the examples are shuffled, cut into pools of `pool` global batches, each pool sorted by length and cut
    into global batches of `num_replicas * batch_size`, and the batches of all pools shuffled. Rank r takes every
    `num_replicas`-th example of each global batch, beginning with its r-th. So

    - one step of R ranks uses the same examples as one step of a single process with R times the batch size;
    - the ranks work on equally long texts, and no example is used twice;
    - in training all have the same number of batches. An example is left out only where a last batch has fewer
      examples than there are ranks, other ones each epoch.

    Without `shuffle` all examples are one pool and none is left out; then a rank may have a batch less.

    It is a `DistributedSampler` because Lightning replaces any other sampler of a distributed run, and calls its
    `set_epoch` before each epoch.

    Args:
        lengths: Length of each example.
        batch_size: Examples of a batch of one rank.
        num_replicas: Number of ranks.
        rank: The rank whose batches these are.
        shuffle: Whether to shuffle; for training.
        seed: The order depends on it and the epoch only; the same on all ranks.
        pool: Global batches that are sorted together: more makes lengths more equal, and batches less random.
    """

    def __init__(
        self,
        lengths: Sequence[int] | Indices,
        batch_size: int,
        num_replicas: int = 1,
        rank: int = 0,
        shuffle: bool = True,
        seed: int = 0,
        pool: int = 50,
    ) -> None:
        self.lengths = np.asarray(lengths)
        super().__init__(self.lengths, num_replicas, rank, shuffle, seed)  # type: ignore[arg-type]  # takes its len
        self.batch_size = batch_size
        self.pool = pool

    def __len__(self) -> int:
        whole, rest = divmod(len(self.lengths), self.num_replicas * self.batch_size)
        return whole + (rest >= self.num_replicas if self.shuffle else rest > self.rank)

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self._global_batches():
            mine = batch[self.rank :: self.num_replicas]
            if len(mine):
                yield mine.tolist()

    def _longest_first(self, indices: Indices) -> Indices:
        return indices[np.argsort(-self.lengths[indices], kind="stable")]

    def _global_batches(self) -> list[Indices]:
        size = self.num_replicas * self.batch_size
        if not self.shuffle:
            return _cut(self._longest_first(np.arange(len(self.lengths))), size)
        random = np.random.default_rng([self.seed, self.epoch])
        order = random.permutation(len(self.lengths))
        rest = len(order) % size
        if rest < self.num_replicas:  # the others would wait forever for a rank without an example
            order = order[: len(order) - rest]
        pools = _cut(order, self.pool * size)
        batches = [batch for part in pools for batch in _cut(self._longest_first(part), size)]
        return [batches[index] for index in random.permutation(len(batches))]


def _cut(indices: Indices, size: int) -> list[Indices]:
    return [indices[start : start + size] for start in range(0, len(indices), size)]
