"""Numbers of a report, as JSON: texts and figures are made from it, now or later (`--numbers FILE`)."""

import dataclasses
import importlib
import json
import sys
from typing import Any

import torch
from torch import Tensor

FILE = "numbers.json"
DIGITS = 9


def dumps(value: object) -> str:
    """JSON of dataclasses of the recipes, dicts, lists, numbers, texts and tensors; numbers keep nine digits."""
    return json.dumps(_plain(value), separators=(",", ":")) + "\n"


def loads(text: str) -> Any:
    """The value that :func:`dumps` wrote; tuples come back as tuples, tensors as float64.

    Raises:
        ValueError: A class that is not one of the recipes.
    """
    return _value(json.loads(text))


def _plain(value: object) -> Any:
    if isinstance(value, Tensor):
        return {"tensor": _plain(value.tolist())}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {"class": f"{_module_of(type(value))}:{type(value).__name__}"} | fields
    if isinstance(value, dict):
        return {"dict": [[_plain(key), _plain(each)] for key, each in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(each) for each in value]}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")  # Python reads and writes NaN and Infinity, which JSON has no word for
    return value


def _module_of(kind: type) -> str:
    """Its module; of one that was started with `python -m`, the name by which it can be imported."""
    spec = sys.modules[kind.__module__].__spec__
    return kind.__module__ if spec is None else spec.name


def _value(plain: Any) -> Any:
    if isinstance(plain, list):
        return [_value(each) for each in plain]
    if not isinstance(plain, dict):
        return plain
    if "tensor" in plain:
        return torch.tensor(plain["tensor"], dtype=torch.float64)
    if "dict" in plain:
        return {_value(key): _value(each) for key, each in plain["dict"]}
    if "tuple" in plain:
        return tuple(_value(each) for each in plain["tuple"])
    module, _, name = plain["class"].partition(":")
    if not module.startswith("recipes."):
        raise ValueError(f"Invalid class {plain['class']!r}. Must be one of the recipes: is this a report's file?")
    return getattr(importlib.import_module(module), name)(**{k: _value(v) for k, v in plain.items() if k != "class"})
