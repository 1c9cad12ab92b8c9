"""Where runs live."""

import shutil
import socket
import sqlite3
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow.store.db import utils
from mlflow.store.tracking.dbmodels.initial_models import Base
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import make_url

from adaloss_lightning.tracking import BufferedMLFlowLogger, StoreError, ensure_experiment, open_store, resolve_uri
from adaloss_lightning.tracking.address import redacted, sqlite_path, without_secrets, without_user_info
from adaloss_lightning.tracking.errors import one_line
from adaloss_lightning.tracking.retry import require_answer
from adaloss_lightning.tracking.store import local_artifact_dir, lock_file
from tests.ports import free_port
from tests.tracking.training import runs_of


def test_each_user_has_a_lock_of_his_own_for_a_server(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = "http://127.0.0.1:1"
    mine = lock_file(server)
    monkeypatch.setattr("os.getuid", lambda: 4711)
    assert "4711" in lock_file(server).name
    assert lock_file(server) != mine
    assert len({lock_file(server), lock_file(server, "sweep", "a"), lock_file(server, "sweep", "b")}) == 3
    assert lock_file("sqlite:///a.db") == folder / "a.db.lock"
    assert lock_file("sqlite:///a.db", "sweep").parent == folder


def test_the_default_is_what_mlflow_itself_takes(folder: Path, client: MlflowClient) -> None:
    ours = open_store()
    assert resolve_uri() == ours.tracking_uri == client.tracking_uri == f"sqlite:///{folder}/mlflow.db"
    experiment = client.get_experiment(ensure_experiment(ours, "x"))
    assert experiment.artifact_location == f"{folder}/mlruns/{experiment.experiment_id}"
    assert ensure_experiment(open_store(), "x") == experiment.experiment_id
    assert [e.name for e in client.search_experiments()].count("x") == 1


def test_address_is_an_argument_or_the_variable_or_the_default(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "mlruns").mkdir()
    for name in ("README.md", ".gitignore"):  # what git keeps there makes no file store of it
        (folder / "mlruns" / name).write_text("")
    assert resolve_uri() == f"sqlite:///{folder}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:///variable.db")
    assert resolve_uri() == f"sqlite:///{folder}/variable.db"
    assert resolve_uri("sqlite:///argument.db") == f"sqlite:///{folder}/argument.db"
    assert resolve_uri("http://host:1") == "http://host:1"


def test_artifacts_of_a_store_elsewhere_lie_beside_it(folder: Path, client: MlflowClient) -> None:
    (folder / "far").mkdir()
    (folder / "mlflow.db").rename(folder / "far" / "mlflow.db")
    store = open_store("sqlite:///far/mlflow.db")
    for name in ("demo", "../../up", ".."):
        location = Path(store.get_experiment(ensure_experiment(store, name)).artifact_location).resolve()
        assert location.parent == folder / "far" / "mlruns"
    assert not list(folder.glob("mlruns"))


@pytest.mark.parametrize("name", ["job_feature%2Flogin", "50%20off", "what?", "100%"])
def test_the_store_lies_in_a_folder_of_any_name(
    name: str, folder: Path, empty_database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, beside = folder / "top" / name, folder / "top" / "other"
    for place in (here, beside):
        place.mkdir(parents=True)
    shutil.copy(empty_database, here / "mlflow.db")
    monkeypatch.chdir(here)
    first = BufferedMLFlowLogger("exp")
    monkeypatch.chdir(beside)
    uri = first.tracking_uri
    loggers = [
        first,
        BufferedMLFlowLogger("exp", tracking_uri=uri),
        BufferedMLFlowLogger("another", save_dir=str(here)),
    ]
    for logger in loggers:
        assert resolve_uri(logger.tracking_uri) == logger.tracking_uri == uri
        assert sqlite_path(uri) == here / "mlflow.db"
        logger.log_metrics({"a": 1.0}, 0)
        logger.log_text("x", "note.txt")
        logger.finalize("success")
        local = MlflowClient(uri).download_artifacts(str(logger.run_id), "note.txt")
        assert Path(local).read_text() == "x"
    with sqlite3.connect(here / "mlflow.db") as database:
        found = {run_id for (run_id,) in database.execute("select run_uuid from metrics")}
    assert found == {logger.run_id for logger in loggers}
    assert len(list((here / "mlruns").rglob("note.txt"))) == 3
    assert {path.name for path in (folder / "top").iterdir()} == {name, "other"}
    assert not [path for path in beside.rglob("*") if path.suffix in (".db", ".txt")]


_OPEN = """
import sys, time
from pathlib import Path
from adaloss_lightning.tracking.store import ensure_experiment, open_store
Path(sys.argv[1]).touch()
while not Path("go").exists():
    time.sleep(0.001)
client = open_store()
run = client.create_run(ensure_experiment(client, "together"))
client.log_metric(run.info.run_id, "m", float(sys.argv[1]))
"""


@pytest.mark.process
def test_several_processes_may_open_a_new_store_at_once(folder: Path) -> None:
    # Without the lock this ends in "table _alembic_tmp_... already exists", and the store is broken for good.
    processes = [
        subprocess.Popen([sys.executable, "-c", _OPEN, str(number)], stderr=subprocess.PIPE) for number in range(3)
    ]
    while not all((folder / str(number)).exists() for number in range(3)):
        time.sleep(0.1)
        assert all(process.poll() is None for process in processes)
    assert not (folder / "mlflow.db").exists()
    (folder / "go").touch()
    errors = [process.communicate()[1].decode() for process in processes]
    assert [process.returncode for process in processes] == [0] * 3, errors
    client = open_store()
    values = [run.data.metrics["m"] for run in runs_of(client, "together")]
    assert sorted(values) == [0.0, 1.0, 2.0]


@pytest.mark.parametrize("tables", ["users, metrics", "alembic_version", "experiments, users", "metrics"])
@pytest.mark.parametrize("reading", [True, False])
def test_the_database_of_another_program_is_left_alone(folder: Path, tables: str, reading: bool) -> None:
    file = folder / "users.db"
    with sqlite3.connect(file) as database:
        for table in tables.split(", "):
            database.execute(f"create table {table} (version_num)")
            database.execute(f"insert into {table} values ('theirs')")
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"users\.db is no MLflow database" if reading else "of another program"):
        open_store("sqlite:///users.db", reading=reading)
    assert file.read_bytes() == before


def test_an_empty_file_is_read_as_it_is_and_becomes_a_store_when_it_is_written(folder: Path) -> None:
    (folder / "mlflow.db").touch()
    with pytest.raises(StoreError, match="There are no runs yet"):
        open_store(reading=True)
    assert (folder / "mlflow.db").stat().st_size == 0
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{folder}/mlflow.db")
    Base.metadata.tables["experiments"].create(engine)  # a process was killed while it made the store
    engine.dispose()
    ensure_experiment(open_store(), "x")
    assert open_store(reading=True).get_experiment_by_name("x") is not None


def test_the_settings_of_an_address_are_kept(folder: Path) -> None:
    uri = f"sqlite:///{folder}/mlflow.db?timeout=60"
    assert resolve_uri("sqlite:///mlflow.db?timeout=60") == resolve_uri(uri) == uri
    assert lock_file(uri, "sweep") == lock_file("sqlite:///mlflow.db", "sweep")
    client = open_store(uri)
    assert [one.name for one in client.search_experiments()] == ["Default"]
    assert {path.name for path in folder.iterdir()} == {"mlflow.db", "mlflow.db.lock"}
    assert stat.S_IMODE((folder / "mlflow.db").stat().st_mode) == 0o600  # its user's alone


def test_a_deleted_experiment_says_how_to_get_it_back(client: MlflowClient) -> None:
    identifier = ensure_experiment(open_store(), "gone")
    client.delete_experiment(identifier)
    with pytest.raises(StoreError, match=f"mlflow experiments restore -x {identifier}"):
        ensure_experiment(open_store(), "gone")


def test_a_database_without_its_driver_is_one_line(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(StoreError, match="No module named 'pymysql'"):
            open_store(f"mysql+pymysql://127.0.0.1:{port}/db")


PAGE = "<html>\r\n<head><title>413</title></head>\r\n<body>nginx</body>\r\n</html>\r\n"
IN_URI = "postgresql://me:secret@db/x?password=hush&sslmode=require"


@pytest.mark.parametrize(
    ("error", "uri", "line"),
    [
        (
            OSError(f"API request to {IN_URI}\n failed"),
            IN_URI,
            "API request to postgresql://***@db/x?password=***&sslmode=require failed",
        ),
        (TimeoutError(), IN_URI, "TimeoutError"),
        (
            OSError(f"413 Client Error: Too Large for url: http://x/a. Response text: {PAGE}; b.bin: too large"),
            "http://x",
            "413 Client Error: Too Large for url: http://x/a; b.bin: too large",
        ),
    ],
)
def test_error_is_one_line_without_passwords_and_pages(error: Exception, uri: str, line: str) -> None:
    assert one_line(error, uri) == line


@pytest.mark.parametrize(
    ("uri", "shown", "without_user"),
    [
        ("postgresql://me:secret@host:5/db", "postgresql://***@host:5/db", "postgresql://host:5/db"),
        ("postgresql://db/x?user=me&password=secret", "postgresql://db/x?user=me&password=***", None),
        ("http://me:secret@host:5/a@b", "http://***@host:5/a@b", "http://host:5/a@b"),
        ("http://me:se/cret@host:5", "http://***@host:5", "http://host:5"),  # leads nowhere, and is shown all the same
        (
            "postgresql+psycopg2://me:se/cret@db.example/m",
            "postgresql+psycopg2://***@db.example/m",
            "postgresql+psycopg2://db.example/m",
        ),
        (
            "postgresql://me:se#cret@db/m?password=hush",
            "postgresql://***@db/m?password=***",
            "postgresql://db/m?password=hush",
        ),
        ("postgresql://me:se?cret@[::1]:5/m", "postgresql://***@[::1]:5/m", "postgresql://[::1]:5/m"),
        ("sqlite:////a/mlflow.db", "sqlite:////a/mlflow.db", None),
    ],
)
def test_address_is_shown_without_passwords(uri: str, shown: str, without_user: str | None) -> None:
    assert redacted(uri) == shown
    assert without_user_info(uri) == (without_user or uri)
    assert without_secrets(f"at {uri}: no", uri) == f"at {shown}: no"


def test_database_that_does_not_answer_is_named_whatever_its_password_has(folder: Path) -> None:
    port = free_port()
    uri = f"postgresql+psycopg2://me:se/c#r?et@127.0.0.1:{port}/m"
    assert make_url(uri).port == port  # what SQLAlchemy connects to
    with pytest.raises(OSError, match=f"nothing answers at 127.0.0.1:{port}"):
        require_answer(uri)


def test_address_says_whether_its_store_and_artifacts_are_local(folder: Path) -> None:
    assert sqlite_path("sqlite:///a%20b.db?timeout=5") == folder / "a b.db"  # as SQLAlchemy reads it
    for uri in ("sqlite://", "http://h:5000/?a=b", "postgresql+psycopg2://u:pw@/db?host=/tmp"):
        assert sqlite_path(uri) is None
    assert local_artifact_dir("file:///a/b%20c") == Path("/a/b c")
    assert local_artifact_dir("/a/b") == Path("/a/b")
    for uri in ("mlflow-artifacts:/1/2", "s3://bucket/1"):
        assert local_artifact_dir(uri) is None


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("sqlite:///file/mlflow.db", r"sqlite:////.*/file/mlflow\.db: .*MLFLOW_TRACKING_URI"),
        ("sqlite:///file", r"sqlite:////.*/file: "),  # no database
        ("http://127.0.0.1:99999", r"127\.0\.0\.1:99999: Port out of range 0-65535\. Start the server"),
        ("nosuch://me:secret@host/db", r"nosuch://\*\*\*@host/db"),
    ],
)
def test_store_that_cannot_be_used_is_one_line_and_left_as_it_is(folder: Path, uri: str, message: str) -> None:
    (folder / "file").write_text("a letter to my aunt" * 1000)
    with pytest.raises(StoreError, match=message) as caught:
        open_store(uri)
    assert "\n" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert (folder / "file").read_text() == "a letter to my aunt" * 1000
