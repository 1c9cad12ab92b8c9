"""Supervised: one training loop for every recipe that predicts a target."""

from typing import Any, Literal

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

Stage = Literal["val", "test"]


class Supervised(LightningModule):
    """Logs `{train,val,test}/loss`, and `{val,test}/acc` where a subclass counts hits.

    A subclass brings `forward` and `loss`; a classifier also brings `hits`.
    """

    def __init__(self) -> None:
        super().__init__()
        self.val_accuracy = MeanMetric()
        self.test_accuracy = MeanMetric()

    def outputs(self, batch: Any) -> tuple[Tensor, Tensor]:
        """Predictions and targets of a batch."""
        inputs, targets = batch
        return self(inputs), targets

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Loss of a batch."""
        raise NotImplementedError

    def hits(self, predicted: Tensor, targets: Tensor) -> Tensor | None:
        """Whether each prediction is right, shape `[n]`; None for a task without accuracy."""
        return None

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        """Loss of the batch."""
        loss = self.loss(*self.outputs(batch))
        self.log("train/loss", loss, prog_bar=True, batch_size=1)
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Updates loss and metrics of the validation set."""
        self._evaluate("val", batch)

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Updates loss and metrics of the test set."""
        self._evaluate("test", batch)

    def _evaluate(self, stage: Stage, batch: Any) -> None:
        predicted, targets = self.outputs(batch)
        self.log(f"{stage}/loss", self.loss(predicted, targets), batch_size=len(targets), sync_dist=True)
        self.measure(stage, predicted, targets)

    def measure(self, stage: Stage, predicted: Tensor, targets: Tensor) -> None:
        """Updates the metrics of a stage beside its loss: the accuracy."""
        hits = self.hits(predicted, targets)
        if hits is not None:
            accuracy = self.val_accuracy if stage == "val" else self.test_accuracy
            accuracy.update(hits.float())
            self.log(f"{stage}/acc", accuracy, prog_bar=True, batch_size=len(targets))


class Classifier(Supervised):
    """Supervised on classes, by their cross-entropy."""

    def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Mean cross-entropy of the batch."""
        return nn.functional.cross_entropy(predicted, targets)

    def hits(self, predicted: Tensor, targets: Tensor) -> Tensor:
        """Whether the highest score is that of the right class."""
        return predicted.argmax(1) == targets
