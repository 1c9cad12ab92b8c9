"""The thread that takes records from a run's spool to the store."""

import atexit
import logging
import os
import threading
import time
from collections.abc import Callable
from functools import cache

from adaloss_lightning.tracking.address import redacted, sqlite_path
from adaloss_lightning.tracking.errors import one_line
from adaloss_lightning.tracking.logger.opening import opening
from adaloss_lightning.tracking.logger.records import Record
from adaloss_lightning.tracking.logger.recovery import OVER, deliver
from adaloss_lightning.tracking.logger.spool import Spool
from adaloss_lightning.tracking.logger.stored_run import RunGone, StoredRun

log = logging.getLogger(__name__)

_INTERVAL_S = 5.0  # in which records are collected before they are delivered
_FIRST_RETRY_S, _LAST_RETRY_S, _DRAINING_RETRY_S = 0.2, 30.0, 0.5
_SHARE_IF_FAILING = 0.2
_EXIT_FILE_S, _EXIT_SERVER_S = 30.0, 5.0
_TICK_S = 0.05
SILENCE_S = 60.0  # between two reports of one store's failures
_open: "set[Delivery]" = set()  # of this process
os.register_at_fork(after_in_child=_open.clear)  # they are the parent's: a child has none of the threads


class Delivery:
    """Delivers what is appended to `spool`, in order, on a daemon thread; nothing here waits but `flush` and `drain`.

    A store that fails is tried again, with growing pauses, until it takes the records or the process ends. An outage is
    reported once, and not more than one in a minute.

    Args:
        spool: Where the records are.
        run: Where they go.
        when_open: Called on the thread once the store has answered.

    Attributes:
        last_error: What the store did last instead of taking records.
        attempts: Number of deliveries, successful or not.
        is_failing: Whether the last one failed.
        is_stopped: Whether the thread delivers no more of what is put.
        is_given_up: Whether this process tries no more to deliver a spool that was left.
    """

    def __init__(self, spool: Spool, run: StoredRun, when_open: Callable[[], None] | None = None) -> None:
        self.spool, self.run = spool, run
        self.last_error: Exception | None = None
        self.attempts = self._moved = 0  # moved: records of a spool that was left
        self.is_failing = self.is_stopped = self.is_given_up = False
        self._when_open = when_open
        self._pause = _FIRST_RETRY_S
        self._is_reported = self._is_draining = self._is_left = self._has_ended = False
        self._reported_at = -SILENCE_S
        self._wake = threading.Event()
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="mlflow-delivery", daemon=True)
        self._thread.start()
        _open.add(self)
        _close_all_at_exit()

    def put(self, record: Record) -> None:
        """Appends a record; returns at once. The thread looks for it by itself: waking it would cost time here."""
        self.spool.append(record)

    @property
    def pending(self) -> int:
        """Number of records not yet delivered, postponed artifacts among them."""
        return max(0, self.spool.appended - self.spool.settled) + self.run.postponed

    @property
    def is_stuck(self) -> bool:
        """Whether the store fails, or takes everything but artifacts, whose storage fails."""
        return self.is_failing or (self.run.postponed > 0 and self.spool.settled == self.spool.appended)

    def wait_until_tried(self, timeout: float) -> bool:
        """Waits until the store was asked once; returns whether the run is open."""
        with self._changed:
            self._changed.wait_for(lambda: self.run.is_open or self.attempts > 0 or self.is_stopped, timeout)
        return self.run.is_open

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until everything put so far is delivered.

        Args:
            timeout: Seconds to wait at most; None waits for as long as it takes.

        Returns:
            True when nothing put before this call is left, False after `timeout`, or when the run is gone.
        """
        self._wake.set()
        if self._is_left:
            self._thread.join(timeout)
            return self.has_arrived
        target = self.spool.appended
        with self._changed:
            self._changed.wait_for(lambda: self._has_delivered(target) or self.is_stopped, timeout)
        return self._has_delivered(target)

    def _has_delivered(self, count: int) -> bool:
        return self.spool.settled >= count and not self.run.postponed

    def drain(self, patience: float) -> bool:
        """Waits for as long as the store takes records.

        Args:
            patience: Seconds without a batch delivered after which it gives up; a fifth of them for a store that fails.

        Returns:
            True when all are delivered.
        """
        tried, settled, since = self.attempts, -1, time.monotonic()
        self._is_draining = True
        self._wake.set()
        with self._changed:
            while self.pending and not self.is_stopped:
                if self.spool.settled != settled:
                    settled, since = self.spool.settled, time.monotonic()
                share = _SHARE_IF_FAILING if self.is_stuck and self.attempts > tried else 1.0
                if time.monotonic() - since >= patience * share:
                    break
                self._changed.wait(min(_TICK_S, patience))
        self._is_draining = False
        return not self.pending

    def close(self, patience: float | None = None) -> bool:
        """Drains and ends the thread; the spool is deleted if that worked and kept otherwise. Returns which.

        Args:
            patience: As for `drain`. None: longer for a local file, which a busy machine may take seconds to open.
        """
        _open.discard(self)
        if patience is None:
            patience = _EXIT_SERVER_S if sqlite_path(self.run.uri) is None else _EXIT_FILE_S
        if self._is_left:
            return self._close_left(patience)
        done = self.drain(patience)
        with self._changed:
            self.is_stopped = True
            self._changed.notify_all()
        self._wake.set()
        self._thread.join(None if done else _TICK_S)
        done = done and not self.pending  # another thread may have logged meanwhile
        if not self._thread.is_alive():  # in the middle of a call it keeps the spool until the process ends
            self.spool.close(delete=done)
        if not done and self.spool.in_memory:
            log.warning("%d records of %s are lost: neither the store nor the disk took them.",
                        self.spool.in_memory, self.run.label)  # fmt: skip
        return done

    def _close_left(self, patience: float) -> bool:
        # What several runs have left for one store is waited for together: a process ends as fast as with one of them.
        same = [one for one in {self, *_open} if one._is_left and one.run.uri == self.run.uri]
        left = [one for one in same if not one.is_given_up]
        for one in left:
            one._wake.set()
        limit = patience * (_SHARE_IF_FAILING if any(one.is_failing for one in left) else 1.0)
        moved, since = -1, time.monotonic()
        while (alive := [one for one in left if one._thread.is_alive()]) and time.monotonic() - since < limit:
            alive[0]._thread.join(_TICK_S)
            if (now := sum(one._moved for one in left)) != moved:
                moved, since = now, time.monotonic()
        for one in left:
            one.is_given_up = True
            one._wake.set()
        return self.has_arrived

    def leave(self) -> None:
        """Leaves the spool to the first who can deliver it: this thread, which goes on trying, or another process.

        For a run that logs no more, and a spool that has all of it on disk.
        """
        self.spool.note(OVER, {"is_over": True})
        with self._changed:
            self._is_left = self.is_stopped = True
            has_ended = self._has_ended
            self._changed.notify_all()
        self._wake.set()
        if has_ended:  # the run is gone
            self.spool.close(delete=False)

    @property
    def has_arrived(self) -> bool:
        """Whether a spool that was left is delivered, by this process or another one."""
        return self.spool.folder is None or not self.spool.folder.exists()

    def _work(self) -> None:
        self._deliver_until_stopped()
        with self._changed:
            self._has_ended = True
            is_left = self._is_left
        if is_left:
            self.spool.close(delete=not self.pending)
            self._deliver_what_is_left()
            _open.discard(self)

    def _deliver_until_stopped(self) -> None:
        while not self.is_stopped:
            try:
                self._deliver()
            except RunGone as gone:
                self._give_up(gone)
                return
            except Exception as error:  # whatever it is, it must not end the thread, which training depends on
                self._note_failure(error)
                self._wake.wait(min(self._pause, _DRAINING_RETRY_S) if self._is_draining else self._pause)
                self._pause = min(2 * self._pause, _LAST_RETRY_S)
            else:
                self._wake.wait(_INTERVAL_S)
            self._wake.clear()

    def _deliver_what_is_left(self) -> None:
        folder = self.spool.folder
        while folder is not None and folder.exists() and not self.is_given_up:
            delivered = deliver(folder, self.run.uri, self._note_progress)
            if delivered is not None:  # no other process is at it
                self.is_failing = bool(delivered.problem)
                self.run.run_id = delivered.run_id
                if delivered.rejected:
                    self.run.rejected = delivered.rejected
                    self.report_rejected()
            if folder.exists():
                self._wake.wait(self._pause)
                self._wake.clear()
                self._pause = min(2 * self._pause, _LAST_RETRY_S)

    def _note_progress(self, records: int) -> None:
        self._moved += records

    def _deliver(self) -> None:
        if not self.run.is_open:
            with opening:
                self.run.open()
            self._tell(is_failing=False)
            if self._when_open is not None:
                self._when_open()
        while not self.is_stopped and (batch := self.spool.read()).records:
            self.run.send(batch.records)
            self.spool.advance(batch)
            self._tell(is_failing=False)
        if self.run.postponed:
            self.run.retry_artifacts(at_once=self._is_draining)
            self._tell(is_failing=False)  # the store itself answers

    def _tell(self, *, is_failing: bool) -> None:
        with self._changed:
            self.attempts += 1
            self.is_failing = is_failing
            if not is_failing:
                self._pause, self._is_reported = _FIRST_RETRY_S, False
            self._changed.notify_all()

    def _note_failure(self, error: Exception) -> None:
        self.last_error = error
        self.spool.give_back()
        if not self._is_reported and time.monotonic() - self._reported_at >= SILENCE_S:
            self._is_reported, self._reported_at = True, time.monotonic()
            log.warning(
                "The MLflow store %s does not take what %s logs (%s). Training goes on. %s",
                redacted(self.run.uri),
                self.run.label,
                one_line(error, self.run.uri),
                self.promise,
            )
        self._tell(is_failing=True)

    @property
    def promise(self) -> str:
        """Where the records wait, and what that is worth."""
        if isinstance(self.last_error, RunGone):
            return self.spool.promise("when the store has the run", by_this_process=False)
        return self.spool.promise("when the store is back")

    def report_rejected(self) -> None:
        """Reports what the store refused, if it did."""
        if self.run.rejected:
            refused = "; ".join(self.run.rejected)
            log.warning("The MLflow store did not take everything of %s: %s", self.run.label, refused)

    def _give_up(self, gone: RunGone) -> None:
        self.last_error = gone
        log.warning("MLflow: %s. What it still logs is kept in %s.", gone, self.spool.folder or "memory")
        self.is_stopped = True
        self._tell(is_failing=True)


def close_all(patience: float | None = None) -> None:
    """Ends all deliveries of this process, as its own end does; `patience` as for `Delivery.close`."""
    for delivery in list(_open):
        delivery.close(patience)


@cache
def _close_all_at_exit() -> None:
    # Before the first run registers what it does at the end of the process, so that this is done after it.
    atexit.register(close_all)
