"""Pages of the documentation, the code blocks in them, and the names that these take as given."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import lightning.pytorch.cli  # noqa: F401  # before a test puts a quiet Trainer in place of Lightning's
import torch
from lightning.fabric import Fabric
from torch.utils.data import DataLoader, TensorDataset

from adaloss_lightning import AdaLoss, AdaLossCallback, AdamLoss

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/**/*.md"), *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md"))])
_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page; `line` is the number of its first line of code."""

    page: Path
    language: str
    line: int
    code: str

    def __str__(self) -> str:
        return f"{self.page.name}:{self.line}"


def blocks(page: Path, *languages: str) -> list[Block]:
    """The page's blocks in these languages, in all of them where none is given."""
    text = page.read_text("utf-8")
    found = [
        Block(page, one[2], text.count("\n", 0, one.start(3)) + 1, re.sub(f"^{one[1]}", "", one[3], flags=re.MULTILINE))
        for one in _BLOCK.finditer(text)
    ]
    return [block for block in found if not languages or block.language in languages]


def train_loader() -> DataLoader[Any]:
    """A few rows of three classes."""
    torch.manual_seed(0)
    return DataLoader(TensorDataset(torch.randn(64, 4), torch.arange(64) % 3), batch_size=8)


class Net(pl.LightningModule):
    """The reader's own module."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x)

    def training_step(self, batch: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters())

    def train_dataloader(self) -> DataLoader[Any]:
        return train_loader()


class Data(pl.LightningDataModule):
    """The reader's own data."""

    def train_dataloader(self) -> DataLoader[Any]:
        return train_loader()


class Trainer(pl.Trainer):
    """A short and quiet one, whatever the page asks for."""

    def __init__(self, **arguments: Any) -> None:
        own = {
            "max_epochs": 1,
            "accelerator": "cpu",
            "logger": False,
            "enable_checkpointing": "default_root_dir" in arguments,
        }
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
        super().__init__(**own | arguments | quiet)


def given(page: Path, folder: Path) -> dict[str, Any]:
    """Names that the page's Python takes as given: imports, and what a reader has before opening it."""
    model, batch = Net(), next(iter(train_loader()))

    def loss_fn(model: torch.nn.Module, batch: list[torch.Tensor]) -> torch.Tensor:
        return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])

    return {
        "__name__": page.stem,
        "AdaLoss": AdaLoss, "AdaLossCallback": AdaLossCallback, "AdamLoss": AdamLoss, "Trainer": Trainer,
        "batch": batch, "batches": train_loader(), "datamodule": Data(), "example_batch": torch.randn(2, 4),
        "fabric": Fabric(accelerator="cpu"), "folder": folder, "loader": train_loader(), "loss": loss_fn(model, batch),
        "loss_fn": loss_fn, "model": model, "module": model, "path": None, "pl": pl, "torch": torch,
        "x": torch.nn.functional.normalize(torch.randn(8, 16, dtype=torch.float64)),
    }  # fmt: skip
