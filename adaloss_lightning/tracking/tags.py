"""Names of the tags by which runs are known."""

from typing import Final

KIND_TAG: Final = "adaloss.kind"  # "sweep" on the parent, "point" on its children, or one of the following
EVALUATIONS: Final = ("validate", "test")  # runs that trained nothing
PARENT_TAG: Final = "mlflow.parentRunId"
DIVERGED_TAG: Final = "diverged"
ERROR_TAG: Final = "error"
