"""One training loop for classifiers of images."""

from lightning.pytorch import LightningModule
from torch import Tensor, nn
from torchmetrics import MeanMetric

Batch = tuple[Tensor, Tensor]


class ImageClassifier(LightningModule):
    """Cross-entropy training; logs `{train,val,test}/loss` and `{val,test}/acc`. A subclass brings `forward`."""

    def __init__(self) -> None:
        super().__init__()
        self.val_accuracy = MeanMetric()
        self.test_accuracy = MeanMetric()

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Mean cross-entropy of the batch."""
        images, labels = batch
        loss = nn.functional.cross_entropy(self(images), labels)
        self.log("train/loss", loss, prog_bar=True)
        return loss

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates loss and accuracy of the validation set."""
        self._evaluate("val", batch, self.val_accuracy)

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        """Updates loss and accuracy of the test set."""
        self._evaluate("test", batch, self.test_accuracy)

    def _evaluate(self, stage: str, batch: Batch, accuracy: MeanMetric) -> None:
        images, labels = batch
        scores = self(images)
        accuracy.update((scores.argmax(1) == labels).float())
        loss = nn.functional.cross_entropy(scores, labels)
        self.log(f"{stage}/loss", loss, batch_size=len(labels), sync_dist=True)
        self.log(f"{stage}/acc", accuracy, prog_bar=True, batch_size=len(labels))
