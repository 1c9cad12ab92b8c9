"""MLflow's tracking server as a real process, and a proxy before it that asks for a token."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from tests.limits import HANG_S
from tests.ports import free_port


class TrackingServer:
    """`mlflow server` on a port of 127.0.0.1 that it keeps, artifacts through it; a context manager.

    Args:
        folder: Holds artifacts, log and, without a `backend`, the SQLite database.
        backend: Address of the database.
        options: More options of `mlflow server`.
        environment: More environment variables.
    """

    def __init__(
        self, folder: Path, backend: str | None = None, *options: str, environment: Mapping[str, str] | None = None
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.log = folder / "server.log"
        self._folder = folder
        self._options = ["--artifacts-destination", str(folder / "artifacts"), "--workers", "1", *options]
        self._environment = {
            "MLFLOW_BACKEND_STORE_URI": backend or f"sqlite:///{folder}/server.db",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            **(environment or {}),
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "TrackingServer":
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Starts the server, the first time or again, and waits until it answers."""
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        # What tells the tests where the runs are must not tell the server, which would look for them at itself.
        inherited = {key: value for key, value in os.environ.items() if not key.startswith("MLFLOW_TRACKING")}
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._options],
                cwd=self._folder,
                env=inherited | self._environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_for_health(self.url, self._process, self.log)

    def stop(self) -> None:
        """Kills it and its children, as a crash of its machine would."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None

    def suspend(self) -> None:
        """Makes it hang: connections are accepted by the system and never answered."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Lets it go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        assert self._process is not None
        os.killpg(self._process.pid, number)


def wait_for_health(url: str, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Waits until an MLflow server answers; raises when it ended or takes too long."""
    deadline = time.monotonic() + HANG_S
    while True:
        with contextlib.suppress(OSError):
            urllib.request.urlopen(f"{url}/health", timeout=5).close()
            return
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"The server at {url} does not answer:\n{log.read_text()}")
        time.sleep(0.1)
