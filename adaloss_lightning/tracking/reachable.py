"""Whether anybody listens at a store's address."""

import socket
from urllib.parse import urlsplit

_PORTS = {"http": 80, "https": 443, "postgresql": 5432, "mysql": 3306, "mssql": 1433}
_PROBE_S = 3.0


def require_answer(uri: str) -> None:
    """Raises OSError at once when nobody listens at the address; MLflow itself would try for minutes."""
    parts = urlsplit(uri)
    port = parts.port or _PORTS.get(parts.scheme.partition("+")[0])
    if parts.hostname is None or port is None or _goes_through_proxy(uri):
        return
    try:
        socket.create_connection((parts.hostname, port), _PROBE_S).close()
    except OSError as error:
        raise type(error)(
            error.errno, f"nobody answers at {parts.hostname}:{port}: {error.strerror or error}"
        ) from error


def _goes_through_proxy(uri: str) -> bool:
    from requests.utils import get_environ_proxies

    return uri.startswith("http") and bool(get_environ_proxies(uri))
