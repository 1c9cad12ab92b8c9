"""Tables of scikit-learn, with one fixed split."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from torch.utils.data import Dataset

from recipes.shared.data import CollatedSets, TensorExamples, split_indices

Name = Literal["diabetes", "breast_cancer", "wine"]


class Table(NamedTuple):
    """A data set of scikit-learn.

    Attributes:
        load: Reads it.
        features: Columns.
        classes: Number of classes; None for a regression.
    """

    load: Callable[..., Any]
    features: int
    classes: int | None


TABLES: dict[Name, Table] = {
    "diabetes": Table(load_diabetes, 10, None),
    "breast_cancer": Table(load_breast_cancer, 30, 2),
    "wine": Table(load_wine, 13, 3),
}


class TabularData(CollatedSets):
    """One of three tables. Each feature is standardized by its mean and deviation in the training set.

    - `diabetes`: 442 patients, progression of the disease after a year. The targets stay as they are, 25 to 346, so
      that the squared error begins at about 29,000: a loss of that size is what the recipe is for.
    - `breast_cancer`: 569 tumours, two classes.
    - `wine`: 178 wines, three classes.

    The split is fixed, for classes the same share of each: 60 % training, 20 % validation, 20 % test.

    Args:
        name: The table.
        batch_size: Examples per training step.
        eval_batch_size: Examples per validation or test step; one batch holds each set by default.

    Raises:
        ValueError: A batch size below 1.
    """

    def __init__(self, name: Name = "diabetes", batch_size: int = 32, eval_batch_size: int = 512) -> None:
        super().__init__(batch_size, eval_batch_size)
        self.table = TABLES[name]

    def read(self) -> dict[str, Dataset[Any]]:
        """Reads and standardizes the table."""
        features, targets = self.table.load(return_X_y=True)
        is_regression = self.table.classes is None
        parts = split_indices(np.zeros(len(targets)) if is_regression else targets)
        train = features[parts[0]]
        inputs = torch.from_numpy((features - train.mean(0)) / train.std(0)).float()
        outputs = torch.from_numpy(targets).to(torch.float32 if is_regression else torch.int64)
        return {
            name: TensorExamples(inputs[index], outputs[index])
            for name, index in zip(("train", "val", "test"), parts, strict=True)
        }
