"""Entries of a run on their way to the store: kept in memory, delivered in batches by a thread of its own."""

import atexit
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from mlflow.entities import Metric, Param, RunTag
    from mlflow.tracking import MlflowClient

    Entry: TypeAlias = Metric | Param | RunTag

# What MLflow takes in one log_batch: 1000 entries, of them at most 100 params and 100 tags.
MAX_ENTRIES = 1000
MAX_PARAMS_OR_TAGS = 100
_FIRST_RETRY_S, _LAST_RETRY_S = 0.2, 30.0
_PERMANENT = {"INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "PERMISSION_DENIED"}


class Delivery:
    """Takes entries without ever waiting and hands them, in order, to `send` on a daemon thread.

    A `send` that fails is repeated, with growing pauses, until it succeeds or the process ends. Entries the store will
    never take (a parameter logged twice with two values, say) are set aside in `rejected` and hold up nothing.

    Args:
        send: Delivers a list of at most 1000 entries in one call.
        interval: Seconds the thread collects entries before it delivers them.
    """

    def __init__(self, send: "Callable[[Sequence[Entry]], None]", interval: float = 0.5) -> None:
        self.rejected: list[str] = []
        self.last_error: Exception | None = None
        self._send = send
        self._interval = interval
        self._queue: deque[Entry] = deque()
        self._accepted = self._settled = 0
        self._changed = threading.Condition()
        self._hurry = self._stopping = False
        self._thread: threading.Thread | None = None

    def put(self, entries: "Sequence[Entry]") -> None:
        """Appends `entries`; returns at once. Not after `close`."""
        with self._changed:
            if self._stopping:
                raise RuntimeError("This delivery is closed. Make a new one.")
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mlflow-delivery", daemon=True)
                self._thread.start()
                atexit.register(self.close)
            self._queue.extend(entries)
            self._accepted += len(entries)
            self._changed.notify_all()

    @property
    def pending(self) -> int:
        """Number of entries not yet delivered."""
        return self._accepted - self._settled

    def flush(self, timeout: float | None = None) -> bool:
        """Waits until everything put so far is delivered.

        Args:
            timeout: Seconds to wait at most; None waits for as long as it takes.

        Returns:
            True when nothing put before this call is left, False after `timeout`.
        """
        with self._changed:
            target, self._hurry = self._accepted, True
            self._changed.notify_all()
            return self._changed.wait_for(lambda: self._settled >= target, timeout)

    def close(self, timeout: float = 5.0) -> bool:
        """Flushes, and ends the thread whether or not that worked; returns what `flush` did."""
        atexit.unregister(self.close)
        done = self.flush(timeout)
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        return done

    def _work(self) -> None:
        pause = _FIRST_RETRY_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping)
                if self._stopping:
                    return
                self._changed.wait_for(
                    lambda: self._hurry or self._stopping or len(self._queue) >= MAX_ENTRIES, self._interval
                )
                batch = self._next_batch()
            try:
                self._deliver(batch)
                pause = _FIRST_RETRY_S
            except Exception as error:  # whatever it is, it must not end the thread: the training depends on it
                self.last_error = error
                with self._changed:
                    self._hurry = False
                    self._changed.wait_for(lambda: self._hurry or self._stopping, pause)
                pause = min(2 * pause, _LAST_RETRY_S)
                continue
            with self._changed:
                for _ in batch:
                    self._queue.popleft()
                self._settled += len(batch)
                self._hurry = self._hurry and bool(self._queue)
                self._changed.notify_all()

    def _next_batch(self) -> "list[Entry]":
        """The longest head of the queue that one call takes; it leaves the queue only once it is delivered."""
        from mlflow.entities import Metric

        batch: list[Entry] = []
        others = 0
        for entry in self._queue:
            others += not isinstance(entry, Metric)
            if others > MAX_PARAMS_OR_TAGS or len(batch) == MAX_ENTRIES:
                break
            batch.append(entry)
        return batch

    def _deliver(self, batch: "Sequence[Entry]") -> None:
        try:
            self._send(batch)
        except Exception as error:
            if not _is_permanent(error):
                raise
            if len(batch) == 1:
                self.rejected.append(f"{batch[0].key}={batch[0].value!r} ({_first_line(error)})")
                return
            # Halving finds the culprit and delivers the rest. A metric sent twice, when a later half fails for
            # another reason, is stored once: MLflow keys a metric by name, time, step and value.
            self._deliver(batch[: len(batch) // 2])
            self._deliver(batch[len(batch) // 2 :])


def batch_sender(client: "MlflowClient", run_id: str) -> "Callable[[Sequence[Entry]], None]":
    """`send` of a Delivery: one `log_batch` to the run `run_id`."""
    from mlflow.entities import Metric, Param, RunTag

    def send(batch: "Sequence[Entry]") -> None:
        client.log_batch(
            run_id,
            metrics=[entry for entry in batch if isinstance(entry, Metric)],
            # The store refuses one name twice in a call; the latest tag counts, as if they had come one by one.
            params=[entry for entry in batch if isinstance(entry, Param)],
            tags=list({entry.key: entry for entry in batch if isinstance(entry, RunTag)}.values()),
            synchronous=True,
        )

    return send


def now_ms() -> int:
    """Milliseconds since the epoch, as MLflow stamps its metrics."""
    return int(time.time() * 1000)


def _is_permanent(error: Exception) -> bool:
    return getattr(error, "error_code", None) in _PERMANENT


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]
