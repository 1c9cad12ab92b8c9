"""Fine-tuning of any image classifier that timm has."""

import platform
from typing import Any

import timm
import torch
from lightning.pytorch import LightningModule
from timm.data.config import resolve_model_data_config
from torch import Tensor, nn
from torchmetrics.classification import MulticlassAccuracy

from recipes.vit_cifar100.images import NUM_CLASSES

Batch = tuple[Tensor, Tensor]


class FineTuning(LightningModule):
    """Cross-entropy training of all weights; logs `{train,val,test}/loss` and `{val,test}/acc`.

    Args:
        name: A network of timm. Those with weights: `timm.list_models(pretrained=True)`.
        pretrained: Starts from timm's weights, downloaded once, with a new head for 100 classes.
        options: More arguments for `timm.create_model`, for example
            `{pretrained_cfg_overlay: {file: vit_small.safetensors}}` for weights that are there already.
        channels_last: Keeps images and convolutions in the memory format that tensor cores prefer.
        compile: Compiles the network with torch.compile; the names in checkpoints stay the same.

    Attributes:
        data_config: What timm says about the network's images: `input_size`, `interpolation`, `crop_pct`, `mean`, ...
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        name: str = "vit_small_patch16_224",
        pretrained: bool = True,
        options: dict[str, Any] | None = None,
        channels_last: bool = False,
        compile: bool = False,  # noqa: A002 - the name of the option everywhere in torch
    ) -> None:
        super().__init__()
        self.save_hyperparameters(logger=False)
        options = options or {}
        self.network = timm.create_model(name, pretrained=pretrained, num_classes=NUM_CLASSES, **options)
        self.data_config: dict[str, Any] = resolve_model_data_config(  # type: ignore[no-untyped-call]
            self.network, args=options
        )
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(self.data_config[key]).view(3, 1, 1), persistent=False)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.network.to(memory_format=self.memory_format)
        if compile:
            self.network.compile()
        self.val_accuracy = MulticlassAccuracy(NUM_CLASSES, average="micro")
        self.test_accuracy = MulticlassAccuracy(NUM_CLASSES, average="micro")

    def forward(self, images: Tensor) -> Tensor:
        """Scores of the classes, shape `[n, 100]`.

        Args:
            images: Bytes of shape `[n, 3, height, width]`; standardized here, `(x / 255 - mean) / std`.
        """
        pixels = (images.to(self.mean.dtype).div_(255) - self.mean) / self.std
        scores: Tensor = self.network(pixels.contiguous(memory_format=self.memory_format))
        return scores

    def on_train_start(self) -> None:
        """Notes in the run how many steps it takes and on what machine: reports quote them."""
        for logger in self.trainer.loggers:
            logger.log_hyperparams({"machine": self._machine(), "steps": self.trainer.estimated_stepping_batches})

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

    def _evaluate(self, stage: str, batch: Batch, accuracy: MulticlassAccuracy) -> None:
        images, labels = batch
        scores = self(images)
        accuracy.update(scores, labels)
        loss = nn.functional.cross_entropy(scores, labels)
        self.log(f"{stage}/loss", loss, batch_size=len(labels), sync_dist=True)
        self.log(f"{stage}/acc", accuracy, prog_bar=True, batch_size=len(labels))

    def _machine(self) -> str:
        device = self.trainer.strategy.root_device
        name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"{platform.machine()} {device.type}"
        return f"{self.trainer.world_size} x {name}, torch {torch.__version__}"
