"""Divergence of a run, as its tags and metrics tell."""

import math

from adaloss_lightning.tracking.monitors import monitored_in
from adaloss_lightning.tracking.non_finite import is_loss, non_finite_at_the_end
from adaloss_lightning.tracking.runs import Run
from adaloss_lightning.tracking.tags import DIVERGED_TAG, NON_FINITE_TAG

_LARGEST = 1.7e308  # MLflow's database stores infinity as the largest double


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
    monitored = monitored_in(run.data.tags) if bad else {}
    return any(name == metric or name in monitored or is_loss(name) for name in bad)


def is_sound(value: float) -> bool:
    """Whether a stored value is a finite number."""
    return math.isfinite(value) and abs(value) < _LARGEST
