"""How wide a range of b0 a method tolerates, and how straight a curve is."""

import torch
from torch import Tensor

NEAR_BEST = 10.0


def near_best_decades(b0: Tensor, loss: Tensor) -> float:
    """Length, in decades of b0, of the longest stretch whose loss is within a factor of 10 of the best.

    Args:
        b0: Ascending, `[b0]`.
        loss: `[b0]`; inf where the method diverges.
    """
    near = (loss <= NEAR_BEST * loss.min()) & loss.isfinite()
    longest = torch.zeros((), dtype=b0.dtype)
    first = None
    for place, is_near in enumerate(near.tolist()):
        if not is_near:
            first = None
            continue
        first = place if first is None else first
        longest = torch.maximum(longest, torch.log10(b0[place] / b0[first]))
    return longest.item()


def straightness(x: Tensor, y: Tensor) -> float:
    """R^2 of the least-squares line of y on x; NaN if a value is not finite."""
    centred_x, centred_y = x - x.mean(), y - y.mean()
    r = (centred_x * centred_y).sum() / (centred_x.norm() * centred_y.norm())
    return float(r.square())
