"""Fine-tunes a network of timm on a folder with a folder of images per class:

python examples/fine_tune_timm.py FOLDER [--model resnet18] [--no-pretrained] [--epochs 5]
"""

import argparse

import lightning.pytorch as pl
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader

from adaloss_lightning import AdaLossCallback

try:
    import timm
    from timm.data import create_transform, resolve_model_data_config
    from torchvision.datasets import ImageFolder
except ModuleNotFoundError as error:
    raise SystemExit(f"{error.name} is not installed: pip install 'adaloss-lightning[recipes]'") from None


class FineTuning(pl.LightningModule):
    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        images, labels = batch
        scores = self.network(images)
        self.log("train/acc", (scores.argmax(1) == labels).float().mean(), prog_bar=True)
        return cross_entropy(scores, labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters())


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder")
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--pretrained", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--epochs", type=int, default=5)
    given = parser.parse_args()
    images = ImageFolder(given.folder)
    network = timm.create_model(given.model, pretrained=given.pretrained, num_classes=len(images.classes))
    images.transform = create_transform(**resolve_model_data_config(network), is_training=True)
    trainer = pl.Trainer(max_epochs=given.epochs, logger=False, callbacks=[AdaLossCallback(auto=True)])
    trainer.fit(FineTuning(network), DataLoader(images, batch_size=32, shuffle=True))
    print(f"accuracy of the last batch {float(trainer.callback_metrics['train/acc']):.2f}")
