"""Whether small or large values of a metric are good, and who says so."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from adaloss_lightning.tracking.monitors import monitored_in
from adaloss_lightning.tracking.reporting.metrics import bare, is_lower_better
from adaloss_lightning.tracking.runs import Run

Mode = Literal["min", "max"]


@dataclass(frozen=True)
class Direction:
    """Whether small values are good.

    Attributes:
        mode: "min" where they are, "max" where large ones are.
        reason: Who says so, for people.
    """

    mode: Mode
    reason: str

    @property
    def text(self) -> str:
        """For captions: "lower is better"."""
        return f"{'lower' if self.mode == 'min' else 'higher'} is better"

    @property
    def sentence(self) -> str:
        """For notes."""
        return f"{self.text.capitalize()}: {self.reason}."


def direction_of(metric: str, runs: Iterable[Run], asked: Mode | None = None) -> Direction:
    """What the user asked for, else what the runs' callbacks monitor it by, else what its name tells.

    `val/wer` speaks for `test/wer` too. Callbacks that contradict each other say nothing.
    """
    if asked is not None:
        return Direction(asked, f"asked for with --{asked}imize")
    monitored = [pair for run in runs for pair in monitored_in(run.data.tags).items()]
    for is_meant in (lambda name: name == metric, lambda name: bare(name) == bare(metric)):
        found = {(name, mode) for name, mode in monitored if is_meant(name)}
        modes = {mode for _, mode in found}
        if len(modes) == 1 and (mode := modes.pop()) is not None:
            name = min(name for name, _ in found)
            return Direction("min" if mode == "min" else "max", f"the runs monitor {name} with mode {mode}")
    return by_name(metric)


def by_name(metric: str) -> Direction:
    """What the name alone tells."""
    mode: Mode = "min" if is_lower_better(metric) else "max"
    other = "maximize" if mode == "min" else "minimize"
    return Direction(mode, f"a guess from the name {metric}; --{other} says otherwise")
