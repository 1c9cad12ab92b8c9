"""CIFAR-100 with the transforms that timm prescribes for the network."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from lightning.pytorch import LightningDataModule, Trainer
from numpy.typing import NDArray
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader

from recipes.vit_cifar100.batched_transforms import batch_transform
from recipes.vit_cifar100.images import (
    SIDE,
    Batch,
    DrawnBatch,
    DrawnImages,
    Pixels,
    TransformedImages,
    fetch_cifar100,
    make_synthetic,
    read_cifar100,
    split_indices,
)
from recipes.vit_cifar100.module import FineTuning

Transforms = Literal["device", "workers", "timm"]


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
        transforms: Where timm's transforms are computed. `device`: on the network's, from the 32x32 pixels that loaders
            hand out, which takes least of the CPU. `workers`: by the same tensor operations in the loaders' processes.
            `timm`: there too, image by image through PIL, several times slower. The same seeds give the same images,
            but for a few bytes of rounding. A step that is not known as a tensor operation (`auto_augment`, for
            example) is a reason to go through PIL in any case.

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
        transforms: Transforms = "device",
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
        self.transforms = transforms
        self._sets: dict[str, TransformedImages | DrawnImages] = {}

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
            "train": self._transformed(known, train, augment),
            "val": self._transformed(known, val, evaluate),
            "test": self._transformed(test, np.arange(len(test.labels)), evaluate),
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

    def on_after_batch_transfer(self, batch: DrawnBatch | Batch, dataloader_idx: int) -> Batch:
        """Computes what loaders left to the network's device."""
        if isinstance(batch[0], Tensor):
            return batch
        one = self._sets["train" if self._trainer().training else "val"]  # that of the test set is the same
        return one.compute(batch)  # type: ignore[union-attr]

    def _transform(self, **options: Any) -> Any:
        network = self._trainer().lightning_module
        if not isinstance(network, FineTuning):
            raise TypeError(f"Invalid model {type(network).__name__}. Must be FineTuning, which knows its transforms.")
        # timm's "prefetcher" form of a transform leaves out the last two steps, to float and standardized.
        return create_transform(**network.data_config, use_prefetcher=True, **options)

    def _transformed(
        self, pixels: Pixels, indices: NDArray[np.int64], transform: Any
    ) -> TransformedImages | DrawnImages:
        batched = None if self.transforms == "timm" else batch_transform(transform, (SIDE, SIDE))
        if batched is None:
            return TransformedImages(pixels, indices, transform)
        return DrawnImages(pixels, indices, batched)

    def _loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        images = self._sets[name]
        collate: Callable[[Any], Any] | None = None
        if isinstance(images, DrawnImages):
            collate = images.compute if self.transforms == "workers" else _as_it_is
        workers = self._workers()
        on_gpu = self._trainer().strategy.root_device.type == "cuda"
        return DataLoader(
            images,
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=workers,
            collate_fn=collate,
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


def _as_it_is(batch: Any) -> Any:
    return batch
