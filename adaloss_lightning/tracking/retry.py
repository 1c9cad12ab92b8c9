"""Calls to a store that may be away: probed in seconds, given up soon where a person waits, repeated in a sweep."""

import contextlib
import os
import socket
import ssl
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar
from urllib.parse import urlsplit

from tqdm import tqdm

from adaloss_lightning.tracking.address import redacted, without_user_info
from adaloss_lightning.tracking.errors import StoreError, one_line
from adaloss_lightning.tracking.refusals import is_final
from adaloss_lightning.tracking.temporarily import environment

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_PROBE_S = 3.0


def require_answer(uri: str) -> None:
    """Raises OSError at once when nothing listens at the address, or TLS fails; MLflow itself would try for minutes."""
    parts = urlsplit(without_user_info(uri))  # a password may have what ends an address
    port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname is None or port is None or _goes_through_proxy(uri):
        return
    try:
        socket.create_connection((parts.hostname, port), _PROBE_S).close()
    except OSError as error:
        raise type(error)(
            error.errno, f"nothing answers at {parts.hostname}:{port}: {error.strerror or error}"
        ) from error
    if parts.scheme == "https":
        _require_tls(uri, f"{parts.hostname}:{port}")


def _require_tls(uri: str, where: str) -> None:
    from mlflow.environment_variables import (
        MLFLOW_TRACKING_CLIENT_CERT_PATH,
        MLFLOW_TRACKING_INSECURE_TLS,
        MLFLOW_TRACKING_SERVER_CERT_PATH,
    )
    from requests import Session
    from requests.exceptions import RequestException, SSLError

    trusted = MLFLOW_TRACKING_SERVER_CERT_PATH.get() or not MLFLOW_TRACKING_INSECURE_TLS.get()
    with Session() as session, contextlib.suppress(RequestException):  # a server that hangs is reported as one
        try:
            session.head(uri, timeout=_PROBE_S, verify=trusted, cert=MLFLOW_TRACKING_CLIENT_CERT_PATH.get())
        except SSLError as error:
            raise ConnectionError(
                f"TLS with {where} fails: {_reason(error)}. A certificate of your own is trusted with "
                "MLFLOW_TRACKING_SERVER_CERT_PATH=FILE.pem"
            ) from error


def _reason(error: BaseException) -> str:
    """What OpenSSL says, from under the layers of requests and urllib3."""
    inner: object = error
    for _ in range(5):
        if isinstance(inner, ssl.SSLError):
            return getattr(inner, "verify_message", "") or inner.reason or str(inner)
        inner = getattr(inner, "reason", None) or next(iter(getattr(inner, "args", ())), None)
    return str(error)


def _goes_through_proxy(uri: str) -> bool:
    from requests.utils import get_environ_proxies

    return uri.startswith("http") and bool(get_environ_proxies(uri))


# By itself MLflow tries for minutes in each call.
_IMPATIENCE = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


@contextmanager
def impatient() -> Iterator[None]:
    """Inside the block MLflow tries a call three times, 30 seconds each; what the user has set stays as it is."""
    with environment({name: value for name, value in _IMPATIENCE.items() if name not in os.environ}):
        yield


P = ParamSpec("P")
T = TypeVar("T")

_FIRST_PAUSE_S, _LAST_PAUSE_S = 0.5, 15.0
# MLflow's own retries of one call last four minutes, in silence, and cannot be told apart from a store that is slow.
_ONE_TRY = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}


class Patience:
    """Repeats calls to the store until it answers, and reports once that it waits.

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
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        start, pause, waits = time.monotonic(), _FIRST_PAUSE_S, False
        while True:
            try:
                with environment(_ONE_TRY):
                    result = call(*args, **kwargs)
            except (OSError, MlflowException, SQLAlchemyError) as error:
                if is_final(error):
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
