"""Names of the tags by which runs are known, and the colours of runs in MLflow's charts."""

from typing import Final

KIND_TAG: Final = "adaloss.kind"  # "sweep" on the parent, "point" on its children, or one of the following
EVALUATIONS: Final = ("validate", "test")  # runs that trained nothing
PARENT_TAG: Final = "mlflow.parentRunId"
COMMIT_TAG: Final = "mlflow.source.git.commit"
DIVERGED_TAG: Final = "diverged"
NON_FINITE_TAG: Final = "non_finite"
ERROR_TAG: Final = "error"
MONITORS_TAG: Final = "adaloss.monitors"  # JSON: "min", "max" or, for both, null of each monitored metric
TESTED_TAG: Final = "adaloss.tested"  # "best" or "last": of which epoch the tested weights are
METRIC_TAG: Final = "adaloss.metric"  # on the parent: what `adaloss sweep --metric` compares
MODE_TAG: Final = "adaloss.mode"  # on the parent: "min" or "max", of `--minimize` and `--maximize`
COLOUR_TAG: Final = "mlflow.runColor"  # of the run in MLflow's charts


# Okabe and Ito's palette, told apart by colour-blind readers; its yellow is left out, too faint for lines on white.
COLOURS = ("#D55E00", "#0072B2", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def colour_of(index: int) -> str:
    """Colour of a row or method."""
    return COLOURS[index % len(COLOURS)]
