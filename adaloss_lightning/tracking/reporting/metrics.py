"""What the names of metrics say: which is compared, how a value is shown, whether small is good."""

import re
from collections.abc import Iterable

from adaloss_lightning.tracking.monitors import monitored_in
from adaloss_lightning.tracking.non_finite import names_in
from adaloss_lightning.tracking.reporting.health import has_diverged
from adaloss_lightning.tracking.runs import Run
from adaloss_lightning.tracking.tags import NON_FINITE_TAG

_BEST_KNOWN = ("test/acc", "test_acc", "val/acc", "val_acc", "test/return")
_LOSSES = ("test/loss", "test_loss", "val/loss", "val_loss")
DEFAULT_METRICS = (*_BEST_KNOWN, *_LOSSES)

_STAGE = re.compile(r"^(train|training|val|valid|validation|test)[/_.]|_(epoch|step)$")
_SHARES = ("acc", "accuracy", "acc1", "acc5", "f1", "auroc")
_SMALL_IS_GOOD = re.compile(
    # anywhere in the name, as it may be that of a class
    "loss|error|perplexity|distance|divergence|brier|entropy|regret|deviance"
    # a word of its own: "mae" is within "maestro" too
    r"|(?<![a-z])(err|mse|rmse|msle|rmsle|mae|mape|smape|nll|ce|bce|kl|wer|cer|eer|ppl|bpc|bpb|bpd|ece|fid|kid|lpips|crps)"
    "(?![a-z])"
)
_NEGATIVE = re.compile(r"(?<![a-z])neg(ative)?(?![a-z])")


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
    has_word = _SMALL_IS_GOOD.search(name) is not None
    return has_word != (_NEGATIVE.search(name) is not None)  # neg_mse is to be large, neg_log_likelihood to be small


def is_share(metric: str) -> bool:
    """Whether the metric is a share of 1, to be shown in percent."""
    return bare(metric.lower()).rpartition("/")[2] in _SHARES


def bare_text(value: float, metric: str) -> str:
    """A value for tables whose caption gives the unit: accuracies in percent, everything else with four digits."""
    return f"{100 * value:.1f}" if is_share(metric) else f"{value:.4g}"


def as_text(value: float, metric: str) -> str:
    """A value for people, with its unit."""
    return bare_text(value, metric) + (" %" if is_share(metric) else "")
