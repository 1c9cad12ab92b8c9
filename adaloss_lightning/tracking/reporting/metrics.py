"""What the names of metrics say: which is compared, whether small is good, how a value is shown."""

from collections.abc import Iterable

from adaloss_lightning.tracking.runs import Run

DEFAULT_METRICS = ("test/acc", "val/acc", "test/return", "test/loss", "val/loss")  # the first that there is


def metric_of(runs: Iterable[Run]) -> str | None:
    """The first of `DEFAULT_METRICS` that any of the runs has."""
    there = names_of(runs)
    return next((name for name in DEFAULT_METRICS if name in there), None)


def names_of(runs: Iterable[Run]) -> set[str]:
    """Names of all metrics that any of the runs has."""
    return {name for run in runs for name in run.data.metrics}


def is_lower_better(metric: str) -> bool:
    """Whether small values of the metric are good: losses and errors."""
    name = metric.lower().removeprefix("adaloss/")  # its "loss" says nothing about b
    return any(word in name for word in ("loss", "error", "mse", "mae", "perplexity"))


def is_share(metric: str) -> bool:
    """Whether the metric is a share of 1, to be shown in percent."""
    return metric.lower().rpartition("/")[2] in ("acc", "accuracy", "acc1", "acc5", "f1", "auroc")


def bare_text(value: float, metric: str) -> str:
    """A value for tables whose caption gives the unit: accuracies in percent, everything else with four digits."""
    return f"{100 * value:.1f}" if is_share(metric) else f"{value:.4g}"


def as_text(value: float, metric: str) -> str:
    """A value for people, with its unit."""
    return bare_text(value, metric) + (" %" if is_share(metric) else "")
