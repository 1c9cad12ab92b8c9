"""A run that is being logged: its identity, its spool, the thread that delivers it, and its end."""

import atexit
import logging
import os
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from threading import RLock, Thread
from typing import TYPE_CHECKING, Any

from adaloss_lightning.tracking.address import sqlite_path, storable
from adaloss_lightning.tracking.errors import one_line
from adaloss_lightning.tracking.logger.delivery import Delivery
from adaloss_lightning.tracking.logger.records import End, Header, Record, Running, Tags, now_ms
from adaloss_lightning.tracking.logger.recovery import OWNED, deliver_those_of
from adaloss_lightning.tracking.logger.resume import Place, RunState
from adaloss_lightning.tracking.logger.run_end import Status, status_of_script
from adaloss_lightning.tracking.logger.spool import Spool, spool_root, spool_roots
from adaloss_lightning.tracking.logger.stored_run import USER_NAME, USER_TAG, StoredRun
from adaloss_lightning.tracking.names import MAX_PARAM, MAX_TAG, StoredNames, plain_text, run_label, run_name
from adaloss_lightning.tracking.store import require_known_kind, safe_name

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

DROPPED_TAG, NAME_TAG = "dropped_metrics", "mlflow.runName"
_FILE_STORE_S = 30.0  # a new database takes a second; a locked one is not waited for any longer
_SERVER_S = 5.0
_starting = RLock()  # two threads that log first would begin two runs
os.register_at_fork(after_in_child=lambda: globals().update(_starting=RLock()))  # the parent's may be held


class TrackedRun:
    """Takes records from the first `put` on, in any store's absence; knows no Lightning.

    Args:
        uri: Address of the store.
        experiment: Its name.
        run_name: Name of a new run; None: `run-` and the start of its key.
        tags: Tags of a new run.
        run_id: Continues this run.
        artifact_location: Where artifacts of a new experiment go.
        resume: Asked until the run starts or is found: the `state` of the run to continue, or an empty one.
        goes_on: Asked once the run has ended: whether what is logged now is of a call that will end it again.
        patience: Seconds the end of the run waits for a store that does not move.
    """

    def __init__(
        self,
        uri: str,
        experiment: str,
        run_name: str | None,
        tags: Mapping[str, Any] | None,
        run_id: str | None,
        artifact_location: str | None,
        resume: Callable[[], RunState],
        goes_on: Callable[[], bool],
        patience: float,
    ) -> None:
        self.uri, self.experiment, self.run_name, self.tags = uri, experiment, run_name, tags
        self.run_id = run_id
        self.experiment_id: str | None = None
        self.stored_name = StoredNames()
        self.is_started = False
        self._artifact_location, self._resume, self._goes_on = artifact_location, resume, goes_on
        self._patience = patience
        self._root, self._roots = spool_root(), spool_roots()
        self._key = uuid.uuid4().hex
        self._is_new = run_id is None  # no process has tried to create the run yet
        self._is_resumed = False
        self._client: MlflowClient | None = None
        self._delivery: Delivery | None = None
        self._left: list[Delivery] = []  # of this run, that were not done when it ended
        self._last_end: End | None = None
        self._pid = os.getpid()
        self.is_in_progress = False  # this process has to say how the run ended, and has not yet
        self._has_waited = False

    def __getstate__(self) -> dict[str, Any]:
        # Another process gets the run, not this one's thread and files. While the store is away it will have to find
        # the run by its key.
        if self._delivery is not None:
            self.opened()
        is_new = self._is_new and not self.is_started
        own = {"_client": None, "_delivery": None, "is_started": False, "_is_new": is_new, "_pid": 0}
        return self.__dict__ | own | {"is_in_progress": False, "_left": []}

    @property
    def label(self) -> str:
        """What messages call the run."""
        return self._delivery.run.label if self._delivery is not None else run_label(self.run_name, self.run_id)

    @property
    def is_remote(self) -> bool:
        """Whether the store is anything else than a local file."""
        return sqlite_path(self.uri) is None

    @property
    def key(self) -> str:
        """What the run is found by, from before a store has numbered it: its tag `adaloss.run_key`."""
        if not self.is_started and not self._is_resumed and self.run_id is None:
            self.go_on(self._resume())
        return self._key

    @property
    def state(self) -> RunState:
        """What `go_on` needs to find this run again; asks no store."""
        run = self._delivery.run if self._delivery is not None else None
        run_id = self.run_id or (run.run_id if run else None)
        return {"run_key": self.key, "run_id": run_id, "tracking_uri": self.place[0], "experiment": self.place[1]}

    @property
    def place(self) -> Place:
        """The store and the experiment."""
        return storable(self.uri), self.experiment

    def go_on(self, state: RunState) -> None:
        """Continues the run of a `state`; without effect once this one has started, or was given a `run_id`."""
        if state and not self.is_started and self.run_id is None:
            self.run_id, self._is_new, self._is_resumed = state.get("run_id"), False, True
            self._key = state.get("run_key") or self._key

    @property
    def staging_dir(self) -> Path:
        """Folder for artifacts that cannot be written to the store's own; the same when the run is resumed."""
        return self._root / "artifacts" / safe_name(self.experiment) / self.key / "files"

    def start(self, *, to_end: bool = False) -> Delivery:
        """Begins delivering, the first time and after an end; talks to no store in this thread.

        Args:
            to_end: What follows is an end alone.

        Raises:
            StoreError: MLflow has no store for such an address. Nothing is written.
        """
        if self._delivery is not None and self._last_end is None and self._pid == os.getpid():
            return self._delivery
        with _starting:
            return self._start(to_end=to_end)

    def _start(self, *, to_end: bool) -> Delivery:
        is_again = self._last_end is not None and not to_end and self._goes_on()
        begins = is_again or not self.is_started
        if self._delivery is None or self._pid != os.getpid():  # a forked process has no thread to deliver
            require_known_kind(self.uri)
            header = self._header(is_owner=begins)  # before the rest: it may find the run that a checkpoint continues
            spool = Spool.create(self._root, header)
            run = StoredRun(spool, self.uri, is_new=self._is_new and not self.is_started)
            self._delivery = Delivery(spool, run, when_open=self._deliver_leftovers)
            self.is_in_progress, self._has_waited = False, False  # the end is another's where this process was forked
            if self._last_end is not None and not begins and any(not left.has_arrived for left in self._left):
                # A spool's end does not count while the run has another spool: that one has to know it too.
                self._delivery.put(self._last_end)
        if begins:
            if is_again or self.run_id is not None:
                self._delivery.put(Running())
            if not self._delivery.spool.header["is_owner"]:  # something was logged since the end
                self._delivery.spool.note(OWNED, {"is_owner": True})
            self.is_in_progress, self._last_end = True, None
            atexit.register(self._end_at_exit)  # after the delivery's own, and so called before it
        self.is_started, self._pid = True, os.getpid()
        return self._delivery

    def _end_at_exit(self) -> None:
        """Ends the run of a script that logs and just ends, or dies of an exception, without a Trainer to say so."""
        if self.is_in_progress and self._delivery is not None and self._pid == os.getpid():
            self._delivery.put(End(status_of_script(), now_ms()))

    def _header(self, *, is_owner: bool) -> Header:
        from mlflow.tracking.context.registry import resolve_tags

        tags = {str(key): str(value) for key, value in resolve_tags(self.tags).items()}
        name = self.run_name or tags.get(NAME_TAG) or f"run-{self.key[:8]}"
        tags.pop(NAME_TAG, None)  # MLflow refuses a run with two names
        if tags.get(USER_TAG) == os.environ.get(USER_NAME):  # it belongs to a password; the creation of the run adds it
            tags.pop(USER_TAG, None)
        return {
            "tracking_uri": storable(self.uri),
            "lacks_password": storable(self.uri) != self.uri,
            "experiment": self.experiment,
            "artifact_location": self._artifact_location,
            # MLflow would draw a name from Python's random numbers, which are training's, and the same for a seed.
            "run_name": run_name(name),
            "tags": stored_tags(tags, self.stored_name),
            "started": now_ms(),
            "run_key": self.key,
            "run_id": self.run_id,
            "is_resumed": self._is_resumed,
            "staged": str(self.staging_dir),
            # Whether the run is over if this process dies: not if it had ended, and only some more is logged to it.
            "is_owner": is_owner,
        }

    def _deliver_leftovers(self) -> None:
        with suppress(RuntimeError):  # Python 3.12 starts no thread once the process ends
            Thread(target=deliver_those_of, args=(self.uri, self._roots), name="mlflow-leftovers", daemon=True).start()

    def put(self, record: Record) -> None:
        """Takes a record and returns at once."""
        self.start().put(record)

    def opened(self) -> StoredRun | None:
        """The run in the store, after one short wait for the store's first answer; None while it is away."""
        if self._delivery is None and self._left and not self._left[-1].has_arrived:
            return None
        if self._left:
            self.run_id = self.run_id or self._left[-1].run.run_id
        delivery = self.start()
        longest = 0.0 if self._has_waited else _SERVER_S if self.is_remote else _FILE_STORE_S
        self._has_waited = True
        if not delivery.wait_until_tried(longest):
            return None
        self.run_id, self.experiment_id = delivery.run.run_id, delivery.run.experiment_id
        return delivery.run

    def client(self) -> "MlflowClient | None":
        """A client of the store; None while a local store cannot be opened.

        Raises:
            StoreError: MLflow has no store for such an address.
        """
        from mlflow.tracking import MlflowClient

        require_known_kind(self.uri)
        if self._client is None and self.uri.startswith("http"):
            self._client = MlflowClient(self.uri)  # connects in each call, not before
        elif self._client is None and (run := self.opened()) is not None:
            self._client = run.client
        return self._client

    def flush(self, timeout: float | None) -> bool:
        """Waits until everything put so far is in the store; False after `timeout` seconds."""
        limit = None if timeout is None else time.monotonic() + timeout
        is_parents = self._pid != os.getpid()  # whose thread a forked process does not have
        here = [] if self._delivery is None or is_parents else [self._delivery]
        done = [one.flush(None if limit is None else max(0.0, limit - time.monotonic())) for one in self._left + here]
        return all(done)

    def drain(self) -> bool:
        """Waits for as long as the store takes records; whether it has all."""
        return self._delivery is None or self._delivery.drain(self._patience)

    def end(self, status: Status) -> None:
        """Delivers what is left and ends the run; reports what the store did not take, and raises nothing."""
        delivery = self.start(to_end=True)
        self.is_in_progress = False
        atexit.unregister(self._end_at_exit)
        if delivery.spool.dropped:
            delivery.put(Tags({DROPPED_TAG: str(delivery.spool.dropped)}))
        self._last_end = End(status, now_ms())
        delivery.put(self._last_end)
        if not (self.is_remote or self._has_waited):
            delivery.wait_until_tried(_FILE_STORE_S)  # while a file is opened, nothing is taken
        if delivery.drain(self._patience):
            # What is logged from here on starts a new spool.
            self.run_id, self.experiment_id = delivery.run.run_id, delivery.run.experiment_id
            delivery.close()
            self._delivery = None
        else:
            error = delivery.last_error
            reason = delivery.run.artifact_problem or (one_line(error, self.uri) if error else "it does not answer")
            log.warning(
                "The MLflow store does not have all of %s (%s), which has ended. Records left: %d. %s",
                delivery.run.label,
                reason,
                delivery.pending,
                delivery.promise,
            )
            if delivery.spool.folder is not None and not delivery.spool.in_memory:
                delivery.leave()
                self._left.append(delivery)
                self._delivery = None
        delivery.report_rejected()


def stored_tags(tags: Mapping[str, Any], stored_name: StoredNames) -> dict[str, str]:
    """Tags as every database holds them; values that are cut are reported."""
    texts = {stored_name(str(key)): plain_text(str(value)) for key, value in tags.items()}
    if NAME_TAG in texts:
        texts[NAME_TAG] = run_name(texts[NAME_TAG])  # MLflow gives the run this name
    return _cut(texts, MAX_TAG, "Tags are cut to the %d characters that MLflow's databases hold: %s")


def stored_params(params: Mapping[str, Any], stored_name: StoredNames) -> dict[str, str]:
    """Params as MLflow takes them; values that are cut are reported."""
    texts = {stored_name(str(key)): plain_text(str(value)) for key, value in params.items()}
    return _cut(texts, MAX_PARAM, "Params are cut to the %d characters that MLflow takes: %s")


def _cut(texts: dict[str, str], limit: int, report: str) -> dict[str, str]:
    cut = [key for key, value in texts.items() if len(value) > limit]
    if cut:
        log.warning(report, limit, ", ".join(cut))
    return {key: value[:limit] for key, value in texts.items()}
