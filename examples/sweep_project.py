"""A project of your own that `adaloss sweep` runs. In the folder of this file:

adaloss sweep --recipe sweep_project --methods adaloss --b0 0.1,1,10 --seeds 1,2,3 --experiment mine
adaloss report --experiment mine

A method is a YAML file beside this one: adaloss.yaml.
"""

import lightning.pytorch as pl
import torch
from lightning.pytorch.cli import LightningCLI
from torch.nn.functional import mse_loss
from torch.utils.data import DataLoader, TensorDataset


class Regression(pl.LightningModule):
    def __init__(self, width: int = 64) -> None:
        super().__init__()
        self.network = torch.nn.Sequential(torch.nn.Linear(1, width), torch.nn.Tanh(), torch.nn.Linear(width, 1))

    def training_step(self, batch: list[torch.Tensor], batch_idx: int) -> torch.Tensor:
        loss = mse_loss(self.network(batch[0]), batch[1])
        self.log("train/loss", loss)
        return loss

    def validation_step(self, batch: list[torch.Tensor], batch_idx: int) -> None:
        self.log("val/loss", mse_loss(self.network(batch[0]), batch[1]))


class Sine(pl.LightningDataModule):
    def loader(self, shuffle: bool) -> DataLoader[tuple[torch.Tensor, ...]]:
        x = torch.linspace(-3, 3, 256).unsqueeze(1)
        return DataLoader(TensorDataset(x, x.sin()), batch_size=32, shuffle=shuffle)

    def train_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return self.loader(shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[torch.Tensor, ...]]:
        return self.loader(shuffle=False)


def main(args: list[str]) -> None:
    LightningCLI(Regression, Sine, args=args)


if __name__ == "__main__":
    import sys

    main(sys.argv[1:])
