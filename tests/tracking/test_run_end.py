"""The precedence table of logger/run_end.py, row by row; other tests end real runs."""

import signal
import sys
from collections.abc import Callable

import pytest
from lightning.pytorch.utilities.exceptions import SIGTERMException

from adaloss_lightning.tracking import sigterm_raises
from adaloss_lightning.tracking.logger.run_end import (
    Status,
    status_of,
    status_of_fit,
    status_of_lost,
    status_of_script,
    status_to_deliver,
)  # fmt: skip


def during(context: BaseException, error: BaseException) -> BaseException:
    """The error as raised while another one is handled."""
    error.__context__ = context
    return error


ERRORS: list[tuple[BaseException | None, Status]] = [
    (None, "FINISHED"),
    (SystemExit(), "FINISHED"),
    (SystemExit(0), "FINISHED"),
    (SystemExit(3), "FAILED"),
    (SystemExit("no such file"), "FAILED"),
    (ValueError(), "FAILED"),
    (during(KeyboardInterrupt(), ValueError()), "FAILED"),  # a fault while it was stopped
    (KeyboardInterrupt(), "KILLED"),
    (SIGTERMException(143), "KILLED"),
    (SIGTERMException(), "KILLED"),
    (during(KeyboardInterrupt(), SystemExit(1)), "KILLED"),  # what Lightning makes of Ctrl-C
    (during(KeyboardInterrupt(), SystemExit(0)), "FINISHED"),  # a script that ends well after it
    (during(ValueError(), SystemExit(1)), "FAILED"),
]


@pytest.mark.parametrize(("error", "status"), ERRORS)
def test_status_is_that_of_what_was_raised(
    error: BaseException | None, status: Status, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert status_of(error) == status
    monkeypatch.setattr(sys, "last_value", error, raising=False)
    assert status_of_script() == status
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    assert status_of_script() == "FINISHED"  # an error in a session's earlier cell
    if error is not None:
        try:
            raise error
        except BaseException:
            assert status_of_fit("failed") == status
            assert status_of_fit("success") == "FINISHED"


def test_status_of_a_fit_that_failed_without_an_exception_is_failed() -> None:
    assert (status_of_fit("failed"), status_of_fit("success")) == ("FAILED", "FINISHED")


@pytest.mark.parametrize("given", ["FAILED", "KILLED", "Failed", "killed", "FINISHED"])
def test_mlflows_own_word_for_an_end_is_taken_as_it_is(given: str) -> None:
    assert status_of_fit(given) == given.upper()


WHO: dict[tuple[bool, bool], Callable[[str], str | None]] = {  # a sweep has decided, another process goes on
    (True, True): lambda said: None,
    (True, False): lambda said: None,
    (False, True): lambda said: None,
    (False, False): lambda said: None if said == "RUNNING" else said,
}


@pytest.mark.parametrize("said", ["RUNNING", "FINISHED", "FAILED", "KILLED"])
@pytest.mark.parametrize(("is_settled", "has_successor"), WHO)
def test_status_in_a_spool_counts_unless_a_sweep_or_another_process_decides(
    said: Status, is_settled: bool, has_successor: bool
) -> None:
    expected = WHO[is_settled, has_successor](said)
    assert status_to_deliver(said, is_settled=is_settled, has_successor=has_successor) == expected
    for is_owner in (True, False):
        lost = status_of_lost(is_owner=is_owner, is_settled=is_settled, has_successor=has_successor)
        assert lost == ("KILLED" if (is_owner, is_settled, has_successor) == (True, False, False) else None)


def test_sigterm_raises_only_inside_the_block() -> None:
    with sigterm_raises(), pytest.raises(SIGTERMException):
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
