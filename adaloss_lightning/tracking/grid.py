"""The points of a sweep: every method at every b0 with every seed and every combination of further options."""

import itertools
import math
import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from adaloss_lightning.tracking.errors import SweepError

LIST_PREFIX = "sweep."  # of the sweep's params that list the values of its grid
OPTION_PREFIX = "grid."  # of the params that name a point in a grid over more than method, b0 and seed
Options = tuple[tuple[str, str], ...]

LOG_B0 = "log10_b0"  # param of every point, as MLflow's charts have no log axis for params

_OPTION = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
_QUOTES = "\"'"
OWN = {"optimizer.b0": "--b0", "optimizer.init_args.b0": "--b0", "seed_everything": "--seeds", "config": "--methods"}


@dataclass(frozen=True)
class Point:
    """One run of a sweep. Values keep the text the user wrote, so that 0.10 stays findable under what was typed."""

    method: str
    b0: str
    seed: str
    options: Options = ()

    def __str__(self) -> str:
        values = {"b0": self.b0, "seed": self.seed} | dict(self.options)
        return " ".join([self.method, *(f"{name}={value}" for name, value in values.items())])

    def params(self) -> dict[str, str]:
        """MLflow params of the point's run; no two points of a grid have the same."""
        options = {f"{OPTION_PREFIX}{option}": value for option, value in self.options}
        return {"method": self.method, "b0": str(float(self.b0)), "seed": self.seed} | options

    @property
    def log_b0(self) -> str:
        """The param `LOG_B0`."""
        return f"{math.log10(float(self.b0)):.6g}"


@dataclass(frozen=True)
class Grid:
    """Methods, values of b0, seeds, and values of further options, each in the order the user gave."""

    methods: tuple[str, ...]
    b0s: tuple[str, ...]
    seeds: tuple[str, ...]
    options: tuple[tuple[str, tuple[str, ...]], ...] = ()

    @classmethod
    def parse(cls, methods: str, b0s: str, seeds: str, options: Sequence[str] = ()) -> "Grid":
        """Reads comma-separated lists.

        Args:
            methods: Names.
            b0s: Positive numbers.
            seeds: Whole numbers from 0 to 4294967295.
            options: `name=value,value` each. A comma within brackets or quotes belongs to its value; quotes around a
                whole value are dropped.

        Raises:
            SweepError: An empty list, a value given twice (0.1 and 1e-1 are one value), a b0 or a seed out of its
                bounds, an option that has no name, is there twice, or is swept by an argument of its own.
        """
        grid = cls(
            _items("--methods", methods),
            _items("--b0", b0s),
            _items("--seeds", seeds),
            tuple(_option(text) for text in options),
        )
        _reject_twice("--methods", grid.methods, grid.methods)
        _reject_twice("--b0", grid.b0s, [_positive(text) for text in grid.b0s])
        _reject_twice("--seeds", grid.seeds, [_seed(text) for text in grid.seeds])
        names = [option for option, _ in grid.options]
        _reject_twice("--grid", names, names)
        grid.params()  # can be written down
        return grid

    def combinations(self) -> list[Options]:
        """All choices of values of the further options."""
        names = [option for option, _ in self.options]
        return [tuple(zip(names, one, strict=True)) for one in itertools.product(*(v for _, v in self.options))]

    def points(self) -> list[Point]:
        """All points: seed by seed, so that an interrupted sweep has whole curves first."""
        combinations = self.combinations()
        return [
            Point(method, b0, seed, combination)
            for seed in self.seeds
            for method in self.methods
            for combination in combinations
            for b0 in self.b0s
        ]

    def params(self) -> dict[str, str]:
        """MLflow params that say what was swept."""
        lists = {"methods": self.methods, "b0": self.b0s, "seeds": self.seeds}
        lists |= {f"{OPTION_PREFIX}{option}": values for option, values in self.options}
        return {f"{LIST_PREFIX}{name}": ",".join(map(_quoted, values)) for name, values in lists.items()}


def _option(text: str) -> tuple[str, tuple[str, ...]]:
    name, equals, values = text.partition("=")
    name = name.strip().removeprefix("--")
    if not equals or not _OPTION.fullmatch(name):
        raise SweepError(f"Invalid --grid {text}. Must be option=value,value, as in --grid optimizer.lr=0.1,0.01.")
    if name in OWN:
        raise SweepError(f"Invalid --grid {text}. Give {OWN[name]} instead.")
    if name.startswith("trainer.logger"):
        raise SweepError(f"Invalid --grid {text}. All runs of a sweep write to one store, through one logger.")
    items = _items(f"--grid {name}", values)
    _reject_twice(f"--grid {name}", items, [_number(item) for item in items])
    return name, items


def _items(option: str, text: str) -> tuple[str, ...]:
    items, depth, quote = [""], 0, ""
    for character in text:
        if quote:
            quote = "" if character == quote else quote
        elif character in _QUOTES and items[-1].rstrip()[-1:] in ("", *"[{(,:"):  # as in YAML: it's a letter in a word
            quote = character
        else:
            depth += (character in "[{(") - (character in ")}]")
        if character == "," and depth == 0 and not quote:
            items.append("")
        else:
            items[-1] += character
    stripped = [item.strip() for item in items]
    if quote:
        raise SweepError(f"Invalid {option}={text!r}. Must have a second {quote} where the quoted value ends.")
    if not all(stripped):
        raise SweepError(f"Invalid {option}={text!r}. Must be a comma-separated list without empty places.")
    return tuple(_unquoted(item) for item in stripped)


def _unquoted(item: str) -> str:
    quote = item[0]
    return item[1:-1] if quote in _QUOTES and item.find(quote, 1) == len(item) - 1 else item


def _quoted(value: str) -> str:
    """A value as `--grid` takes it, among others.

    Raises:
        SweepError: Quotes are needed, and the value has both kinds.
    """
    for text in (value, *(f"{quote}{value}{quote}" for quote in _QUOTES)):
        with suppress(SweepError):
            if _items("", f"{text},_") == (value, "_"):
                return text
    raise SweepError(f"Invalid value {value} in a list. Must not have both \" and ' where it has to be in quotes.")


def _number(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def _positive(text: str) -> float:
    value = _number(text)
    if isinstance(value, str) or not (math.isfinite(value) and value > 0):
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
