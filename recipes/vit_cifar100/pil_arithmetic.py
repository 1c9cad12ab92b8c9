"""What PIL computes when it resizes images and changes their colours, in float32 on batches of them.

Functions leave bytes and a fraction. PIL cuts it off when it stores them: so does the next function, and whoever
converts the result. Equal to PIL but for a value that lies so near a whole number that float32 cannot tell its side.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms import InterpolationMode

BRIGHTNESS, CONTRAST, SATURATION = range(3)  # torchvision's numbers for them

_WHITE = 255.0
_GRAY = (19595 / 2**16, 38470 / 2**16, 7471 / 2**16)  # red, green and blue in gray; exact in float32, as are the sums
_WEIGHT_BITS = 22  # filter weights are integers over 2**22
_EXACT = 2.0**-14  # more than float32 rounds off a byte, less than shows in one


def resize(images: Tensor, rows: Tensor, columns: Tensor, out: Tensor) -> None:
    """Resizes along the rows, to bytes, and then along the columns.

    Args:
        images: Bytes of shape `[n, 3, height, width]`.
        rows: Weights of shape `[n, new height, height]`.
        columns: Weights of shape `[n, new width, width]`.
        out: Where the result goes, float32 of shape `[n, 3, new height, new width]`.
    """
    count, colors, height, width = images.shape
    wide = torch.bmm(images.float().view(count, colors * height, width), columns.mT)
    # The weights of a pixel have the sum 1: the half that rounds it can be added before, where there is less to add to.
    wide = wide.add_(0.5).clamp_(0.0, _WHITE).floor_().add_(0.5).view(count, colors, height, -1)
    torch.matmul(rows[:, None], wide, out=out).clamp_(0.0, _WHITE)


def jitter_(images: Tensor, step: int, factor: Tensor, gray: Tensor) -> None:
    """Changes brightness, contrast or saturation in place: blends with black, with the mean gray or with the gray.

    Args:
        images: Float32, shape `[n, 3, height, width]`.
        step: Which of the three.
        factor: Share of each image, `[n, 1, 1, 1]`; above 1 it moves away from the other.
        gray: Memory for a result in between, float32 of shape `[n, 1, height, width]`.
    """
    images.floor_()
    if step == BRIGHTNESS:
        images.mul_(factor)
    else:
        weights = torch.tensor([_GRAY], device=images.device)
        torch.matmul(weights, images.flatten(2), out=gray.flatten(2)).add_(0.5).floor_()
        if step == CONTRAST:
            mean = gray.flatten(2).mean(2).add_(0.5).floor_()[..., None, None]
            images.mul_(factor).add_(mean.mul_(1.0 - factor).add_(_EXACT))
        else:
            torch.addcmul(gray.mul_(1.0 - factor).add_(_EXACT), images, factor, out=images)
    images.clamp_(0.0, _WHITE)


def resize_weights(length: int, new_length: int, interpolation: InterpolationMode) -> Tensor:
    """Weights of the old pixels in each new one, `[new_length, length]`, float32, as Pillow's `Resample.c` has them."""
    kernel, support = FILTERS[interpolation]
    scale = length / new_length
    stretch = max(scale, 1.0)  # the filter grows with the pixels that become one
    centers = (np.arange(new_length) + 0.5)[:, None] * scale
    pixels = np.arange(length)
    first = np.floor(centers - support * stretch + 0.5)
    last = np.floor(centers + support * stretch + 0.5)
    weights = kernel(np.abs(pixels - centers + 0.5) / stretch) * ((first <= pixels) & (pixels < last))
    weights /= weights.sum(axis=1, keepdims=True)
    whole = np.trunc(weights * 2**_WEIGHT_BITS + np.copysign(0.5, weights))
    return torch.from_numpy(whole / 2**_WEIGHT_BITS).float()


def _linear(distance: NDArray[np.float64]) -> Any:
    return np.maximum(1 - distance, 0)


def _cubic(distance: NDArray[np.float64], a: float = -0.5) -> Any:
    near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
    far = (((distance - 5) * distance + 8) * distance - 4) * a
    return np.where(distance < 1, near, np.where(distance < 2, far, 0))


FILTERS = {InterpolationMode.BILINEAR: (_linear, 1.0), InterpolationMode.BICUBIC: (_cubic, 2.0)}
