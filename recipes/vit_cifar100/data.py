"""CIFAR-100, or made-up images that need neither network nor data, with the transforms that timm prescribes."""

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock
from lightning.pytorch import Trainer
from PIL import Image
from timm.data.transforms_factory import create_transform
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import datasets, transforms

from adaloss_lightning.tracking.sweeps.executors.shares import available_cores
from recipes.shared.data import SPLIT_SEED, ThreeSets, seed_of_run, split_indices
from recipes.shared.settings import SettingError, require_at_least
from recipes.vit_cifar100.download import download, require_folder
from recipes.vit_cifar100.module import NUM_CLASSES, FineTuning

SIDE = 32  # pixels
VAL_SHARE = 0.1  # 50 of the 500 training images of each class: the paper's 45k and 5k
_FEWEST = round(1 / VAL_SHARE)  # training images of a class, so that each has one for validation
_SYNTHETIC_SEED = 0

Example = tuple[Tensor, int]
Pixels = tuple[np.ndarray, np.ndarray]  # images as bytes, [n, 32, 32, 3], and the class of each, [n]


class CIFAR100(datasets.CIFAR100):  # type: ignore[misc]  # torchvision has no types
    """torchvision's CIFAR-100 (Krizhevsky), whose archive is fetched by a download that can be resumed.

    A root that holds the extracted files is used as it is, so a read-only one will do.
    """

    def download(self) -> None:
        """Fetches and extracts what is missing; one of several processes does it while the others wait."""
        if self._check_integrity():
            return
        root = Path(self.root)
        require_folder(root)
        archive = root / self.filename
        with FileLock(f"{archive}.lock"):
            if not self._check_integrity():
                download(self.url, archive, self.tgz_md5)
                with tarfile.open(archive) as tar:
                    tar.extractall(root, filter="data")


def read_cifar100(root: Path) -> tuple[Pixels, Pixels]:
    """The 50,000 training and 10,000 test images, whose md5 sums torchvision checks.

    Raises:
        DownloadError: They are not in `root` and cannot be fetched, or `root` is no folder.
        SettingError: The files have a label outside 0 to 99, or too few images of a class for a validation set.
    """
    train, test = (CIFAR100(root, train=train, download=True) for train in (True, False))
    folder = root / CIFAR100.base_folder
    pixels = (train.data, np.asarray(train.targets)), (test.data, np.asarray(test.targets))
    for name, (_, labels) in zip(("train", "test"), pixels, strict=True):
        if len(wrong := np.flatnonzero((labels < 0) | (labels >= NUM_CLASSES))):
            raise SettingError(
                f"Invalid label {labels[wrong[0]]} of image {wrong[0]} in {folder / name}. "
                f"Must be 0 to {NUM_CLASSES - 1}. Remove {folder} to fetch CIFAR-100 again."
            )
    counts = np.bincount(pixels[0][1], minlength=NUM_CLASSES)
    if (least := counts.min()) < _FEWEST:
        raise SettingError(
            f"Invalid {folder / 'train'}: {least} images of class {counts.argmin()}. Must be "
            f">= {_FEWEST}, of which {VAL_SHARE:.0%} are for validation. Remove the folder to fetch CIFAR-100 again."
        )
    return pixels


def describe_data(root: str = "data") -> str:
    """Whether the images are where the recipe looks for them."""
    found = [name for name in ("cifar-100-python", CIFAR100.filename) if (Path(root) / name).exists()]
    return f"{Path(root) / found[0]} is there" if found else f"not in {Path(root)}/, the first run downloads them"


def make_synthetic(per_class: int) -> tuple[Pixels, Pixels]:
    """Made-up training and test images: each class has a 4x4 pattern of its own, blown up to 32x32 under heavy noise.

    Args:
        per_class: Training images of each of the 100 classes; the test set has a fifth of that, at least one.
    """
    random = np.random.RandomState(_SYNTHETIC_SEED)
    patterns = random.uniform(64, 192, (NUM_CLASSES, 4, 4, 3)).repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)

    def draw(count: int) -> Pixels:
        labels = np.arange(NUM_CLASSES).repeat(count)
        noisy = patterns[labels] + random.normal(0, 32, (len(labels), SIDE, SIDE, 3))
        return noisy.clip(0, 255).astype(np.uint8), labels

    return draw(per_class), draw(max(1, per_class // 5))


class TransformedImages(Dataset[Example]):
    """Images, each through `transform`, which takes and gives what timm's transforms do."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, transform: Callable[[Image.Image], Tensor]) -> None:
        self.images = images
        self.labels = labels
        self.transform = transform

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Example:
        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


def crop_and_flip(evaluate: Any) -> Any:
    """The authors' training transform: timm's for evaluation with a random crop instead of the middle, and a flip."""
    resize, middle, to_bytes = evaluate.transforms
    return transforms.Compose([resize, transforms.RandomCrop(middle.size), transforms.RandomHorizontalFlip(), to_bytes])


class CIFAR100Data(ThreeSets):
    """45,000 training, 5,000 validation and 10,000 test images, by default the same split per class for every run.

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
        augment: `timm` for timm's training transform, `crop` for a random crop and flip of the resized image.
        train_transform: More arguments for timm's training transform, such as `{color_jitter: 0}` or `{no_aug: true}`.
        split_by_seed: Cuts training and validation set by the seed of the run, so that each seed has others.

    Raises:
        ValueError: A number that is too small, or `train_transform` without timm's transform.
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
        augment: Literal["timm", "crop"] = "timm",
        train_transform: dict[str, Any] | None = None,
        split_by_seed: bool = False,
    ) -> None:
        super().__init__(batch_size, eval_batch_size)
        require_at_least(_FEWEST, synthetic_per_class=synthetic_per_class)
        require_at_least(0, num_workers=num_workers)
        if train_transform and augment != "timm":
            raise ValueError(f"Invalid train_transform={train_transform} with augment={augment}. Must be left out.")
        self.root = Path(root).expanduser()
        self.source = source
        self.synthetic_per_class = synthetic_per_class
        self.num_workers = num_workers
        self.pin_memory = pin_memory
        self.augment = augment
        self.train_transform = train_transform or {}
        self.split_by_seed = split_by_seed

    def prepare_data(self) -> None:
        """Downloads in one process of each machine."""
        if self.source == "cifar100":
            CIFAR100(self.root, train=False, download=True)

    def read(self) -> dict[str, Dataset[Any]]:
        """Reads or draws the images."""
        is_real = self.source == "cifar100"
        (images, labels), test = read_cifar100(self.root) if is_real else make_synthetic(self.synthetic_per_class)
        seed = seed_of_run() if self.split_by_seed else SPLIT_SEED
        train, val, _ = split_indices(labels, VAL_SHARE, test_share=0.0, seed=seed)
        augment, evaluate = self._transforms()
        return {
            "train": TransformedImages(images[train], labels[train], augment),
            "val": TransformedImages(images[val], labels[val], evaluate),
            "test": TransformedImages(*test, evaluate),
        }

    def _transforms(self) -> tuple[Any, Any]:
        """Those of training and of evaluation."""
        network = self._trainer().lightning_module
        if not isinstance(network, FineTuning):
            raise TypeError(f"Invalid model {type(network).__name__}. Must be FineTuning, which knows its transforms.")
        # timm's "prefetcher" form of a transform leaves out the last two steps, to float and standardized.
        evaluate = create_transform(**network.data_config, use_prefetcher=True)
        if self.augment == "crop":
            return crop_and_flip(evaluate), evaluate
        train = create_transform(**network.data_config, use_prefetcher=True, is_training=True, **self.train_transform)
        return train, evaluate

    def loader(self, name: str, batch_size: int, shuffle: bool = False) -> DataLoader[Any]:
        """Batches of one set, which worker processes transform."""
        workers = self._workers()
        on_gpu = self._trainer().strategy.root_device.type == "cuda"
        return DataLoader(
            self.sets[name],
            batch_size=batch_size,
            shuffle=shuffle,
            num_workers=workers,
            pin_memory=on_gpu if self.pin_memory is None else self.pin_memory,
            persistent_workers=workers > 0,  # starting them again costs seconds at each epoch
            prefetch_factor=4 if workers else None,  # evens out a batch that takes longer than others
        )

    def _workers(self) -> int:
        if self.num_workers is not None:
            return self.num_workers
        return max(1, available_cores() // self._trainer().num_devices)

    def _trainer(self) -> Trainer:
        if self.trainer is None:
            raise RuntimeError("CIFAR100Data has no trainer. Give it to one: trainer.fit(model, datamodule=data).")
        return self.trainer
