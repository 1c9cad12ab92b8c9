"""`adaloss ui`: the MLflow UI on the store where the runs are, for this machine only."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

from adaloss_lightning.tracking.errors import TrackingError
from adaloss_lightning.tracking.lifecycle import sigterm_raises, was_stopped
from adaloss_lightning.tracking.store import open_store, redacted

_HOST = "127.0.0.1"
_GRACE_S = 5.0


def serve(tracking_uri: str | None, port: int) -> int:
    """Starts the UI, says where it is once it answers, and ends it after Ctrl-C or SIGTERM.

    Returns:
        Exit code of the server, 0 after Ctrl-C or SIGTERM.

    Raises:
        TrackingError: The port is taken or none at all.
        StoreError: The store cannot be opened.
    """
    uri = open_store(tracking_uri).tracking_uri
    if uri.startswith(("http://", "https://")):
        print(f"The runs are on a tracking server, which has its own UI: {redacted(uri)}")
        return 0
    _require_free(port)
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri, "--host", _HOST, "--port", str(port)]
    # One reader needs one worker, and looking at runs needs none of the job queues MLflow starts beside its server.
    environment = os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    server = subprocess.Popen(
        [*command, "--workers", "1"],
        env=environment,
        stdout=sys.__stderr__,  # its log; standard output says where the UI is and nothing else
        start_new_session=True,
    )
    try:
        with sigterm_raises():
            _wait_for(server, f"http://{_HOST}:{port}")
            return server.wait()
    except (KeyboardInterrupt, SystemExit) as stop:
        return 0 if was_stopped(stop) else 1
    finally:
        _end(server)


def _end(server: "subprocess.Popen[bytes]") -> None:
    # MLflow's process waits for its children, which it does not tell to end: the signal goes to all of them.
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(_GRACE_S)


def _require_free(port: int) -> None:
    if not 0 < port < 65536:
        raise TrackingError(f"Invalid --port={port}. Must be from 1 to 65535.")
    with socket.socket() as probe:
        try:
            probe.bind((_HOST, port))
        except OSError as error:
            raise TrackingError(f"Cannot use port {port}: {error.strerror}. Choose another one with --port.") from error


def _wait_for(server: "subprocess.Popen[bytes]", url: str) -> None:
    while server.poll() is None:
        with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
            urllib.request.urlopen(f"{url}/health", timeout=2).close()
            print(f"MLflow UI: {url} (Ctrl-C ends it)", flush=True)
            return
        time.sleep(0.2)
