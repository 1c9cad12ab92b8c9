"""What a checkpoint says of the MLflow run it belongs to."""

import logging
from pathlib import Path

import torch

log = logging.getLogger(__name__)

RUN_STATE = "mlflow_run"  # key in the checkpoint


def read_run_state(path: str | Path) -> dict[str, str | None]:
    """The `run_state` in a checkpoint; empty, and said once, where there is none: the training then gets a new run."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state: dict[str, str | None] = checkpoint[RUN_STATE]
    except Exception as error:  # whatever is wrong with the file, Lightning will say when it loads it
        reason = "it does not say which" if isinstance(error, KeyError) else type(error).__name__
        log.warning("Cannot go on with the MLflow run of %s (%s): a new run starts.", path, reason)
        return {}
    return state
