"""A multilayer perceptron on a table: regression by squared error, or classification by cross-entropy."""

from itertools import pairwise

from torch import Tensor, nn
from torchmetrics import MeanSquaredError, MetricCollection, R2Score

from recipes.shared.module import Stage, Supervised
from recipes.shared.settings import require_at_least
from recipes.tabular.data import TABLES, Name


def build_mlp(n_in: int, n_out: int, width: int, depth: int) -> nn.Sequential:
    """ReLU network with `depth` hidden layers of `width` units."""
    sizes = [n_in, *[width] * depth]
    hidden = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*hidden, nn.Linear(sizes[-1], n_out))


class TabularModule(Supervised):
    """Trains an MLP; logs `{train,val,test}/loss`, and `{val,test}/acc` of classes, else `{val,test}/rmse` and `r2`.

    Args:
        name: The table, which decides about inputs, outputs and loss; on the command line `--data.name`.
        width: Units of each hidden layer.
        depth: Hidden layers; 0 is a linear model.

    Raises:
        ValueError: A width below 1 or a depth below 0.
    """

    def __init__(self, name: Name = "diabetes", width: int = 64, depth: int = 2) -> None:
        super().__init__()
        require_at_least(1, width=width)
        require_at_least(0, depth=depth)
        self.save_hyperparameters(logger=False)
        table = TABLES[name]
        self.is_regression = table.classes is None
        self.network = build_mlp(table.features, table.classes or 1, width, depth)
        if self.is_regression:
            errors = MetricCollection({"rmse": MeanSquaredError(squared=False), "r2": R2Score()}, compute_groups=False)
            self.val_errors, self.test_errors = errors.clone(prefix="val/"), errors.clone(prefix="test/")

    def forward(self, features: Tensor) -> Tensor:
        """Predictions of shape `[n]` or scores of shape `[n, classes]`, of features of shape `[n, features]`."""
        predicted: Tensor = self.network(features)
        return predicted.squeeze(1) if self.is_regression else predicted

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Mean squared error or mean cross-entropy of the batch."""
        if self.is_regression:
            return nn.functional.mse_loss(predicted, targets)
        return nn.functional.cross_entropy(predicted, targets)

    def hits(self, predicted: Tensor, targets: Tensor) -> Tensor | None:
        """Whether the highest score is that of the right class; None for a regression."""
        return None if self.is_regression else predicted.argmax(1) == targets

    def measure(self, stage: Stage, predicted: Tensor, targets: Tensor) -> None:
        """Updates the accuracy, or root mean squared error and R^2."""
        super().measure(stage, predicted, targets)
        if self.is_regression:
            errors = self.val_errors if stage == "val" else self.test_errors
            errors.update(predicted, targets)
            self.log_dict(errors, prog_bar=True, batch_size=len(targets))
