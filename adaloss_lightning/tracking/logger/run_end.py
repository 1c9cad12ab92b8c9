"""The end of a run: its status in MLflow, who decides it, and which of two decisions wins.

| | who decides | status | wins over |
|---|---|---|---|
| 1 | a sweep, about its points (`is_settled`) | `status_of` what the point raised | all below |
| 2 | another process that continues the run (`has_successor`) | its own end, by this table | all below |
| 3 | `finalize` and `hold` of the logger | `status_of_fit`, `status_of` | 4 and 5 |
| 4 | the end of a script without either | `status_of_script` | 5 |
| 5 | whichever process delivers what a killed one left | KILLED, if the store still has RUNNING | |

FINISHED: nothing was raised. KILLED: Ctrl-C, SIGTERM or SIGKILL. FAILED: anything else.
"""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Literal, TypeGuard

Status = Literal["FINISHED", "FAILED", "KILLED"]


def status_of(error: BaseException | None) -> Status:
    """Status of a run that ended with `error`."""
    if error is None or (_is_exit(error) and not error.code):
        return "FINISHED"
    return "KILLED" if was_stopped(error) else "FAILED"


def was_stopped(error: BaseException | None) -> bool:
    """Whether Ctrl-C or SIGTERM, and not a fault, is behind `error`.

    Lightning turns Ctrl-C into `SystemExit`, with the KeyboardInterrupt as its context.
    """
    if _is_exit(error):
        error = error.__context__
    return isinstance(error, KeyboardInterrupt) or (isinstance(error, SystemExit) and not _is_exit(error))


def _is_exit(error: BaseException | None) -> TypeGuard[SystemExit]:
    # Late: spools are delivered without Lightning.
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    return isinstance(error, SystemExit) and not isinstance(error, SIGTERMException)


def status_of_fit(outcome: str) -> Status:
    """Status of a run whose trainer, or caller, finalizes the logger with `outcome`.

    Lightning calls Ctrl-C, SIGTERM and faults alike "failed", from within the exception's handler. FAILED and KILLED,
    MLflow's own words, are taken as they are.
    """
    if outcome != "failed":
        given = outcome.upper()
        return "FAILED" if given == "FAILED" else "KILLED" if given == "KILLED" else "FINISHED"
    error = sys.exc_info()[1]
    return "FAILED" if error is None else status_of(error)


def status_of_script() -> Status:
    """Status of a run whose process ends now. An uncaught exception ends a script, but not a session at a prompt."""
    return status_of(None if hasattr(sys, "ps1") else getattr(sys, "last_value", None))


def status_to_deliver(
    recorded: Status | Literal["RUNNING"], *, is_settled: bool, has_successor: bool
) -> Status | Literal["RUNNING"] | None:
    """Status that the spool of a process that has ended gives to its run; None: the run keeps what it has.

    Args:
        recorded: Status in the spool. A RUNNING of a process that has ended is stale.
        is_settled: A sweep has decided how the run ended.
        has_successor: Another process continues the run, or has more of it to deliver.
    """
    return None if recorded == "RUNNING" or is_settled or has_successor else recorded


def status_of_lost(*, is_owner: bool, is_settled: bool, has_successor: bool) -> Status | None:
    """Status of a run that still is RUNNING when all that its ended process logged is delivered.

    Args:
        is_owner: The run was over when that process ended.
        is_settled: As for `status_to_deliver`.
        has_successor: As for `status_to_deliver`.
    """
    return "KILLED" if is_owner and not is_settled and not has_successor else None


@contextmanager
def sigterm_raises() -> Iterator[None]:
    """Inside the block, SIGTERM raises Lightning's `SIGTERMException` at once, not first at the end of a batch.

    By default the signal ends the process on the spot, and its run would stay RUNNING for ever. Lightning calls the
    handler it finds after its own. A handler of the caller's, and threads other than the main one, are left alone.
    """
    is_main = threading.current_thread() is threading.main_thread()
    if not is_main or signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, None):
        yield
        return
    signal.signal(signal.SIGTERM, _raise_sigterm)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _raise_sigterm(signum: int, frame: FrameType | None) -> None:
    from lightning.pytorch.utilities.exceptions import SIGTERMException

    # A second signal must not tear up the clean-up that the first one started.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise SIGTERMException(128 + signum)
