"""How long MLflow tries a failing server while a person waits, who can call again."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

from adaloss_lightning.tracking.environment import environment

# By itself MLflow tries for minutes in each call.
_IMPATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


@contextmanager
def impatient() -> Iterator[None]:
    """Inside the block MLflow tries a call three times, 30 seconds each; what the user has set stays as it is."""
    with environment({name: value for name, value in _IMPATIENCE.items() if name not in os.environ}):
        yield
