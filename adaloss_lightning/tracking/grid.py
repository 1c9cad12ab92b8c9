"""The points of a sweep: every method at every b0 with every seed."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from adaloss_lightning.tracking.errors import SweepError


@dataclass(frozen=True)
class Point:
    """One run of a sweep. `b0` keeps the text the user wrote, so that 0.10 stays findable under what was typed."""

    method: str
    b0: str
    seed: str

    def __str__(self) -> str:
        return f"{self.method} b0={self.b0} seed={self.seed}"


@dataclass(frozen=True)
class Grid:
    """Methods, values of b0 and seeds, each in the order the user gave."""

    methods: tuple[str, ...]
    b0s: tuple[str, ...]
    seeds: tuple[str, ...]

    @classmethod
    def parse(cls, methods: str, b0s: str, seeds: str) -> "Grid":
        """Reads comma-separated lists.

        Raises:
            SweepError: An empty list, a value given twice (0.1 and 1e-1 are one value), a b0 that is no positive finite
                number, or a seed that is no whole number from 0 to 4294967295.
        """
        grid = cls(_items("--methods", methods), _items("--b0", b0s), _items("--seeds", seeds))
        _reject_twice("--methods", grid.methods, grid.methods)
        _reject_twice("--b0", grid.b0s, [_positive(text) for text in grid.b0s])
        _reject_twice("--seeds", grid.seeds, [_seed(text) for text in grid.seeds])
        return grid

    def points(self) -> list[Point]:
        """All points: seed by seed, so that an interrupted sweep has whole curves first."""
        return [Point(method, b0, seed) for seed in self.seeds for method in self.methods for b0 in self.b0s]


def _items(option: str, text: str) -> tuple[str, ...]:
    items = tuple(item.strip() for item in text.split(","))
    if not all(items):
        raise SweepError(f"Invalid {option}={text!r}. Must be a comma-separated list without empty places.")
    return items


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise SweepError(f"Invalid --b0={text}. Must be numbers > 0, for example --b0 0.1,1,10.")
    return value


def _seed(text: str) -> int:
    # seed_everything takes what numpy takes.
    if not (text.isascii() and text.isdigit() and int(text) < 2**32):
        raise SweepError(f"Invalid --seeds={text}. Must be whole numbers from 0 to 4294967295, as in --seeds 1,2.")
    return int(text)


def _reject_twice(option: str, texts: Sequence[str], values: Sequence[object]) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            first = texts[values.index(value)]
            raise SweepError(f"Invalid {option}: {texts[place]} is there twice ({first} and {texts[place]}).")
