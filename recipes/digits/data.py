"""The 1,797 handwritten digits embedded in scikit-learn, with one fixed split."""

from typing import Any

import torch
from sklearn.datasets import load_digits
from torch.utils.data import Dataset

from recipes.shared.data import CollatedSets, TensorExamples, split_indices

NUM_CLASSES = 10


class DigitsData(CollatedSets):
    """Real 8x8 images of handwritten digits (Alpaydin and Kaynak, the test part of UCI's Optical Recognition set).

    Pixels come as 0 to 16 and are standardized by the mean and deviation of the training set. The split is fixed and
    the same share of each class: 60 % training (1,079), 20 % validation (359) and 20 % test (359).

    Args:
        batch_size: Examples per training step.
        eval_batch_size: Examples per validation or test step; one batch holds each set by default.

    Raises:
        ValueError: A batch size below 1.
    """

    def __init__(self, batch_size: int = 32, eval_batch_size: int = 512) -> None:
        super().__init__(batch_size, eval_batch_size)

    def read(self) -> dict[str, Dataset[Any]]:
        """Reads and standardizes the images."""
        digits = load_digits()
        labels = torch.from_numpy(digits.target).long()
        images = torch.from_numpy(digits.images).float().unsqueeze(1)  # [n, 1, 8, 8]
        parts = dict(zip(("train", "val", "test"), split_indices(digits.target), strict=True))
        deviation, mean = torch.std_mean(images[torch.from_numpy(parts["train"])])
        images = (images - mean) / deviation
        return {name: TensorExamples(images[index], labels[index]) for name, index in parts.items()}
