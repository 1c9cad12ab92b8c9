"""Generators of random numbers: the global ones, and those that objects hold."""

import random
import sys
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

Restore = Callable[[], Any]
_MOST = 10_000  # objects that are looked at: a dataset may hold a million


def kept_generators(owners: Iterable[Any]) -> Restore:
    """What puts back the global generators of torch, Python, and NumPy where it is imported, and those in objects."""
    restores: list[Restore] = [
        partial(torch.set_rng_state, torch.get_rng_state()),
        partial(random.setstate, random.getstate()),
    ]
    if torch.cuda.is_available():
        restores.append(partial(torch.cuda.set_rng_state_all, torch.cuda.get_rng_state_all()))
    if torch.backends.mps.is_available():
        restores.append(partial(torch.mps.set_rng_state, torch.mps.get_rng_state()))
    if "numpy" in sys.modules:
        numpy: Any = sys.modules["numpy"]
        restores.append(partial(numpy.random.set_state, numpy.random.get_state()))
    restores += generators_in(owners)

    def restore() -> None:
        for one in restores:
            one()

    return restore


def kept_generator(value: Any) -> Restore | None:
    """What puts back a generator of torch, NumPy or Python; None for anything else."""
    if isinstance(value, torch.Generator):
        return partial(value.set_state, value.get_state())
    if isinstance(value, random.Random) and not isinstance(value, random.SystemRandom):
        return partial(value.setstate, value.getstate())
    numpy: Any = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.random.Generator):
        return partial(setattr, value.bit_generator, "state", value.bit_generator.state)
    if numpy is not None and isinstance(value, numpy.random.RandomState):
        return partial(value.set_state, value.get_state())
    return None


def generators_in(owners: Iterable[Any]) -> Iterator[Restore]:
    """What puts back each generator in the attributes and containers of objects, the nearest first.

    In a loader that is its own, those of its samplers, and those of its dataset and of that one's transforms.
    """
    seen: set[int] = set()
    waiting = deque(owners)
    while waiting and len(seen) < _MOST:
        value = waiting.popleft()
        if id(value) in seen or isinstance(value, (str, bytes, int, float, Tensor, nn.Module, type)):
            continue
        seen.add(id(value))
        restore = kept_generator(value)
        if restore is not None:
            yield restore
        elif isinstance(value, dict):
            waiting.extend(value.values())
        elif isinstance(value, (list, tuple, set)):
            waiting.extend(value)
        else:
            waiting.extend(getattr(value, "__dict__", {}).values())
