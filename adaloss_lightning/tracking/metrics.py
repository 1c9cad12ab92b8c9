"""Metrics by which runs are judged: which is compared, in which direction, and whether a run diverged."""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from adaloss_lightning.tracking.monitors import monitored_in
from adaloss_lightning.tracking.non_finite import is_loss, names_in, non_finite_at_the_end
from adaloss_lightning.tracking.runs import Run
from adaloss_lightning.tracking.tags import DIVERGED_TAG, NON_FINITE_TAG

_BEST_KNOWN = ("test/acc", "test_acc", "val/acc", "val_acc", "test/return")
_LOSSES = ("test/loss", "test_loss", "val/loss", "val_loss")
DEFAULT_METRICS = (*_BEST_KNOWN, *_LOSSES)

_STAGE = re.compile(r"^(train|training|val|valid|validation|test)[/_.]|_(epoch|step)$")
_SMALL_IS_GOOD = re.compile(
    # anywhere in the name, as it may be that of a class
    "loss|error|perplexity|distance|divergence|brier|entropy|regret|deviance|false[_-]"
    # a word of its own: "mae" is within "maestro" too
    r"|(?<![a-z])(err|mse|rmse|msle|rmsle|mae|mape|smape|nll|ce|bce|kl|wer|cer|eer|ppl|bpc|bpb|bpd|ece|fid|kid|lpips|crps)"
    "(?![a-z])"
)
_NEGATIVE = re.compile(r"(?<![a-z])(?<!false[_-])(?<!true[_-])neg(ative)?(?![a-z])")
_LARGE_IS_GOOD = re.compile(r"likelihood|log_?prob|elbo")  # what is made negative to be a loss


def metric_of(runs: Iterable[Run]) -> str | None:
    """What is compared unless the user names a metric; None where no run has such a one.

    An accuracy or a return comes first, then what the runs' own callbacks monitor, as their test measured it where it
    did, then a loss. Where every run diverged before it had a value of any of them, one that it should have had.
    """
    runs = list(runs)
    monitored = sorted({name for run in runs for name in monitored_in(run.data.tags)})
    for there in (names_of(runs), unseen_of(runs)):
        tested = [name for name in sorted(there) if name.startswith("test") and bare(name) in map(bare, monitored)]
        for name in (*_BEST_KNOWN, *tested, *monitored, *_LOSSES):
            if name in there:
                return name
    return None


def names_of(runs: Iterable[Run]) -> set[str]:
    """Names of all metrics that any of the runs has."""
    return {name for run in runs for name in run.data.metrics}


def unseen_of(runs: Iterable[Run], metric: str | None = None) -> set[str]:
    """Metrics that diverged runs monitor or were to log; they may have no finite value in any run."""
    tags = [run.data.tags for run in runs if has_diverged(run, metric)]
    return {name for one in tags for name in (*monitored_in(one), *names_in(one.get(NON_FINITE_TAG, "")))}


def bare(metric: str) -> str:
    """The name without what says when it is measured: `wer` of `val/wer`, `test_wer` and `val/wer_epoch`."""
    return _STAGE.sub("", metric)


def is_lower_better(metric: str) -> bool:
    """Whether small values are good, as far as the name tells: losses, errors and some distances."""
    name = metric.lower().removeprefix("adaloss/")  # its "loss" says nothing about b
    negative = _NEGATIVE.search(name)
    negated = name[negative.end() :] if negative else ""
    if _SMALL_IS_GOOD.search(negated):  # neg_mse is to be large; the accuracy acc_neg is that of the negatives
        return False
    return bool(_SMALL_IS_GOOD.search(name) or _LARGE_IS_GOOD.search(negated))


LARGEST = 1.7e308  # MLflow's database stores infinity as the largest double


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
    return math.isfinite(value) and abs(value) < LARGEST


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
