"""b0 in the configuration of a project: whose it is, and how a sweep sets it."""

import json
import re
from collections.abc import Mapping
from typing import Any

from adaloss_lightning.tracking.grid import Point

_CALLBACK = "AdaLossCallback"


def configured_callbacks(settings: Mapping[str, Any]) -> list[Any]:
    """Callbacks of a configuration that LightningCLI has read; a single one needs no list."""
    callbacks = (settings.get("trainer") or {}).get("callbacks") or []
    return callbacks if isinstance(callbacks, list) else [callbacks]


def is_adapting(callback: object) -> bool:
    """Whether a callback of a configuration is the one that makes optimizers loss-adaptive, and has b0."""
    return isinstance(callback, dict) and str(callback.get("class_path")).rpartition(".")[2] == _CALLBACK


def with_b0(callbacks: list[Any], b0: str) -> str:
    """Callbacks as JSON, with b0 for the one that adapts."""
    given = [
        {**one, "init_args": {**(one.get("init_args") or {}), "b0": float(b0)}} if is_adapting(one) else one
        for one in callbacks
    ]
    return json.dumps(given, default=str)  # paths, durations: LightningCLI reads what they are written as


def lacks_b0(refusal: str) -> bool:
    """Whether LightningCLI refuses a command line because the optimizer has no b0."""
    return "'b0' is not accepted" in refusal or bool(re.search(r"unrecognized arguments:.* --optimizer\.b0=", refusal))


def nobodys_b0(point: Point, refusal: str) -> str:
    """What to say where neither the optimizer nor a callback has b0."""
    # Where the YAML names no optimizer, jsonargparse looks for a b0 in their base class.
    named = re.search(r"class_path '(?!torch\.optim\.Optimizer')([^']+)'", refusal)
    given = f"that of {point.method} " + (f"is {named[1]}" if named else "has none")
    return (
        f"A sweep over b0 needs an optimizer that has b0, and {given}. Name one such as adaloss_lightning.AdaLoss "
        f"(alpha: 0 keeps b at b0, which is plain SGD at lr / b0), or add adaloss_lightning.{_CALLBACK}."
    )
