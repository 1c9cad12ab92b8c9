"""The store of all runs: MLflow's own default unless the user points elsewhere, opened safely by several processes."""

import hashlib
import os
import re
import shlex
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from filelock import FileLock

from adaloss_lightning.tracking.address import SQLITE, redacted, sqlite_path, sqlite_uri
from adaloss_lightning.tracking.errors import StoreError, one_line
from adaloss_lightning.tracking.names import experiment_name, shortened
from adaloss_lightning.tracking.refusals import lacks_credentials
from adaloss_lightning.tracking.retry import require_answer
from adaloss_lightning.tracking.temporarily import draw_apart, silence_database

if TYPE_CHECKING:
    from mlflow import MlflowClient


_WAY_OUT = "Run from a folder you may write to, or set MLFLOW_TRACKING_URI to a store you can reach."
_WAY_OUT_OF_A_SERVER = "Start the server, or set MLFLOW_TRACKING_URI to a store you can reach."
_WAY_IN = "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, to what it asks for."
_LONGEST_FOLDER = 240  # bytes; a character has four at most
_FIRST_TABLE = "experiments"  # of those that MLflow makes
opened: set[str] = set()  # addresses of the stores that this process has opened and checked


def resolve_uri(tracking_uri: str | None = None) -> str:
    """Address of the store, independent of the working folder from here on.

    Args:
        tracking_uri: Taken as it is, apart from a relative SQLite path. None or "": what `mlflow.set_tracking_uri` or
            `MLFLOW_TRACKING_URI` say, else MLflow's own default, `mlflow.db` in the working folder.

    Raises:
        StoreError: There is no address for a database in that folder.
    """
    if not tracking_uri:
        import mlflow

        tracking_uri = mlflow.get_tracking_uri()
    path = sqlite_path(tracking_uri)
    _, mark, settings = tracking_uri.partition("?")
    try:
        return tracking_uri if path is None else f"{sqlite_uri(path)}{mark}{settings}"
    except ValueError as error:
        raise StoreError(f"{error} {_WAY_OUT}") from error


def require_known_kind(uri: str) -> None:
    """Raises StoreError for an address that no MLflow store is made for; asks no store."""
    from mlflow.tracking._tracking_service.utils import _tracking_store_registry
    from mlflow.tracking.registry import UnsupportedModelRegistryStoreURIException

    try:
        _tracking_store_registry.get_store_builder(uri)
    except UnsupportedModelRegistryStoreURIException as error:
        raise StoreError(f"Cannot use the MLflow store {redacted(uri)}: {error}. {_WAY_OUT}") from error


def open_store(tracking_uri: str | None = None, *, reading: bool = False) -> "MlflowClient":
    """Opens the store, and makes it on first use. A database of another version of MLflow stays as it is.

    Any number of processes may call this at once on a store that does not exist yet: a file lock lets one of them
    create the database. Two that did so together would break its migrations for good.

    Args:
        tracking_uri: As for `resolve_uri`.
        reading: Makes nothing, so that the store may be read-only, and has to be there.

    Raises:
        StoreError: The store cannot be created, opened or written, or its database is of another program. Nothing is
            changed.
    """
    from mlflow import MlflowClient

    uri = resolve_uri(tracking_uri)
    path = sqlite_path(uri)
    silence_database()
    if path is not None and reading and not path.exists():
        raise StoreError(
            f"There are no runs yet: there is no {path}. Start from the folder of the runs, or give --tracking-uri."
        )
    with _explained(uri):
        if uri in opened and (path is None or path.exists()):
            return MlflowClient(uri)
        require_answer(uri)
        with nullcontext() if reading else _locked(uri), no_stray_folder(uri):
            if path is not None:
                if path.is_dir():  # SQLite would be asked again and again
                    raise IsADirectoryError(f"{path} is a folder")
                if not reading:
                    path.touch(0o600)  # its user's alone; SQLite keeps the mode of a file that exists
            _require_current_tables(uri, reading=reading)
            client = MlflowClient(uri)  # already this creates the tables of a new database
            draw_apart()
            client.search_experiments(max_results=1)
        if path is not None and not reading and not os.access(path, os.W_OK):
            raise PermissionError(f"the file {path} is read-only")
    if not reading:
        opened.add(uri)
    return client


def ensure_experiment(client: "MlflowClient", name: str, artifact_location: str | None = None) -> str:
    """Identifier of the experiment called `name`, which is created where it does not exist.

    Artifacts of a local SQLite store go to `mlruns/` beside the database: for MLflow's default store that is where
    MLflow itself puts them, and a store elsewhere does not scatter files over the working folder. Where that folder is
    a file store of MLflow 2, they go to `mlartifacts/` beside it.

    Raises:
        StoreError: The experiment was deleted in MLflow, or the store cannot be written.
    """
    uri, name = client.tracking_uri, experiment_name(name)
    with _explained(uri), _locked(uri):
        experiment = client.get_experiment_by_name(name)
        if experiment is None:
            return client.create_experiment(name, artifact_location=artifact_location or _artifact_location(uri, name))
    if experiment.lifecycle_stage == "deleted":
        raise StoreError(
            f"Experiment {name!r} was deleted in {redacted(uri)}. Take another name, or restore it: "
            + mlflow_command(f"mlflow experiments restore -x {experiment.experiment_id}", uri)
        )
    return str(experiment.experiment_id)


def mlflow_command(command: str, uri: str) -> str:
    """A shell command that uses MLflow, so that it finds the store `uri`."""
    return command if uri == resolve_uri() else f"MLFLOW_TRACKING_URI={shlex.quote(redacted(uri))} {command}"


def local_artifact_dir(artifact_uri: str) -> Path | None:
    """Folder behind an artifact address on this machine; None where artifacts go through a server or cloud storage."""
    if artifact_uri.startswith("file:"):
        return Path(unquote(urlsplit(artifact_uri).path))
    return None if "://" in artifact_uri or artifact_uri.startswith("mlflow-artifacts:") else Path(artifact_uri)


def safe_name(name: str) -> str:
    """`name` as the name of one folder: users choose names, so no separators and no dots are left in it."""
    folder = re.sub(r"[^\w-]", "_", name)
    return folder if len(folder.encode()) <= _LONGEST_FOLDER else shortened(folder, _LONGEST_FOLDER // 4)


def lock_file(uri: str, *of: str) -> Path:
    """The file whose lock stands for a store, or for one thing in it that the words `of` name.

    It lies beside a database file. Other stores have no folder to put it in: one machine at least does not race with
    itself, and each user has a file, as no user may open another's.
    """
    path = sqlite_path(uri)
    digest = hashlib.sha256("\n".join([str(path or uri), *of]).encode()).hexdigest()[:16]
    if path is None:
        return Path(tempfile.gettempdir(), f"adaloss-{os.getuid()}-{digest}.lock")
    return path.with_name(f"{path.name}.{digest}.lock" if of else f"{path.name}.lock")


def _artifact_location(uri: str, name: str) -> str | None:
    path = sqlite_path(uri)
    if path is None:
        return None
    folder = path.parent / "mlruns"
    is_default = path.parent == Path.cwd()
    if any(folder.glob("*/meta.yaml")):  # MLflow lists every folder in there as an experiment
        folder, is_default = path.parent / "mlartifacts", False
    folder /= safe_name(name)
    if "%" in str(folder) or "?" in str(folder):
        return folder.as_uri()  # MLflow decodes a path too
    return None if is_default else str(folder)  # None is MLflow's default


@contextmanager
def no_stray_folder(uri: str) -> Iterator[None]:
    """Inside the block MLflow opens the store; the folder that it makes for a quoted address is removed afterwards."""
    path = sqlite_path(uri)
    folder = None if path is None else Path(uri.removeprefix(SQLITE)).parent
    is_stray = path is not None and folder is not None and folder.absolute() != path.parent and not folder.exists()
    try:
        yield
    finally:
        if is_stray and folder is not None:
            with suppress(OSError):
                folder.rmdir()


def _require_current_tables(uri: str, *, reading: bool) -> None:
    """Raises StoreError for a database that MLflow must not touch.

    MLflow would add its tables to another program's, and migrate those of an older MLflow, which then cannot open them.
    """
    from mlflow.store.db.db_types import DATABASE_ENGINES

    if urlsplit(uri).scheme.partition("+")[0] not in DATABASE_ENGINES:
        return
    from alembic.script import ScriptDirectory
    from mlflow.store.db import utils
    from mlflow.store.tracking.dbmodels.initial_models import Base
    from mlflow.version import VERSION
    from sqlalchemy import inspect

    engine = utils.create_sqlalchemy_engine(uri)
    try:
        tables, found = set(inspect(engine).get_table_names()), utils._get_schema_version(engine)
    finally:
        engine.dispose()
    if found is None or _FIRST_TABLE not in tables:
        if reading:
            raise StoreError(
                f"There are no runs yet: {redacted(uri)} is no MLflow database. Give another one with --tracking-uri."
            )
        # A process that was killed while it made the store leaves some of MLflow's first tables.
        if tables and (_FIRST_TABLE not in tables or tables - {*Base.metadata.tables, "alembic_version"}):
            raise StoreError(
                f"{redacted(uri)} is the database of another program: it has the tables {', '.join(sorted(tables)[:5])}"
                f"{' and more' if len(tables) > 5 else ''}. Set MLFLOW_TRACKING_URI to a database of its own."
            )
        return
    if found == utils._get_latest_schema_revision():
        return
    history = ScriptDirectory.from_config(utils._get_alembic_config(""))
    if found not in {revision.revision for revision in history.walk_revisions()}:
        raise StoreError(f"A newer MLflow than {VERSION} has made {redacted(uri)}. Install it: pip install -U mlflow")
    raise StoreError(
        f"An older MLflow than {VERSION} has made {redacted(uri)}, and cannot open it any more once it is upgraded. "
        f"Keep a copy, and upgrade it: mlflow db upgrade {shlex.quote(redacted(uri))}"
    )


@contextmanager
def _locked(uri: str) -> Iterator[None]:
    file = lock_file(uri)
    make_private(file.parent)
    with FileLock(file, mode=0o600):
        yield


@contextmanager
def _explained(uri: str) -> Iterator[None]:
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (OSError, ImportError, ValueError, MlflowException, SQLAlchemyError, NotImplementedError) as error:
        reason = one_line(error, uri)  # a missing driver, a port that cannot be, a file system without locks
        way_out = _WAY_OUT if sqlite_path(uri) else _WAY_OUT_OF_A_SERVER
        way_out = _WAY_IN if lacks_credentials(error) else way_out
        raise StoreError(f"Cannot use the MLflow store {redacted(uri)}: {reason.rstrip('.')}. {way_out}") from error


def make_private(folder: Path) -> None:
    """Makes a folder, and those above it that are not there, for its user alone; one that is there stays as it is.

    Raises:
        OSError: It cannot be made.
    """
    if not folder.is_dir():
        make_private(folder.parent)
        folder.mkdir(0o700, exist_ok=True)  # another process may have made it meanwhile
