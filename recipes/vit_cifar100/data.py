"""CIFAR-100 with the transforms that timm prescribes for the network."""

import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule, Trainer
from timm.data.transforms_factory import create_transform
from torch.utils.data import DataLoader

from recipes.vit_cifar100.images import (
    TransformedImages,
    fetch_cifar100,
    make_synthetic,
    read_cifar100,
    split_indices,
)
from recipes.vit_cifar100.module import FineTuning


class CIFAR100Data(LightningDataModule):
    """45,000 training, 5,000 validation and 10,000 test images, the same split per class for every run.

    Images go through `timm.data.create_transform` with the network's own data configuration (size, interpolation,
    crop), which the data module asks the trainer's `FineTuning` for. They stay bytes, `[3, height, width]`, until the
    network's device standardizes them: a quarter of the memory to collate, pin and copy.

    Args:
        root: Folder that holds `cifar-100-python` or its archive, or where they are downloaded to.
        source: `cifar100`, or `synthetic` for made-up images that need no network and say nothing about CIFAR.
        synthetic_per_class: Made-up training images of each class.
        batch_size: Images per training step and process.
        eval_batch_size: Images per validation or test step and process.
        num_workers: Processes that transform images for each training process. None: the CPU cores there are, shared
            between the training processes of this machine.
        pin_memory: Whether batches wait in page-locked memory. None: if the trainer uses a GPU.
        train_transform: More arguments for timm's training transform, such as `{color_jitter: 0}` or `{no_aug: true}`.

    Raises:
        ValueError: A number that is too small.
        DownloadError: The data are not there and cannot be fetched.
    """

    def __init__(
        self,
        root: str = "data",
        source: Literal["cifar100", "synthetic"] = "cifar100",
        synthetic_per_class: int = 20,
        batch_size: int = 64,
        eval_batch_size: int = 256,
        num_workers: int | None = None,
        pin_memory: bool | None = None,
        train_transform: dict[str, Any] | None = None,
    ) -> None:
        super().__init__()
        for name, value, least in (
            ("synthetic_per_class", synthetic_per_class, 10),  # one in ten is for validation
            ("batch_size", batch_size, 1),
            ("eval_batch_size", eval_batch_size, 1),
            ("num_workers", num_workers, 0),
        ):
            if value is not None and value < least:
                raise ValueError(f"Invalid {name}={value}. Must be >= {least}.")
        self.root = Path(root).expanduser()
        self.source = source
        self.synthetic_per_class = synthetic_per_class
        self.batch_size = batch_size
        self.eval_batch_size = eval_batch_size
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.train_transform = train_transform or {}
        self._sets: dict[str, TransformedImages] = {}

    def prepare_data(self) -> None:
        """Downloads in one process of each machine."""
        if self.source == "cifar100":
            fetch_cifar100(self.root)

    def setup(self, stage: str) -> None:
        """Reads the images once, whatever stage comes first."""
        if self._sets:
            return
        if self.source == "cifar100":
            known, test = read_cifar100(self.root)
        else:
            known, test = make_synthetic(self.synthetic_per_class)
        train, val = split_indices(known.labels)
        evaluate = self._transform()
        augment = self._transform(is_training=True, **self.train_transform)
        self._sets = {
            "train": TransformedImages(known, train, augment),
            "val": TransformedImages(known, val, evaluate),
            "test": TransformedImages(test, np.arange(len(test.labels)), evaluate),
        }

    def train_dataloader(self) -> DataLoader[Any]:
        """Shuffled anew each epoch; the last batch is a short one."""
        return self._loader("train", self.batch_size, shuffle=True)

    def val_dataloader(self) -> DataLoader[Any]:
        """The validation images in their order."""
        return self._loader("val", self.eval_batch_size)

    def test_dataloader(self) -> DataLoader[Any]:
        """The test images in their order."""
        return self._loader("test", self.eval_batch_size)

    def _transform(self, **options: Any) -> Any:
        network = self._trainer().lightning_module
        if not isinstance(network, FineTuning):
            raise TypeError(f"Invalid model {type(network).__name__}. Must be FineTuning, which knows its transforms.")
        # timm's "prefetcher" form of a transform leaves out the last two steps, to float and standardized.
        return create_transform(**network.data_config, use_prefetcher=True, **options)

    def _loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        workers = self._workers()
        on_gpu = self._trainer().strategy.root_device.type == "cuda"
        return DataLoader(
            self._sets[name],
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=workers,
            pin_memory=on_gpu if self.pin_memory is None else self.pin_memory,
            persistent_workers=workers > 0,  # starting them anew costs seconds at each epoch
            prefetch_factor=4 if workers else None,  # evens out a batch that takes longer than others
        )

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return max(1, len(os.sched_getaffinity(0)) // self._trainer().num_devices)

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("CIFAR100Data has no trainer. Give it to one: trainer.fit(model, datamodule=data).")
        return self.trainer
