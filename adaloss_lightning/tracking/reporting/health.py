"""What a run says about its own metrics: which it monitors, which became non-finite, and whether it has diverged."""

import json
import math
import re

from adaloss_lightning.tracking.non_finite import non_finite_at_the_end
from adaloss_lightning.tracking.runs import Run
from adaloss_lightning.tracking.tags import DIVERGED_TAG, MONITORS_TAG, NON_FINITE_TAG

_LOSS = re.compile(r"(adaloss/|(train|training|val|valid|validation|test)[/_.])?loss(_epoch|_step)?")
_LARGEST = 1.7e308  # MLflow's database stores infinity as the largest double


def monitors_of(run: Run) -> dict[str, str]:
    """Mode, "min" or "max", of each metric that the run's callbacks and schedulers monitor."""
    try:
        modes = json.loads(run.data.tags.get(MONITORS_TAG, "{}"))
    except ValueError:  # a tag is the user's to change
        return {}
    return {str(name): str(mode) for name, mode in modes.items()} if isinstance(modes, dict) else {}


def has_diverged(run: Run, metric: str | None) -> bool:
    """Whether the run says so in its tag `diverged`, or a metric that counts is not finite at the end.

    Those that count are `metric`, what the run's callbacks monitor, and its losses. Of any other metric, a ratio over
    no examples, say, a NaN is no divergence.
    """
    if DIVERGED_TAG in run.data.tags:
        return True
    bad = {name for name, value in run.data.metrics.items() if not is_sound(value)}
    if NON_FINITE_TAG in run.data.tags:
        steps = {point.key: point.step for point in run.data.to_proto().metrics if point.key not in bad}
        bad |= non_finite_at_the_end(run.data.tags[NON_FINITE_TAG], steps)
    monitored = monitors_of(run) if bad else {}
    return any(name == metric or name in monitored or _LOSS.fullmatch(name) for name in bad)


def is_sound(value: float) -> bool:
    """Whether a stored value is a finite number."""
    return math.isfinite(value) and abs(value) < _LARGEST
