"""State of the process, changed for a while: environment variables, attributes, output."""

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Inside the block the variables have these values, in the whole process; afterwards those they had before."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


@contextmanager
def replaced(owner: object, name: str, value: object) -> Iterator[None]:
    """Inside the block, `owner` has another attribute of this name."""
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


class _NoTraceback(logging.Filter):
    """Drops the traceback that MLflow logs for every failing call of a database, beside the exception it raises."""

    def filter(self, record: logging.LogRecord) -> bool:
        return not (record.exc_info and str(record.msg).startswith("SQLAlchemy database error"))


_NO_TRACEBACK = _NoTraceback()


def silence_database_tracebacks() -> None:
    """From here on MLflow raises what a locked or full database says, and prints it no more."""
    logging.getLogger("mlflow.store.db.utils").addFilter(_NO_TRACEBACK)


@contextmanager
def logging_from(level: int, *names: str) -> Iterator[None]:
    """Inside the block, these loggers report what has this level or a higher one."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.setLevel(before)


@contextmanager
def quiet(output: io.StringIO) -> Iterator[None]:
    """Inside the block, what is printed goes to `output`, and Lightning's notices and all warnings nowhere.

    A run by hand shows them. A sweep of sixty runs would say each sixty times, across its progress bar.
    """
    with (
        logging_from(logging.ERROR, "lightning.pytorch", "lightning.fabric", "pytorch_lightning"),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        warnings.simplefilter("ignore")
        yield
