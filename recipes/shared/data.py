"""ThreeSets: training, validation and test data, and the one way to cut data that come without a split."""

import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from lightning.pytorch import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from recipes.shared.settings import require_at_least

SPLIT_SEED = 0  # a constant, not the seed of a run: every run of every method sees the same sets


class ThreeSets(LightningDataModule):
    """Sets named `train`, `val` and `test`, which a subclass reads.

    Args:
        batch_size: Examples per training step.
        eval_batch_size: Examples per validation or test step.

    Raises:
        ValueError: A batch size below 1.

    Attributes:
        sets: The sets, after `setup`.
    """

    def __init__(self, batch_size: int, eval_batch_size: int) -> None:
        super().__init__()
        require_at_least(1, batch_size=batch_size, eval_batch_size=eval_batch_size)
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.sets: dict[str, Dataset[Any]] = {}

    def read(self) -> dict[str, Dataset[Any]]:
        """Reads or draws the three sets."""
        raise NotImplementedError

    def setup(self, stage: str) -> None:
        """Reads the sets once, at the first stage."""
        self.sets = self.sets or self.read()

    def loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        """Batches of one set."""
        return DataLoader(self.sets[name], batch_size=batch_size, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader[Any]:
        """The training set, shuffled again each epoch."""
        return self.loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation set in a fixed order."""
        return self.loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test set in a fixed order."""
        return self.loader("test", self.eval_batch_size)


class TensorExamples(Dataset[tuple[Tensor, Tensor]]):
    """Inputs and targets as two tensors; one index operation fetches a whole batch.

    Args:
        inputs: One example a row.
        targets: What is to be predicted, one a row.
    """

    def __init__(self, inputs: Tensor, targets: Tensor) -> None:
        self.inputs = inputs
        self.targets = targets

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.inputs[index], self.targets[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        # DataLoader prefers this method. Collating 64 single digits costs more than training the CNN on them.
        chosen = torch.as_tensor(indices)
        return self.inputs[chosen], self.targets[chosen]


class CollatedSets(ThreeSets):
    """ThreeSets whose sets have `__getitems__`, which gives a batch as the network takes it."""

    def loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        """Batches of one set, which come collated."""
        return DataLoader(self.sets[name], batch_size=batch_size, shuffle=shuffle, collate_fn=lambda batch: batch)


def seed_of_run() -> int:
    """The seed of `seed_everything`, 0 where none was set: for samplers with a generator of their own.

    Lightning seeds its samplers by the same variable, which the processes that it starts inherit.
    """
    return int(os.environ.get("PL_GLOBAL_SEED", 0))


def split_indices(
    targets: np.ndarray, val_share: float = 0.2, test_share: float = 0.2, seed: int = SPLIT_SEED
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cuts every class into the same shares of training, validation and test examples.

    `RandomState`, not `default_rng`: NumPy promises that its stream never changes, so the split is the same everywhere.

    Args:
        targets: Class of each example, shape `[n]`.
        val_share: Share of the validation set.
        test_share: Share of the test set.
        seed: Another one gives other sets.

    Returns:
        Sorted indices of the training, validation and test examples: disjoint, and together all of them.
    """
    random = np.random.RandomState(seed)
    parts: list[list[np.ndarray]] = []
    for label in np.unique(targets):
        members = random.permutation(np.flatnonzero(targets == label))
        n_test, n_val = round(test_share * len(members)), round(val_share * len(members))
        test, val, train = np.split(members, [n_test, n_test + n_val])
        parts.append([train, val, test])
    train, val, test = (np.sort(np.concatenate(part)) for part in zip(*parts, strict=True))
    return train, val, test
