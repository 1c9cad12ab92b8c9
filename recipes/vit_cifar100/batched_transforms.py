"""timm's transforms in two parts: what is random, image by image as timm draws it, and the arithmetic, batch by batch.

The first part is cheap and gives bytes of the size of the originals. The second is a few operations on tensors, on
whatever device they are, and several times faster than PIL on a CPU too.
"""

from collections import defaultdict
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from timm.data.transforms import MaybePILToTensor, RandomResizedCropAndInterpolation
from torch import Tensor
from torchvision.transforms import CenterCrop, ColorJitter, Compose, InterpolationMode, RandomHorizontalFlip, Resize

from recipes.vit_cifar100.pil_arithmetic import FILTERS, jitter_, resize, resize_weights

Size = tuple[int, int]  # height, width

_CACHED = 2**18  # values that stay in the second-level cache of a CPU core while they are worked on


class Group(NamedTuple):
    """Images of a batch whose colours change in the same order.

    Attributes:
        steps: 0 brightness, 1 contrast, 2 saturation, in the order they change; empty without colour jitter.
        places: Where in the batch each of the images belongs.
    """

    steps: list[int]
    places: list[int]


class Drawn(NamedTuple):
    """A batch whose random numbers are drawn and whose pixels are not computed yet, group after group.

    Attributes:
        crops: Bytes of shape `[n, 3, old height, old width]`, each crop in the upper left corner, flipped already.
        sizes: Height and width of each crop.
        factors: By how much each step of an image's group changes it.
        groups: Together all the images.
    """

    crops: Tensor
    # No tensors, which would each take the training process a millisecond to get from a worker's shared memory.
    sizes: list[Size]
    factors: list[list[float]]
    groups: list[Group]


class BatchedTransform:
    """timm's transform of a batch: `compute(draw(images))`.

    The random numbers come from the steps' own methods in their own order, image after image. With the same seeds a
    batch is the one that timm's transform makes, but for a few bytes that PIL's integers round differently.

    Args:
        rows: Weights of the old rows in each new one, for crops of 0, 1, ... rows: `[rows + 1, new rows, rows]`.
        columns: The same for columns.
        crop: timm's random crop, None for evaluation.
        flip: torchvision's random flip.
        jitter: torchvision's colour jitter.
    """

    def __init__(self, rows: Tensor, columns: Tensor, crop: Any = None, flip: Any = None, jitter: Any = None) -> None:
        self.crop, self.flip, self.jitter = crop, flip, jitter
        self._tables = {rows.device: (rows, columns)}

    def draw(self, images: NDArray[np.uint8]) -> Drawn:
        """Draws for RGB bytes of shape `[n, height, width, 3]`."""
        planes = images.transpose(0, 3, 1, 2)
        count, _, height, width = planes.shape
        if self.crop is None:
            everything = [Group([], list(range(count)))]
            return Drawn(torch.from_numpy(planes.copy()), [(height, width)] * count, [[]] * count, everything)
        like = Image.fromarray(images[0])  # crops are drawn for the size of an image
        crops = np.zeros_like(planes, order="C")
        sizes, factors = [], []
        places = defaultdict(list)
        for place, (old, new) in enumerate(zip(planes, crops, strict=True)):
            top, left, height, width = self.crop.get_params(like, self.crop.scale, self.crop.ratio)
            cut = old[:, top : top + height, left : left + width]
            flipped = self.flip is not None and torch.rand(1) < self.flip.p
            new[:, :height, :width] = cut[..., ::-1] if flipped else cut
            steps, changes = self._draw_jitter()
            sizes.append((height, width))
            factors.append(changes)
            places[steps].append(place)
        groups = [Group(list(steps), members) for steps, members in places.items()]
        order = [place for group in groups for place in group.places]
        ordered = [sizes[place] for place in order], [factors[place] for place in order]
        return Drawn(torch.from_numpy(crops)[order], *ordered, groups)

    def compute(self, drawn: Drawn) -> Tensor:
        """Bytes of shape `[n, 3, height, width]`, on the device of `drawn`."""
        device = drawn.crops.device
        rows, columns = self._tables_on(device)
        all_sizes, all_factors = (torch.tensor(values, device=device) for values in (drawn.sizes, drawn.factors))
        count, size = len(drawn.crops), (rows.shape[1], columns.shape[1])
        at_once = max(1, _CACHED // (3 * size[0] * size[1])) if device.type == "cpu" else count
        out = torch.empty((count, 3, *size), dtype=torch.uint8, device=device)
        with torch.inference_mode():  # operations cost a tenth less
            # Memory that is used again: new pages would take a CPU longer than the arithmetic.
            pixels = torch.empty((min(at_once, count), 3, *size), device=device)
            gray = torch.empty((len(pixels), 1, *size), device=device)
            whole = torch.empty_like(pixels, dtype=torch.int16)
            begin = 0
            for group in drawn.groups:
                for first in range(0, len(group.places), at_once):
                    places = group.places[first : first + at_once]
                    n = len(places)
                    parts = (values[begin : begin + n] for values in (drawn.crops, all_sizes, all_factors))
                    crops, sizes, factors = parts
                    resize(crops, rows[sizes[:, 0]], columns[sizes[:, 1]], pixels[:n])
                    for step, factor in zip(group.steps, factors.T, strict=True):
                        jitter_(pixels[:n], step, factor[:, None, None, None], gray[:n])
                    whole[:n] = pixels[:n]  # on the way to bytes: three times faster than at once
                    for place, image in zip(places, whole, strict=False):
                        out[place] = image
                    begin += n
        return out

    def _draw_jitter(self) -> tuple[tuple[int, ...], list[float]]:
        if self.jitter is None:
            return (), []
        jitter = self.jitter
        order, *factors = jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)
        steps = tuple(step for step in order.tolist() if factors[step] is not None)
        return steps, [factors[step] for step in steps]

    def _tables_on(self, device: torch.device) -> tuple[Tensor, Tensor]:
        if device not in self._tables:
            rows, columns = next(iter(self._tables.values()))
            self._tables[device] = rows.to(device), columns.to(device)
        return self._tables[device]


def batch_transform(transform: Any, size: Size) -> BatchedTransform | None:
    """The same transform for whole batches; None if it has a step or an option that is not known here.

    Known are the random resized crop, the horizontal flip and the colour jitter without hue of timm's training
    transform, and resize and centre crop of its evaluation; both bilinear and bicubic.

    Args:
        transform: What `timm.data.create_transform(..., use_prefetcher=True)` made.
        size: Height and width of the images.
    """
    steps = list(transform.transforms) if type(transform) is Compose else []
    kinds = [type(step) for step in steps]
    if not kinds or kinds.pop() is not MaybePILToTensor or getattr(steps[0], "interpolation", None) not in FILTERS:
        return None
    if kinds == [Resize, CenterCrop]:
        return _evaluation(steps[0], steps[1], size)
    optional = [kind for kind in (RandomHorizontalFlip, ColorJitter) if kind in kinds]
    if kinds != [RandomResizedCropAndInterpolation, *optional]:
        return None
    found = dict(zip(kinds, steps, strict=False))
    crop, jitter = steps[0], found.get(ColorJitter)
    if jitter is not None and jitter.hue is not None:
        return None
    rows, columns = (_table(old, new, crop.interpolation) for old, new in zip(size, crop.size, strict=True))
    return BatchedTransform(rows, columns, crop, found.get(RandomHorizontalFlip), jitter)


def _evaluation(resize: Any, center: Any, size: Size) -> BatchedTransform | None:
    if isinstance(resize.size, int):  # the length of the shorter side
        large = tuple(int(resize.size * side / min(size)) for side in size)
    else:
        large = tuple(resize.size)
    fits = len(large) == 2 and all(a >= b for a, b in zip(large, center.size, strict=True))  # else CenterCrop pads
    if not fits or resize.max_size is not None:
        return None
    tables = []
    for old, resized, new in zip(size, large, center.size, strict=True):
        first = round((resized - new) / 2)
        table = torch.zeros(old + 1, new, old)
        table[old] = resize_weights(old, resized, resize.interpolation)[first : first + new]
        tables.append(table)
    return BatchedTransform(*tables)


def _table(old: int, new: int, interpolation: InterpolationMode) -> Tensor:
    table = torch.zeros(old + 1, new, old)
    for length in range(1, old + 1):
        table[length, :, :length] = resize_weights(length, new, interpolation)
    return table
