"""b0 in the configuration of a project: where a sweep sets it, and whether it is there."""

import json
import re
from pathlib import Path
from typing import Any

import yaml

from adaloss_lightning.tracking.grid import Point

_CALLBACK = "AdaLossCallback"


def callbacks_with_b0(config: Path, b0: str) -> str | None:
    """Callbacks of a method as JSON, with b0 for the one that adapts; None where b0 is the optimizer's."""
    try:
        settings = yaml.safe_load(config.read_text())
    except (OSError, ValueError, yaml.YAMLError):  # LightningCLI says what is wrong with it
        return None
    settings = settings if isinstance(settings, dict) else {}
    optimizer, trainer = settings.get("optimizer"), settings.get("trainer")
    class_path = str(optimizer.get("class_path", "")) if isinstance(optimizer, dict) else ""
    callbacks = trainer.get("callbacks") if isinstance(trainer, dict) else None
    if not class_path.startswith("torch.") or not isinstance(callbacks, list):
        return None
    ours = [one for one in callbacks if _is_ours(one)]
    for callback in ours:
        callback["init_args"] = {**(callback.get("init_args") or {}), "b0": float(b0)}
    return json.dumps(callbacks) if ours else None


def has_callbacks_b0(settings: dict[str, Any], b0: str) -> bool:
    """Whether a configuration trains with b0 where it is the callback's: what adapts has it, and the optimizer none."""
    ours = [one for one in _callbacks(settings) if _is_ours(one)]
    own = (settings.get("optimizer") or {}).get("init_args") or {}
    return "b0" not in own and bool(ours) and all((one.get("init_args") or {}).get("b0") == float(b0) for one in ours)


def replaced_b0(point: Point, settings: dict[str, Any]) -> str:
    """What to say where the arguments of a point have replaced what b0 was given to."""
    names = ", ".join(map(_name, _callbacks(settings))) or "none"
    return (
        f"b0 of {point.method} is that of its {_CALLBACK}, which the arguments replace: they make the optimizer "
        f"{_name(settings.get('optimizer'))} and trainer.callbacks {names}. Add callbacks with "
        "--trainer.callbacks+=NAME, or write them and the optimizer into the YAML file of a method."
    )


def without_b0(point: Point, refusal: str) -> str | None:
    """What to say where LightningCLI refuses b0 as the optimizer has none; None where the reason is another."""
    if "'b0' is not accepted" not in refusal and not re.search(r"unrecognized arguments:.* --optimizer\.b0=", refusal):
        return None
    # Where the YAML names no optimizer, jsonargparse looks for a b0 in their base class.
    named = re.search(r"class_path '(?!torch\.optim\.Optimizer')([^']+)'", refusal)
    given = f"that of {point.method} " + (f"is {named[1]}" if named else "has none")
    return (
        f"A sweep over b0 needs an optimizer that has b0, and {given}. Name one such as adaloss_lightning.AdaLoss "
        "(alpha: 0 keeps b at b0, which is plain SGD at lr / b0)."
    )


def _callbacks(settings: dict[str, Any]) -> list[Any]:
    callbacks = (settings.get("trainer") or {}).get("callbacks") or []
    return callbacks if isinstance(callbacks, list) else [callbacks]


def _is_ours(callback: object) -> bool:
    return isinstance(callback, dict) and str(callback.get("class_path")).endswith(_CALLBACK)


def _name(part: object) -> str:
    return str(part.get("class_path")) if isinstance(part, dict) else type(part).__name__
