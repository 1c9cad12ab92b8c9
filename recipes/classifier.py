"""One training loop for classifiers of images."""

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

Batch = tuple[Tensor, Tensor]


class ImageClassifier(LightningModule):
    """Cross-entropy training; logs `{train,val,test}/loss` and `{val,test}/acc`. A subclass brings `forward`.

    `training_loss` and `example_metrics` are functions of the parameters and a batch alone, so that `adaloss sweep
    --together` can train many copies at once.
    """

    def __init__(self) -> None:
        super().__init__()
        self.val_accuracy = MeanMetric()
        self.test_accuracy = MeanMetric()

    def training_loss(self, batch: Batch) -> Tensor:
        """Mean cross-entropy of the batch."""
        images, labels = batch
        return nn.functional.cross_entropy(self(images), labels)

    def example_metrics(self, batch: Batch) -> dict[str, Tensor]:
        """Cross-entropy and whether the answer is right, of each example, shape `[n]`."""
        images, labels = batch
        scores = self(images)
        loss = nn.functional.cross_entropy(scores, labels, reduction="none")
        return {"loss": loss, "acc": (scores.argmax(1) == labels).float()}

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """The loss of the batch."""
        loss = self.training_loss(batch)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates loss and accuracy of the validation set."""
        self._evaluate("val", batch, self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates loss and accuracy of the test set."""
        self._evaluate("test", batch, self.test_accuracy)

    def _evaluate(self, stage: str, batch: Batch, accuracy: MeanMetric) -> None:
        metrics = self.example_metrics(batch)
        accuracy.update(metrics["acc"])
        count = len(metrics["acc"])
        self.log(f"{stage}/loss", metrics["loss"].mean(), batch_size=count, sync_dist=True)
        self.log(f"{stage}/acc", accuracy, prog_bar=True, batch_size=count)
