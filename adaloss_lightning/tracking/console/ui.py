"""`adaloss ui`: the MLflow UI on the store where the runs are, open at the comparison of the last sweep."""

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser
from typing import TYPE_CHECKING

from adaloss_lightning.tracking.address import redacted, without_user_info
from adaloss_lightning.tracking.errors import TrackingError
from adaloss_lightning.tracking.logger.run_end import sigterm_raises, was_stopped
from adaloss_lightning.tracking.reports.comparison import compare_last_sweep
from adaloss_lightning.tracking.retry import impatient
from adaloss_lightning.tracking.store import no_stray_folder, open_store

if TYPE_CHECKING:
    from mlflow import MlflowClient

LOOPBACK = "127.0.0.1"
_GRACE_S = 5.0


def serve(tracking_uri: str | None, port: int, host: str = LOOPBACK, open_browser: bool = True) -> int:
    """Starts the UI, says where it is once it answers, and ends it after Ctrl-C or SIGTERM.

    The user's browser opens at the comparison of the newest sweep's runs, where there is a browser and a sweep. Runs
    on a tracking server are shown in that server's own UI; nothing is started then.

    Args:
        tracking_uri: Store; None takes the default store.
        port: Where the UI listens.
        host: Name or address of this machine to listen on. Others than loopback bring a warning.
        open_browser: False only prints the addresses.

    Returns:
        Exit code of the server, 0 after Ctrl-C or SIGTERM.

    Raises:
        TrackingError: The port is taken or none at all, or the host is not this machine.
        StoreError: The store cannot be opened.
    """
    with impatient():
        client = open_store(tracking_uri)
    uri = client.tracking_uri
    if uri.startswith(("http://", "https://")):
        print(f"The runs are on a tracking server, which has its own UI: {redacted(uri)}")
        _show(client, without_user_info(uri), open_browser)
        return 0
    if not _has_runs(client):
        print(
            f"There are no runs yet in {redacted(uri)}. If yours are elsewhere, start adaloss ui from their folder, or "
            "give --tracking-uri.",
            file=sys.stderr,
        )
    address = _require_free(host, port)
    if not address.is_loopback:
        print(f"warning: anyone who reaches port {port} of {address} can read and change all runs.", file=sys.stderr)
    server = _start(uri, address, port)
    try:
        with sigterm_raises(), no_stray_folder(uri):
            url = f"http://{_in_url(address)}:{port}"
            if _answers(server, url):
                print(f"MLflow UI: {url} (Ctrl-C ends it)", flush=True)
                _show(client, url, open_browser)
            return server.wait()
    except (KeyboardInterrupt, SystemExit) as stop:
        return 0 if was_stopped(stop) else 1
    finally:
        _end(server)


def _has_runs(client: "MlflowClient") -> bool:
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return bool(client.search_runs(experiments, max_results=1))


def _show(client: "MlflowClient", url: str, open_browser: bool) -> None:
    with impatient():
        comparison = compare_last_sweep(client, url)
    if comparison is not None:
        print(comparison.text, flush=True)
    if open_browser and _has_browser():
        webbrowser.open(comparison.url if comparison else url)


def _has_browser() -> bool:
    # Without a display Python would take a browser for terminals, which draws over everything and runs no scripts.
    displays = ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")
    return sys.platform in ("darwin", "win32") or any(os.environ.get(name) for name in displays)


def _start(uri: str, address: ipaddress.IPv4Address | ipaddress.IPv6Address, port: int) -> "subprocess.Popen[bytes]":
    # One reader needs one worker, and looking at runs needs none of the job queues MLflow starts beside its server.
    command = [sys.executable, "-m", "mlflow", "ui", "--host", str(address), "--port", str(port), "--workers", "1"]
    command += ["--uvicorn-opts", "--log-level warning"]  # no line for each request of the page
    # The store's address may hold a password, and everyone on the machine can read command lines.
    environment = {"MLFLOW_BACKEND_STORE_URI": uri, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    return subprocess.Popen(
        command,
        env=os.environ | environment,
        stdout=sys.__stderr__,  # its log; standard output says where the UI is and nothing else
        start_new_session=True,
    )


def _end(server: "subprocess.Popen[bytes]") -> None:
    # MLflow's process waits for its children, which it does not tell to end: the signal goes to all of them.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_GRACE_S)


def _require_free(host: str, port: int) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Address behind `host`, on which `port` can be listened on."""
    if not 0 < port < 65536:
        raise TrackingError(f"Invalid --port={port}. Must be from 1 to 65535.")
    try:
        family, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except OSError as error:
        raise TrackingError(f"Invalid --host={host}: {error.strerror}. Must be an address of this machine.") from error
    try:
        socket.create_server(address, family=family).close()
    except OSError as error:
        way_out = "Choose another one with --port." if host == LOOPBACK else "Choose another --port or --host."
        raise TrackingError(f"Cannot use port {port} of {host}: {error.strerror}. {way_out}") from error
    return ipaddress.ip_address(address[0])


def _in_url(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    if address.is_unspecified:  # all addresses of this machine: a good one to listen on, none to go to
        return LOOPBACK if address.version == 4 else "[::1]"
    return str(address) if address.version == 4 else f"[{address}]"


def _answers(server: "subprocess.Popen[bytes]", url: str) -> bool:
    """Waits until the server answers, or has ended."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # a proxy's own loopback is another one
    while server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            opener.open(f"{url}/health", timeout=2).close()
            return True
        time.sleep(0.2)
    return False
