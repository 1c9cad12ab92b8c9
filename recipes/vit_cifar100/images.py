"""Where the pixels come from: CIFAR-100, or synthetic images for a run that needs neither network nor data."""

import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from torchvision import datasets

from recipes.vit_cifar100.download import download

NUM_CLASSES = 100
SIDE = 32  # pixels
_VAL_SHARE = 0.1  # 50 of the 500 training images of each class: the paper's 45k and 5k
_SPLIT_SEED = 0  # a constant, never the seed of a run: every run of every method sees the same sets
_SYNTHETIC_SEED = 0

Example = tuple[Tensor, int]


class CIFAR100(datasets.CIFAR100):  # type: ignore[misc]  # torchvision has no types
    """torchvision's CIFAR-100 (Krizhevsky), whose archive is fetched by a download that can be resumed.

    A root that holds the extracted files or the archive is used as it is, so a read-only one will do.
    """

    def download(self) -> None:
        """Fetches and extracts what is not there yet; of several processes one does it, the others wait."""
        if self._check_integrity():
            return
        root = Path(self.root)
        root.mkdir(parents=True, exist_ok=True)
        archive = root / self.filename
        with FileLock(f"{archive}.lock"):
            if not self._check_integrity():
                download(self.url, archive, self.tgz_md5)
                with tarfile.open(archive) as tar:
                    tar.extractall(root, filter="data")


@dataclass(frozen=True)
class Pixels:
    """Images `[n, 32, 32, 3]` as bytes, and the class of each, `[n]`."""

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]


def fetch_cifar100(root: Path) -> None:
    """Downloads what is missing in `root`.

    Raises:
        DownloadError: It cannot be fetched.
    """
    CIFAR100(root, train=False, download=True)


def read_cifar100(root: Path) -> tuple[Pixels, Pixels]:
    """The 50,000 training and 10,000 test images, whose md5 sums torchvision checks.

    Raises:
        DownloadError: They are not in `root` and cannot be fetched.
    """
    train, test = (CIFAR100(root, train=train, download=True) for train in (True, False))
    return _pixels(train), _pixels(test)


def make_synthetic(per_class: int) -> tuple[Pixels, Pixels]:
    """Made-up images, no CIFAR: each class has a 4x4 pattern of its own, blown up to 32x32 under heavy noise.

    Args:
        per_class: Training images of each of the 100 classes; the test set has a fifth of that, at least one.
    """
    random = np.random.RandomState(_SYNTHETIC_SEED)
    patterns = random.uniform(64, 192, (NUM_CLASSES, 4, 4, 3)).repeat(SIDE // 4, axis=1).repeat(SIDE // 4, axis=2)

    def draw(count: int) -> Pixels:
        labels = np.arange(NUM_CLASSES).repeat(count)
        noisy = patterns[labels] + random.normal(0, 32, (len(labels), SIDE, SIDE, 3))
        return Pixels(noisy.clip(0, 255).astype(np.uint8), labels)

    return draw(per_class), draw(max(1, per_class // 5))


def split_indices(labels: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sorted indices of the training and the validation images: nine tenths and one tenth of every class.

    `RandomState` and not `default_rng`: numpy promises its stream never changes, so the split is the same for everyone.
    """
    random = np.random.RandomState(_SPLIT_SEED)
    train, val = [], []
    for label in np.unique(labels):
        members = random.permutation(np.flatnonzero(labels == label))
        n_val = round(_VAL_SHARE * len(members))
        val.append(members[:n_val])
        train.append(members[n_val:])
    return np.sort(np.concatenate(train)), np.sort(np.concatenate(val))


class TransformedImages(Dataset[Example]):
    """The images at `indices`, each through `transform`, which takes and gives what timm's transforms do."""

    def __init__(self, pixels: Pixels, indices: NDArray[np.int64], transform: Callable[[Image.Image], Tensor]) -> None:
        self.pixels = pixels
        self.indices = indices
        self.transform = transform

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Example:
        chosen = self.indices[index]
        return self.transform(Image.fromarray(self.pixels.images[chosen])), int(self.pixels.labels[chosen])


def _pixels(loaded: datasets.CIFAR100) -> Pixels:
    return Pixels(loaded.data, np.asarray(loaded.targets))
