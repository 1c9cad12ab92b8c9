"""The one form in which a bad hyper-parameter is refused: ``Invalid b0=-1.0. Must be > 0.``"""

import math
import numbers
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from adaloss_lightning.optim.recurrence import AUTO, Rule, start


def require_number(
    name: str,
    value: Any,
    *,
    at_least: float | None = None,
    above: float | None = None,
    below: float | None = None,
    finite: bool = True,
) -> None:
    """Raise ``ValueError`` unless ``value`` is one real number inside the bounds.

    Tensors of one element are read to the host: this runs at construction, never in a step.
    """
    bounds = [
        f"{sign} {bound:g}" for sign, bound in ((">", above), (">=", at_least), ("<", below)) if bound is not None
    ]
    try:
        if isinstance(value, (str, bytes)) or (isinstance(value, Tensor) and value.numel() != 1):
            raise TypeError
        number = float(value.detach() if isinstance(value, Tensor) else value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise ValueError(
            f"Invalid {name}={value!r}. Must be a number{' ' * bool(bounds)}{' and '.join(bounds)}."
        ) from None
    inside = (above is None or number > above) and (at_least is None or number >= at_least)
    if math.isnan(number) or not inside or (below is not None and not number < below):
        raise ValueError(f"Invalid {name}={value!r}. Must be {' and '.join(bounds) or 'finite'}.")
    if finite and math.isinf(number):
        raise ValueError(f"Invalid {name}={value!r}. Must be finite.")


def require_whole(name: str, value: Any) -> None:
    """Raise ``ValueError`` unless ``value`` is a whole number >= 0."""
    require_number(name, value, at_least=0)
    if value != int(value):
        raise ValueError(f"Invalid {name}={value!r}. Must be a whole number >= 0.")


def require_b0(b0: float, rule: Rule) -> None:
    """Raise ``ValueError`` unless ``b0`` is a number > 0 from which the accumulator can start."""
    require_number("b0", b0, above=0)
    if not 0 < start(b0, rule) < math.inf:
        raise ValueError(f"Invalid b0={b0!r}. Must be > 0 and have a square that float64 can hold.")


def require_alpha(alpha: Any) -> None:
    """Raise ``ValueError`` unless ``alpha`` is a number >= 0 or ``"auto"``."""
    if isinstance(alpha, str):
        if alpha != AUTO:
            raise ValueError(f"Invalid alpha={alpha!r}. Must be a number >= 0, or {AUTO!r}.")
    else:
        require_number("alpha", alpha, at_least=0)


def plain_number(value: Any) -> Any:
    """A number as one that ``torch.load(weights_only=True)`` takes and arithmetic keeps its shape and dtype with.

    NumPy's numbers and tensors on the CPU become Python's, other tensors 0-dim ones without a gradient; everything else
    stays what it is.
    """
    if isinstance(value, Tensor):
        return value.item() if value.is_cpu else value.detach().reshape(())
    kind: type = type(value)  # NumPy's float64 is a float, too
    if kind in (int, float, bool) or not (issubclass(kind, numbers.Real) or getattr(value, "ndim", None) == 0):
        return value
    return float(value)


def require_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``choices``."""
    if value not in choices:
        raise ValueError(f"Invalid {name}={value!r}. Must be one of {', '.join(map(repr, choices))}.")


def require_rate_settings(settings: Mapping[str, Any]) -> None:
    """Check those of torch's own hyper-parameters that ``settings`` holds (``lr``, ``momentum``, ``betas``, ...)."""
    for name in ("lr", "momentum", "weight_decay", "eps"):
        if name in settings:
            require_number(name, settings[name], at_least=0)
    if "dampening" in settings:
        require_number("dampening", settings["dampening"])
    if "betas" in settings:
        betas = settings["betas"]
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise ValueError(f"Invalid betas={betas!r}. Must be a pair (beta1, beta2).")
        for index, beta in enumerate(betas):
            require_number(f"betas[{index}]", beta, at_least=0, below=1)
    if settings.get("nesterov") and not (settings.get("momentum", 0) > 0 and settings.get("dampening", 0) == 0):
        raise ValueError(
            f"Invalid nesterov=True with momentum={settings.get('momentum', 0)}, "
            f"dampening={settings.get('dampening', 0)}. Must have momentum > 0 and dampening = 0."
        )
