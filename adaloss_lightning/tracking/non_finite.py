"""Metrics that are not finite, which MLflow cannot keep: what a run says of them in its tag `non_finite`.

A metric stands there with the first step at which it was not finite: `grad_norm (step 3)`. One whose last value is not
finite says so when the run ends: `val/loss (step 24, to the end at step 60)`. Those by which a run is judged come
first, as a tag has not room for any number of them.
"""

import math
import re
from collections.abc import Mapping, Sequence
from itertools import accumulate

from adaloss_lightning.tracking.names import MAX_TAG

_LOSS = re.compile(
    r"(adaloss/|(train|training|val|valid|validation|test)[/_.])?loss(_epoch|_step)?(/dataloader_idx_\d+)?"
)
_ROOM_FOR_REST = len(", and 1000000 more")
_REST = re.compile(r", and (\d+) more$")
_ENTRY = re.compile(r"(?:^|, )(.+?) \(step (-?\d+)(?:, to the end at step (-?\d+))?\)")


class NonFinite:
    """Collects the metrics of a run, from the threads that log.

    Attributes:
        monitored: Names of the metrics that the run's callbacks monitor.
    """

    def __init__(self) -> None:
        self.monitored: set[str] = set()
        self._first: dict[str, int] = {}
        self._last: dict[str, int] = {}  # of those whose last value is not finite

    def sift(self, values: Mapping[str, float], step: int) -> tuple[dict[str, float], bool]:
        """Takes the metrics of a step; returns the finite ones, and whether one is not finite for the first time."""
        finite = {name: value for name, value in values.items() if math.isfinite(value)}
        others = [name for name in values if name not in finite]
        has_new = any(name not in self._first for name in others)
        for name in others:
            self._first.setdefault(name, step)
            self._last[name] = step
        for name in finite if self._last else ():
            self._last.pop(name, None)
        return finite, has_new

    @property
    def has_some_left(self) -> bool:
        """Whether the last value of any metric is not finite."""
        return bool(self._last)

    def text(self, *, has_ended: bool = False) -> str:
        """Value of the tag; what is not finite to the end is known when the run ends."""
        left = self._last if has_ended else {}
        ends = {name: f", to the end at step {step}" for name, step in left.items()}
        firsts = sorted(
            self._first.items(),
            key=lambda one: (one[0] not in ends, not (is_loss(one[0]) or one[0] in self.monitored)),
        )
        return _fitting([f"{name} (step {first}{ends.get(name, '')})" for name, first in firsts])


def is_loss(name: str) -> bool:
    """Whether a metric is a loss of the run, of one of its dataloaders too."""
    return _LOSS.fullmatch(name) is not None


def names_in(tag: str) -> set[str]:
    """Metrics that were not finite at some step, as far as the tag `non_finite` has room for them."""
    return {name for name, _, _ in _ENTRY.findall(tag)}


def merged(earlier: str, later: str) -> str:
    """The tag of a run that goes on: of each metric its first step in the `earlier` tag and its end in the `later` one.

    Those that the later tag does not name follow as they are.
    """
    before = {name: (first, end) for name, first, end in _ENTRY.findall(earlier)}
    after = {name: (before.get(name, (first,))[0], end) for name, first, end in _ENTRY.findall(later)}
    entries = [
        f"{name} (step {first}{f', to the end at step {end}' if end else ''})"
        for name, (first, end) in (after | {name: one for name, one in before.items() if name not in after}).items()
    ]
    return _fitting(entries, max(int(found[1]) if (found := _REST.search(tag)) else 0 for tag in (earlier, later)))


def _fitting(entries: Sequence[str], left_out: int = 0) -> str:
    """The entries that a tag has room for, and the number of the others: at least those `left_out` before."""
    text = ", ".join(entries)
    if len(text) <= MAX_TAG and not left_out:
        return text
    kept = sum(end <= MAX_TAG - _ROOM_FOR_REST for end in accumulate(len(entry) + len(", ") for entry in entries))
    return f"{', '.join(entries[:kept])}, and {max(len(entries) - kept, left_out)} more"


def non_finite_at_the_end(tag: str, last_steps: Mapping[str, int]) -> set[str]:
    """Metrics whose last value is not finite.

    A run that was resumed may have left its NaN behind; one of an earlier version, or that was killed, has only the
    first step in its tag. So a finite value of a later step counts for more than the tag.

    Args:
        tag: Value of the tag `non_finite`.
        last_steps: Step of the last finite value of each metric that has one.
    """
    names = set()
    for name, first, at_the_end in _ENTRY.findall(tag):
        last = last_steps.get(name)
        if last is None or last < int(at_the_end or first) or (at_the_end and last == int(at_the_end)):
            names.add(name)
    return names
