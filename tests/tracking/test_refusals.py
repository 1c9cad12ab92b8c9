"""What a store refuses for good, and trouble of its database that passes and loses nothing."""

from collections.abc import Callable, Iterator

import pytest
import sqlalchemy
from mlflow.exceptions import MlflowException, RestException
from mlflow.protos.databricks_pb2 import BAD_REQUEST, RESOURCE_DOES_NOT_EXIST, UNAUTHENTICATED
from mlflow.tracking import MlflowClient
from sqlalchemy.engine import Engine
from sqlalchemy.exc import DataError, IntegrityError, InternalError, SQLAlchemyError

from adaloss_lightning.tracking import BufferedMLFlowLogger
from adaloss_lightning.tracking.refusals import is_final, is_missing, is_refusal, lacks_credentials
from adaloss_lightning.tracking.retry import Patience
from tests.tracking.test_logger import only_run


class Trouble:
    """What SQLAlchemy raises for each statement that writes, an exhausted pool for any other too, and how often."""

    def __init__(self) -> None:
        self.error: SQLAlchemyError | None = None
        self.raised = 0

    def __call__(self, connection: object, cursor: object, statement: str, *rest: object) -> None:
        if self.error is POOL or (self.error is not None and statement.startswith(("INSERT", "UPDATE"))):
            self.raised += 1
            raise self.error


@pytest.fixture
def trouble() -> Iterator[Trouble]:
    trouble = Trouble()
    sqlalchemy.event.listen(Engine, "before_cursor_execute", trouble)
    yield trouble
    sqlalchemy.event.remove(Engine, "before_cursor_execute", trouble)


def raised_by(driver: str, name: str, text: str, kind: type[SQLAlchemyError] = InternalError) -> SQLAlchemyError:
    """An exception of SQLAlchemy around one of a driver."""
    inner = type(name, (Exception,), {"__module__": driver})(text)
    return kind("INSERT INTO metrics VALUES (?)", (1,), inner)  # type: ignore[call-arg]


POOL = sqlalchemy.exc.TimeoutError("QueuePool limit of size 5 overflow 10 reached, connection timed out, timeout 30.00")
READ_ONLY = raised_by("psycopg2.errors", "ReadOnlySqlTransaction", "cannot execute INSERT in a read-only transaction")
PASSING = [
    POOL,
    READ_ONLY,
    raised_by("psycopg2.errors", "UndefinedTable", 'relation "metrics" does not exist'),
    sqlalchemy.exc.ResourceClosedError("This Connection is closed"),
]
OF_VALUES = [
    raised_by("sqlite3", "IntegrityError", "FOREIGN KEY constraint failed", IntegrityError),
    raised_by("psycopg2.errors", "NumericValueOutOfRange", "integer out of range", DataError),
    raised_by("psycopg.errors", "StringDataRightTruncation", "value too long for type", DataError),
    raised_by("pymysql.err", "DataError", "(1406, \"Data too long for column 'value'\")", DataError),
    raised_by("builtins", "ValueError", "A string literal cannot contain NUL", sqlalchemy.exc.DBAPIError),
]


def as_mlflow_raises(error: SQLAlchemyError, *, by_server: bool) -> MlflowException:
    """As MLflow's stores raise it, or its client after a tracking server's answer."""
    if by_server:
        return RestException({"error_code": "BAD_REQUEST", "message": str(error)})
    try:
        raise MlflowException(error, BAD_REQUEST) from error  # type: ignore[arg-type]  # so does MLflow
    except MlflowException as raised:
        return raised


@pytest.mark.parametrize("by_server", [True, False])
def test_a_database_refuses_values_and_everything_else_passes(by_server: bool) -> None:
    for error in PASSING:
        answer = as_mlflow_raises(error, by_server=by_server)
        assert [is_refusal(answer), is_final(answer), is_missing(answer)] == [False] * 3, error
    for error in OF_VALUES:
        answer = as_mlflow_raises(error, by_server=by_server)
        assert [is_refusal(answer), is_final(answer), is_missing(answer)] == [True, True, False], error


def test_answers_that_are_not_of_a_database_are_what_they_say() -> None:
    missing = MlflowException("no run", RESOURCE_DOES_NOT_EXIST)
    assert [is_refusal(missing), is_final(missing), is_missing(missing)] == [True] * 3
    of_a_proxy = MlflowException("API request failed with error code 400 != 200", BAD_REQUEST)
    assert [is_refusal(of_a_proxy), is_final(of_a_proxy), is_missing(of_a_proxy)] == [True, True, False]
    stranger = MlflowException("who are you?", UNAUTHENTICATED)
    assert [is_refusal(stranger), is_final(stranger), lacks_credentials(stranger)] == [False, True, True]
    assert [is_refusal(OSError()), is_final(OSError()), lacks_credentials(OSError())] == [False] * 3


def have_trouble(logger: BufferedMLFlowLogger, trouble: Trouble, error: SQLAlchemyError) -> None:
    """Until the store has failed more than once, and what is logged has not arrived."""
    trouble.error = error
    for step in range(1, 21):
        logger.log_metrics({"a": float(step)}, step)
    while trouble.raised < 2:
        assert not logger.flush(0.1)
    trouble.error = None
    assert logger.flush()
    logger.finalize("success")


@pytest.mark.parametrize("error", [READ_ONLY, POOL])
def test_what_is_logged_while_the_database_is_in_trouble_arrives_afterwards(
    client: MlflowClient, trouble: Trouble, error: SQLAlchemyError
) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"a": 0.0}, 0)
    assert logger.flush()
    have_trouble(logger, trouble, error)
    run = only_run(client)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "a")] == list(range(21))
    assert run.info.status == "FINISHED"


@pytest.mark.parametrize("is_resumed", [True, False])
def test_a_run_that_cannot_be_asked_for_is_not_gone(
    client: MlflowClient, trouble: Trouble, is_resumed: bool, caplog: pytest.LogCaptureFixture
) -> None:
    first = BufferedMLFlowLogger("x")
    first.log_metrics({"a": 0.0}, 0)
    first.finalize("success")
    again = BufferedMLFlowLogger("x", run_id=None if is_resumed else first.run_id)
    again.continue_run(first.run_state)
    have_trouble(again, trouble, POOL)
    run = only_run(client)
    assert [point.step for point in client.get_metric_history(run.info.run_id, "a")] == list(range(21))
    assert "is not in" not in caplog.text


def test_a_sweep_waits_for_a_database_in_trouble(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adaloss_lightning.tracking.retry._FIRST_PAUSE_S", 0.0)
    answers: list[Callable[[], str]] = [lambda: "done"]

    def fail() -> str:
        raise as_mlflow_raises(READ_ONLY, by_server=True)

    answers.append(fail)
    assert Patience(client.tracking_uri)(lambda: answers.pop()()) == "done"
