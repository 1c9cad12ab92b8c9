"""Whether a store's address answers, found out in seconds."""

import contextlib
import socket
import ssl
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_PROBE_S = 3.0


def require_answer(uri: str) -> None:
    """Raises OSError at once when nothing listens at the address, or TLS fails; MLflow itself would try for minutes."""
    parts = urlsplit(uri)
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
