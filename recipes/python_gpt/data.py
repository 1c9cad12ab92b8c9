"""Windows of Python source, in one split by file."""

import platform
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Subset

from recipes.python_gpt.source import find_files, read_files, standard_library
from recipes.python_gpt.windows import RandomWindows, Windows
from recipes.shared.data import CollatedSets, seed_of_run
from recipes.shared.settings import SettingError, require_at_least


class PythonData(CollatedSets):
    """Bytes of the standard library's source, split by file into training, validation and test set.

    Training takes `train_windows` random windows an epoch; validation and test take the same `eval_windows` windows
    each time, at equal distances.

    Args:
        root: Folder whose `*.py` files are the data; None takes the standard library of the Python that runs.
        context: Bytes of a window.
        train_windows: Windows of an epoch, of all ranks together.
        eval_windows: Windows of the validation set, and of the test set.
        batch_size: Windows per training step and rank.
        eval_batch_size: Windows per validation or test step and rank.

    Raises:
        ValueError: A number below 1.

    Attributes:
        description: After `setup`, what the data are.
    """

    def __init__(
        self,
        root: str | None = None,
        context: int = 128,
        train_windows: int = 1600,
        eval_windows: int = 256,
        batch_size: int = 16,
        eval_batch_size: int = 64,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        require_at_least(1, context=context, train_windows=train_windows, eval_windows=eval_windows)
        self.root = None if root is None else Path(root).expanduser()
        self.context = context
        self.train_windows = train_windows
        self.eval_windows = eval_windows
        self.description = ""

    def setup(self, stage: str) -> None:
        """Reads the files once, and logs what they are: each version of Python is another text."""
        super().setup(stage)
        for logger in self.trainer.loggers if self.trainer else []:
            logger.log_hyperparams({"corpus": self.description})

    def read(self) -> dict[str, Dataset[Any]]:
        """Reads the files.

        Raises:
            SettingError: There are none, or too few for the context.
        """
        root = self.root or standard_library()
        files = find_files(root)
        texts = {name: read_files(paths) for name, paths in files.items()}
        for name, text in texts.items():
            if len(text) <= self.context:
                raise SettingError(
                    f"Invalid context={self.context}. Must be below the {len(text)} bytes of the {name} set, which is "
                    f"{len(files[name])} of the {sum(map(len, files.values()))} *.py files in {root}."
                )
        what = root.name if self.root else f"standard library of Python {platform.python_version()}"
        sizes = ", ".join(f"{name} {len(files[name])} files, {len(text):,} bytes" for name, text in texts.items())
        self.description = f"{what}: {sizes}"
        windows = {
            name: Windows(torch.frombuffer(text, dtype=torch.uint8), self.context) for name, text in texts.items()
        }
        evaluated = {name: Subset(windows[name], windows[name].spread(self.eval_windows)) for name in ("val", "test")}
        return {"train": windows["train"], **evaluated}

    def train_dataloader(self) -> DataLoader[Any]:
        """Random windows, other ones each epoch."""
        windows: Any = self.sets["train"]
        ranks, rank = (self.trainer.world_size, self.trainer.global_rank) if self.trainer else (1, 0)
        sampler = RandomWindows(windows, self.train_windows, ranks, rank, seed_of_run())
        return DataLoader(windows, self.batch_size, sampler=sampler, collate_fn=lambda batch: batch)
