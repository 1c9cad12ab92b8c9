"""Units in which people read a metric: accuracies in percent, whichever way a project logs them."""

from collections.abc import Iterable
from dataclasses import dataclass

from adaloss_lightning.tracking.metrics import bare, is_sound

_ACCURACIES = ("acc", "accuracy", "acc1", "acc5", "f1", "auroc")
_ROUNDING = 1e-6  # a mean in float32 of accuracies that are all 1 may be a little more
_POINT = 0.01  # of a share; of a metric that is no accuracy it is a part of its best value


@dataclass(frozen=True)
class Unit:
    """How values of a metric are shown.

    Attributes:
        is_percent: Whether they are shown in percent.
        scale: What a stored value is multiplied by: 100 for a share of 1 that is shown in percent, else 1.
    """

    is_percent: bool
    scale: float = 1.0

    @property
    def suffix(self) -> str:
        """Behind the name of the metric where a caption or a title gives the unit."""
        return " in %" if self.is_percent else ""

    @property
    def tolerance_text(self) -> str:
        """How far from a best value still counts, for people."""
        return "1 point" if self.is_percent else "1 %"

    def tolerance(self, best: float) -> float:
        """How far from a stored best value still counts: a percentage point, or a hundredth of that value."""
        return _POINT * 100.0 / self.scale if self.is_percent else _POINT * abs(best)

    def bare_text(self, value: float) -> str:
        """A stored value, for tables whose caption gives the unit."""
        return f"{self.scale * value:.1f}" if self.is_percent else f"{value:.4g}"

    def text(self, value: float) -> str:
        """A stored value with its unit."""
        return self.bare_text(value) + (" %" if self.is_percent else "")


PLAIN = Unit(is_percent=False)


def unit_of(metric: str, values: Iterable[float]) -> Unit:
    """The unit of a metric, by its name and all its values at hand.

    Accuracies are shares where no value is above 1, else percent. Values above 100 or below 0 are neither.
    """
    if bare(metric.lower()).rpartition("/")[2] not in _ACCURACIES:
        return PLAIN
    known = [value for value in values if is_sound(value)]
    low, high = min(known, default=0.0), max(known, default=0.0)
    if low < 0 or high > 100 * (1 + _ROUNDING):
        return PLAIN
    return Unit(is_percent=True, scale=100.0 if high <= 1 + _ROUNDING else 1.0)
