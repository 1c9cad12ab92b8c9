"""The end of a run: its status in MLflow, and SIGTERM as an exception so that it is known."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal

from lightning.pytorch.utilities.exceptions import SIGTERMException

Status = Literal["FINISHED", "FAILED", "KILLED"]


def status_of(error: BaseException | None) -> Status:
    """MLflow status of a run that ended with `error`.

    KILLED means that somebody stopped it: Ctrl-C or SIGTERM. Lightning turns Ctrl-C into `SystemExit`, with the
    KeyboardInterrupt as its context.
    """
    if error is None or (isinstance(error, SystemExit) and not isinstance(error, SIGTERMException) and not error.code):
        return "FINISHED"
    return "KILLED" if was_stopped(error) else "FAILED"


def was_stopped(error: BaseException | None) -> bool:
    """Whether Ctrl-C or SIGTERM, and not a fault, is behind `error`."""
    if isinstance(error, SystemExit) and not isinstance(error, SIGTERMException):
        error = error.__context__
    return isinstance(error, KeyboardInterrupt | SIGTERMException)


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside the block, SIGTERM raises Lightning's `SIGTERMException` at once, not first at the end of a batch.

    By default the signal ends the process on the spot, and its run would stay RUNNING for ever. Lightning calls the
    handler it finds after its own. A handler somebody else has set, and threads other than the main one, are left
    alone.
    """
    mine = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) in (
        signal.SIG_DFL,
        None,
    )
    if not mine:
        yield
        return
    signal.signal(signal.SIGTERM, _raise_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise_sigterm(signum: int, frame: FrameType | None) -> None:
    # A second signal must not tear up the clean-up that the first one started.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SIGTERMException(128 + signum)
