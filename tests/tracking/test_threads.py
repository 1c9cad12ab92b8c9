"""Training and the threads of its logger share one process: what they must not do to each other."""

import contextlib
import io
import logging
import os
import random
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import urllib3
from mlflow.tracking import MlflowClient
from mlflow.utils.request_utils import JitteredRetry

from adaloss_lightning.tracking import BufferedMLFlowLogger
from adaloss_lightning.tracking.logger import opening, tracked_run
from adaloss_lightning.tracking.logger.delivery import Delivery
from adaloss_lightning.tracking.logger.journal import Journal
from adaloss_lightning.tracking.logger.recovery import waiting
from adaloss_lightning.tracking.logger.spool import Spool
from adaloss_lightning.tracking.logger.stored_run import StoredRun
from adaloss_lightning.tracking.temporarily import quiet
from tests.limits import HANG_S, wait_for
from tests.tracking.test_logger import only_run
from tests.tracking.test_spool import points, spool_of
from tests.tracking.training import runs_of


def in_a_thread(call: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    return thread


def functions_of(thread: threading.Thread) -> list[str]:
    """Names of the functions that a thread is in."""
    frame = sys._current_frames().get(thread.ident or 0)
    return [entry.name for entry in traceback.extract_stack(frame)]


@pytest.mark.parametrize("address", ["sqlite:///new.db", "http://127.0.0.1:1"])
def test_the_threads_of_a_logger_leave_the_filters_of_warnings_alone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, address: str
) -> None:
    """They are one for all threads: what a thread puts back late undoes what the training has set meanwhile."""
    entered: list[threading.Thread] = []
    enter = warnings.catch_warnings.__enter__

    def noted(self: warnings.catch_warnings) -> object:
        entered.append(threading.current_thread())
        return enter(self)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(warnings.catch_warnings, "__enter__", noted)
    logger = BufferedMLFlowLogger("x", tracking_uri=address, finalize_timeout=0.5)
    logger.log_metrics({"a": 1.0})
    logger.finalize("success")
    assert set(entered) <= {threading.main_thread()}
    # Nor is a new database greeted with four lines of its migration.
    assert not [record for record in caplog.records if record.name.startswith(("mlflow.store.db", "alembic"))]


def test_what_threads_do_draws_no_random_number_of_the_training(client: MlflowClient) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"a": 1.0})
    logger.finalize("success")
    random.seed(1)
    before = random.getstate()
    for retry in (JitteredRetry, urllib3.Retry):  # MLflow's, for an old urllib3 and for a new one
        tried = retry(total=9, backoff_factor=1, backoff_jitter=1.0)
        for _ in range(3):
            tried = tried.increment(error=OSError())
            tried.get_backoff_time()
    assert random.getstate() == before


def test_an_end_in_the_middle_of_a_record_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the handler of a signal does it, such as Lightning's for a job that SLURM requeues."""
    spool, _ = spool_of(folder / "root", [])
    write = Journal.write
    first, second = points(2)

    def interrupted(journal: Journal, line: bytes) -> None:
        monkeypatch.setattr(Journal, "write", write)
        spool.append(second)
        spool.close(delete=False)
        journal.write(line)

    monkeypatch.setattr(Journal, "write", interrupted)
    thread = in_a_thread(lambda: spool.append(first))
    thread.join(HANG_S)
    assert not thread.is_alive()
    assert (spool.appended, spool.in_memory) == (2, 1)  # the file is closed


def test_a_record_that_was_interrupted_is_not_waited_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spool, _ = spool_of(folder / "root", [])

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Journal, "write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        spool.append(points(1)[0])
    assert (spool.appended, spool.read().records) == (0, [])


def test_a_process_is_not_forked_while_a_store_is_opened(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child would have the locks of modules and of MLflow, and not the thread that holds them."""
    begun, forking, opened = threading.Event(), threading.Event(), threading.Event()
    os.register_at_fork(before=forking.set)  # called before those that were registered earlier
    original = StoredRun.open

    def slowly(run: StoredRun) -> None:
        begun.set()
        assert forking.wait(HANG_S)
        original(run)
        opened.set()

    monkeypatch.setattr(StoredRun, "open", slowly)
    monkeypatch.setattr(opening, "FORK_S", HANG_S)
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"a": 1.0})
    assert begun.wait(HANG_S)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12: this process has threads
        child = os.fork()
    if child == 0:
        os._exit(0 if opened.is_set() else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    logger.finalize("success")


def test_two_threads_that_log_first_begin_one_run(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    both, created = threading.Barrier(2), []
    create = tracked_run.Spool.create

    def together(*args: object) -> Spool:
        with contextlib.suppress(threading.BrokenBarrierError):
            both.wait(0.2)  # for the other one, where both come here
        created.append(create(*args))
        return created[-1]

    monkeypatch.setattr(tracked_run.Spool, "create", together)
    logger = BufferedMLFlowLogger("x")
    threads = [in_a_thread(lambda step=step: logger.log_metrics({"a": float(step)}, step)) for step in range(2)]
    for thread in threads:
        thread.join(HANG_S)
    logger.finalize("success")
    assert len(created) == 1
    assert sorted(point.value for point in client.get_metric_history(only_run(client).info.run_id, "a")) == [0.0, 1.0]


def test_what_another_thread_logs_at_the_end_is_kept(client: MlflowClient, monkeypatch: pytest.MonkeyPatch) -> None:
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"a": 1.0}, 0)
    drain = Delivery.drain

    def then_log(ours: Delivery, patience: float) -> bool:
        monkeypatch.setattr(Delivery, "drain", drain)
        done = drain(ours, patience)
        ours.is_stopped = True  # the thread takes no more, as a moment later
        ours.flush(0.0)
        for thread in deliveries:
            thread.join(HANG_S)
        logger.log_metrics({"a": 2.0}, 1)
        return done

    deliveries = [thread for thread in threading.enumerate() if thread.name == "mlflow-delivery"]
    monkeypatch.setattr(Delivery, "drain", then_log)
    logger.finalize("success")
    assert len(waiting()) == 1


def test_a_thread_that_waits_for_a_store_is_told_that_the_run_has_ended(folder: Path) -> None:
    logger = BufferedMLFlowLogger("x", tracking_uri="http://127.0.0.1:1", finalize_timeout=0.5)
    logger.log_metrics({"a": 1.0})
    waiting_for_it = in_a_thread(logger.flush)
    wait_for(lambda: "wait_for" in functions_of(waiting_for_it))
    logger.finalize("success")
    waiting_for_it.join(HANG_S)
    assert not waiting_for_it.is_alive()


def test_a_process_that_ends_starts_no_thread_and_says_nothing_of_it(
    client: MlflowClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr(tracked_run, "Thread", refuse)
    logger = BufferedMLFlowLogger("x")
    logger.log_metrics({"a": 1.0})
    logger.finalize("success")
    assert len(runs_of(client, "x")) == 1
    assert caplog.text == ""


def test_a_handler_made_while_a_sweep_is_quiet_reports_afterwards(capsys: pytest.CaptureFixture[str]) -> None:
    printed = io.StringIO()
    logger = logging.getLogger("a user's module")
    with quiet(printed):
        handler = logging.StreamHandler()
        logger.addHandler(handler)
        logger.warning("while it is read")
    logger.warning("while it trains")
    logger.removeHandler(handler)
    assert printed.getvalue() == "while it is read\n"
    assert capsys.readouterr().err == "while it trains\n"
