"""The params of a run, from its configuration."""

from collections.abc import Mapping
from typing import Any

from adaloss_lightning.tracking.sweeps.b0 import configured_callbacks, is_adapting

_SECTIONS = ("model", "data", "lr_scheduler")
_TRAINER = (
    "max_epochs", "max_steps", "precision", "accumulate_grad_batches", "gradient_clip_val", "devices",
    "limit_train_batches", "limit_val_batches", "limit_test_batches",
)  # fmt: skip


def run_params(recipe: str, config: Mapping[str, Any]) -> dict[str, Any]:
    """Params by which runs are told apart: `recipe`, `method`, `b0`, `lr`, `seed`, then the other settings by path.

    Args:
        recipe: Name of the recipe.
        config: Parsed configuration of the subcommand, nested.

    Returns:
        Flat names (`model.net`, `optimizer.alpha`) and values. Settings left at None are left out. The method is
        called what the configuration says, and after the optimizer's class where it says nothing. `b0` is the
        optimizer's, and for an optimizer that a callback makes loss-adaptive the callback's.
    """
    optimizer = config.get("optimizer") or {}
    arguments = dict(optimizer.get("init_args") or {})
    name = str(optimizer.get("class_path", "")).rpartition(".")[2]
    params = {
        "recipe": recipe,
        "method": config.get("method") or name.lower() or "none",
        "b0": arguments.pop("b0", None) or _callback_b0(config),
        "lr": arguments.pop("lr", None),
        "seed": config.get("seed_everything"),
        "optimizer": name,
    }
    params |= _flat("optimizer", arguments)
    for section in _SECTIONS:
        params |= _flat(section, config.get(section))
    trainer = config.get("trainer") or {}
    params |= {f"trainer.{key}": trainer.get(key) for key in _TRAINER}
    return {key: value for key, value in params.items() if value is not None and value != ""}


def _callback_b0(config: Mapping[str, Any]) -> float | None:
    for callback in filter(is_adapting, configured_callbacks(config)):
        b0: float | None = (callback.get("init_args") or {}).get("b0")
        return b0
    return None


def _flat(path: str, value: Any) -> dict[str, Any]:
    if not isinstance(value, Mapping):
        return {path: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        # class_path and init_args are how jsonargparse writes an object; the name of its class says the same.
        if key == "class_path":
            flat[path] = str(inner).rpartition(".")[2]
        else:
            flat |= _flat(path if key == "init_args" else f"{path}.{key}", inner)
    return flat
