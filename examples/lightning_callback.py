"""One callback, nothing to tune: python examples/lightning_callback.py"""

import lightning.pytorch as pl
import torch
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

from adaloss_lightning import AdaLossCallback


class Classifier(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.ReLU(), torch.nn.Linear(64, 2))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        points, labels = batch
        return cross_entropy(self.network(points), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())


def rings(n: int = 1024) -> TensorDataset:
    """Points inside a ring and outside of it."""
    points = torch.randn(n, 2)
    return TensorDataset(points, (points.norm(dim=1) > 1.2).long())


if __name__ == "__main__":
    pl.seed_everything(1)
    callback = AdaLossCallback(auto=True)
    trainer = pl.Trainer(max_epochs=10, accelerator="cpu", logger=False, callbacks=[callback])
    model, data = Classifier(), rings()
    trainer.fit(model, DataLoader(data, batch_size=32, shuffle=True))
    points, labels = data.tensors
    print(f"accuracy {(model.network(points).argmax(1) == labels).float().mean():.3f}, found {callback.found}")
