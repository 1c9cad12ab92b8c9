"""State of the process, changed for a while: environment variables, attributes, output."""

import contextlib
import io
import logging
import os
import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO


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


_DRAWING = (
    "mlflow.utils.request_utils",
    "mlflow.telemetry.client",
    "mlflow.store.tracking.sqlalchemy_store",
    "urllib3.util.retry",
)


class _OfADatabase(logging.Filter):
    """Drops the four lines that greet a new database, and the traceback of a failing call beside its exception."""

    def filter(self, record: logging.LogRecord) -> bool:
        is_traceback = record.exc_info and str(record.msg).startswith("SQLAlchemy database error")
        return record.levelno >= logging.WARNING and not is_traceback


_OF_A_DATABASE = _OfADatabase()


def silence_database() -> None:
    """From here on MLflow raises what a locked or full database says, and prints it no more.

    For good, and not for a while: stores are opened by threads, and what belongs to the whole process (levels,
    warning filters) cannot be put back by one of them while the others change it too.
    """
    for name in ("mlflow.store.db.utils", "alembic.runtime.migration"):
        logging.getLogger(name).addFilter(_OF_A_DATABASE)


def draw_apart() -> None:
    """From here on MLflow's retries and its telemetry draw random numbers of their own.

    Python's are the training's, and a thread that delivers would draw from them at any moment.
    """
    for name in _DRAWING:
        if getattr(module := sys.modules.get(name), "random", None) is random:
            setattr(module, "random", random.Random())  # noqa: B010  # mypy knows what the module has


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


class _Quiet(io.TextIOBase):
    """Writes to `output` for a while, then to what there was before: a handler that logs may keep it for good."""

    def __init__(self, output: io.StringIO, afterwards: TextIO) -> None:
        self.stream: TextIO = output
        self.afterwards = afterwards

    def write(self, text: str) -> int:
        return self.stream.write(text)

    def flush(self) -> None:
        self.stream.flush()


@contextmanager
def quiet(output: io.StringIO) -> Iterator[None]:
    """Inside the block, what is printed goes to `output`, and Lightning's notices and all warnings nowhere.

    A run by hand shows them. A sweep of sixty runs would say each sixty times, across its progress bar.
    """
    streams = [_Quiet(output, stream) for stream in (sys.stdout, sys.stderr)]
    with (
        logging_from(logging.ERROR, "lightning.pytorch", "lightning.fabric", "pytorch_lightning"),
        warnings.catch_warnings(),
        contextlib.redirect_stdout(streams[0]),
        contextlib.redirect_stderr(streams[1]),
    ):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            for stream in streams:
                stream.stream = stream.afterwards
