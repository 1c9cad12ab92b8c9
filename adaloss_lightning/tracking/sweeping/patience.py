"""Calls to a store that may be away for a while, from a process that has hours of work to lose."""

import sys
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError
from tqdm import tqdm

from adaloss_lightning.tracking.address import redacted
from adaloss_lightning.tracking.environment import environment
from adaloss_lightning.tracking.errors import StoreError, one_line

P = ParamSpec("P")
T = TypeVar("T")

_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.5, 15.0
# What no repetition changes, by MLflow's error codes; an unreachable server comes as INTERNAL_ERROR.
_FINAL = {
    "BAD_REQUEST",
    "INVALID_PARAMETER_VALUE",
    "INVALID_STATE",
    "PERMISSION_DENIED",
    "RESOURCE_ALREADY_EXISTS",
    "RESOURCE_DOES_NOT_EXIST",
    "UNAUTHENTICATED",
}
# MLflow's own retries of one call last four minutes, in silence, and cannot be told apart from a store that is slow.
_ONE_TRY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


class Patience:
    """Repeats calls to the store until it answers, and says once that it waits.

    A server that lost its answer but took the call may have done twice what is not idempotent: a run created so is
    empty, and ended as KILLED when the sweep ends.

    Args:
        tracking_uri: The store, for messages.
        limit_s: Seconds one call is repeated at most. After one that was given up, each of the next has one try.
    """

    def __init__(self, tracking_uri: str, limit_s: float = 900.0) -> None:
        self.limit_s = limit_s
        self._uri = tracking_uri
        self._store = redacted(tracking_uri)

    def __call__(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Returns what `call(*args, **kwargs)` does.

        Raises:
            MlflowException: What the store refuses, for example because a run was deleted.
            StoreError: It did not answer within the limit.
        """
        start, pause, waits = time.monotonic(), _FIRST_PAUSE_S, False
        while True:
            try:
                with environment(_ONE_TRY):
                    result = call(*args, **kwargs)
            except (OSError, MlflowException, SQLAlchemyError) as error:
                if getattr(error, "error_code", None) in _FINAL:
                    raise
                reason = one_line(error, self._uri, 200)
                if time.monotonic() - start + pause > self.limit_s:
                    self.limit_s = 0.0  # what is still to be written has one try
                    raise StoreError(
                        f"The MLflow store {self._store} does not answer: {reason}. The same command continues the "
                        "sweep once it does."
                    ) from error
                if not waits:
                    _say(
                        f"The MLflow store {self._store} does not answer ({reason}). The sweep waits for it, at most "
                        f"{self.limit_s / 60:g} minutes."
                    )
                waits = True
                time.sleep(pause)
                pause = min(2 * pause, _LAST_PAUSE_S)
            else:
                if waits:
                    _say("The MLflow store answers again.")
                return result


def _say(line: str) -> None:
    tqdm.write(line, file=sys.stderr)
