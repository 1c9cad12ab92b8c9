"""The run in the store that the records of a spool belong to."""

import logging
import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock

from adaloss_lightning.tracking.address import redacted, sqlite_path
from adaloss_lightning.tracking.errors import one_line
from adaloss_lightning.tracking.logger.artifacts import Artifacts
from adaloss_lightning.tracking.logger.records import (
    End,
    Entries,
    Metrics,
    Params,
    Record,
    Running,
    Sample,
    StagedFiles,
    Tags,
    Text,
    halves,
    renamed,
)
from adaloss_lightning.tracking.logger.run_end import Status
from adaloss_lightning.tracking.logger.spool import Spool
from adaloss_lightning.tracking.logger.system_metrics import next_sample
from adaloss_lightning.tracking.names import entry_name, run_label
from adaloss_lightning.tracking.non_finite import merged
from adaloss_lightning.tracking.refusals import is_foreign, is_missing, is_refusal
from adaloss_lightning.tracking.retry import require_answer
from adaloss_lightning.tracking.store import (
    ensure_experiment,
    local_artifact_dir,
    lock_file,
    make_private,
    mlflow_command,
    open_store,
)
from adaloss_lightning.tracking.tags import NON_FINITE_TAG

if TYPE_CHECKING:
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

KEY_TAG = "adaloss.run_key"
USER_NAME, USER_TAG = "MLFLOW_TRACKING_USERNAME", "mlflow.user"
_CREATION_S = 30.0  # for another process that creates the same run; the next try follows
_TOO_LARGE = re.compile(r"\b413\b|too (large|long)", re.IGNORECASE)  # of a proxy before the server, as a rule


class RunGone(Exception):  # noqa: N818 - not an error of this program: a user deleted the run
    """The store is there, and will never take what is logged to this run."""


class StoredRun:
    """Finds or creates the run on the first `open`, and sends records to it.

    A run has a key of its own, `header["run_key"]`, from before any store has heard of it: it is a tag of the run, so
    that a creation whose answer was lost is found again and not repeated, and so that a checkpoint that was saved
    while the store was away still leads to its run.

    Args:
        spool: Its header says which run.
        uri: Address of the store, with the user name and password that a header never has.
        is_new: No process has tried to create this run before, so there is no need to look for it.
    """

    def __init__(self, spool: Spool, uri: str, *, is_new: bool = False) -> None:
        self.header, self.uri = spool.header, uri
        # Only the store knows the name of a run that was given by its identifier.
        self._name: str | None = None if self.header.get("run_id") else self.header.get("run_name")
        self.run_id: str | None = self.header.get("run_id") or spool.noted("run").get("run_id")
        self.experiment_id: str | None = None
        self.artifact_dir: Path | None = None
        self.rejected: list[str] = []
        self.is_open = False  # the store has answered, and has the run
        self.client: MlflowClient  # of the opened store
        self._spool, self._is_new = spool, is_new
        self._known_params: frozenset[str] | None = None  # of a run that others, or an earlier spool, log to as well
        self._first_sample = 0
        self._renamed: dict[str, str] = {}
        self._artifacts: Artifacts | None = None

    @property
    def label(self) -> str:
        """What messages call the run."""
        return run_label(self._name, self.run_id)

    def open(self) -> None:
        """Opens the store and the run; whatever it raises, it may be called again.

        Raises:
            RunGone: The run was deleted.
            StoreError: The store cannot be used.
            OSError: Nothing answers at its address.
        """
        require_answer(self.uri)
        client = open_store(self.uri)
        is_shared = self.run_id is not None or not self._is_new
        if (run := self._known(client)) is None:
            with self._creation():
                run = self._made_before(client) or self._create(client)
        self.run_id, self.experiment_id = str(run.info.run_id), str(run.info.experiment_id)
        self._name = run.info.run_name
        if run.info.lifecycle_stage == "deleted":
            raise self._deleted()
        if is_shared:
            self._known_params = frozenset(run.data.params)
        self.artifact_dir = local_artifact_dir(run.info.artifact_uri)
        if self.artifact_dir is not None and sqlite_path(self.uri) is not None:
            with suppress(OSError):  # what cannot be stored there is reported when it is to be stored
                make_private(self.artifact_dir)
        self._first_sample = self._spool.noted("run").get("first_sample", next_sample(run))
        self._spool.note("run", {"run_id": self.run_id, "first_sample": self._first_sample})
        self._artifacts = Artifacts(client, self.run_id, self.label, self._spool)
        self.client, self.is_open = client, True

    def _known(self, client: "MlflowClient") -> "Run | None":
        if self.run_id is None:
            return None
        try:
            return client.get_run(self.run_id)
        except Exception as error:
            if not is_missing(error):
                raise
            if not self.header.get("is_resumed"):
                raise RunGone(f"{self.label} is not in {redacted(self.uri)}") from error
            log.warning("The checkpoint's %s is not in %s: a new run starts.", self.label, redacted(self.uri))
        return None

    @contextmanager
    def _creation(self) -> Iterator[None]:
        # Of two processes that go on with one run, and find that no store has heard of it, one creates it.
        if self._is_new:
            yield
            return
        file = lock_file(self.uri, "run", self.header["run_key"])
        with FileLock(file, timeout=_CREATION_S, mode=0o600):
            yield
            file.unlink(missing_ok=True)  # who comes next finds the run, whichever file it locks

    def _made_before(self, client: "MlflowClient") -> "Run | None":
        experiment = None if self._is_new else client.get_experiment_by_name(self.header["experiment"])
        if experiment is None:
            return None
        query = f"tags.`{KEY_TAG}` = '{self.header['run_key']}'"
        return next(iter(client.search_runs([experiment.experiment_id], query, max_results=1)), None)

    def _create(self, client: "MlflowClient") -> "Run":
        header = self.header
        experiment_id = ensure_experiment(client, header["experiment"], header.get("artifact_location"))
        self._is_new = False  # from here on a run may be there, even if the answer does not arrive
        tags = header["tags"] | {KEY_TAG: header["run_key"]}
        if user := os.environ.get(USER_NAME):
            tags.setdefault(USER_TAG, user)
        return client.create_run(experiment_id, start_time=header["started"], tags=tags, run_name=header["run_name"])

    def send(self, records: Sequence[Record]) -> None:
        """Delivers one batch of a spool.

        Entries the store will never take (a parameter logged twice with two values, say) are set aside in `rejected`
        and hold up nothing. Nor does an artifact whose storage fails: it is `postponed`.

        Raises:
            RunGone: The run was deleted meanwhile.
            Exception: Whatever MLflow raises for a store that is away or fails: to be tried again.
        """
        entries = [self._as_stored(record) for record in records if isinstance(record, Entries)]
        entries = [record for record in entries if record.values]
        if entries:
            self._send_entries(entries)
        for record in records:
            if not isinstance(record, Entries):
                self._act(record)

    def _as_stored(self, record: Entries) -> Entries:
        if self._renamed:
            record = renamed(record, self._renamed)
        if isinstance(record, Sample):  # each process numbers its own samples; the run continues its numbers
            return Metrics(record.values, record.time, self._first_sample + record.number)
        if isinstance(record, Params) and self._known_params:
            # MLflow never changes a param: those that a continued run has stay as they are.
            return Params({key: value for key, value in record.values.items() if key not in self._known_params})
        if isinstance(record, Tags) and self._known_params is not None and NON_FINITE_TAG in record.values:
            earlier = self.client.get_run(str(self.run_id)).data.tags.get(NON_FINITE_TAG, "")
            return Tags({**record.values, NON_FINITE_TAG: merged(earlier, record.values[NON_FINITE_TAG])})
        return record

    def _send_entries(self, records: Sequence[Entries]) -> None:
        try:
            self._log_batch(records)
        except Exception as error:
            is_single = len(records) == 1 and len(records[0].values) == 1
            if not is_refusal(error) and not _TOO_LARGE.search(str(error)) and (is_single or not is_foreign(error)):
                raise
            if is_single:
                self._require_run(error)
                self._send_refused(records[0], error)
                return
            # Halving finds the culprit and delivers the rest.
            for half in halves(records):
                self._send_entries(half)

    def _log_batch(self, records: Sequence[Entries]) -> None:
        from mlflow.entities import Metric, Param, RunTag

        metrics = [(r, k, v) for r in records if isinstance(r, Metrics) for k, v in r.values.items()]
        params = [Param(key, value) for r in records if isinstance(r, Params) for key, value in r.values.items()]
        # The store refuses one tag twice in a call; the latest counts, as if they had come one by one.
        tags = {key: value for r in records if isinstance(r, Tags) for key, value in r.values.items()}
        self.client.log_batch(
            str(self.run_id),
            metrics=[Metric(key, value, record.time, record.step) for record, key, value in metrics],
            params=params,
            tags=[RunTag(key, value) for key, value in tags.items()],
            synchronous=True,
        )

    def _send_refused(self, record: Entries, error: Exception) -> None:
        """Sends an entry under a name that servers of MLflow 2 take too; without one, it is rejected."""
        ((key, value),) = record.values.items()
        plain = entry_name(key, plain=True)
        if plain != key:
            try:
                self._log_batch([renamed(record, {key: plain})])
            except Exception as second:
                if not is_refusal(second):
                    raise
            else:
                if not self._renamed:
                    log.warning("The MLflow store refuses names such as %r: in %s it is %r.", key, self.label, plain)
                self._renamed[key] = plain
                return
        self.rejected.append(f"{key}={str(value)[:100]!r} ({one_line(error, self.uri, 200)})")

    def _require_run(self, error: Exception) -> None:
        # A deleted run refuses each of a million entries, which must not be thrown away one by one.
        try:
            run = self.client.get_run(str(self.run_id))
        except Exception as missing:
            if not is_missing(missing):
                raise
            raise RunGone(f"{self.label} is not in {redacted(self.uri)}") from error
        if run.info.lifecycle_stage == "deleted":
            raise self._deleted() from error

    def _deleted(self) -> RunGone:
        restore = mlflow_command(f"mlflow runs restore --run-id {self.run_id}", self.uri)
        return RunGone(f"{self.label} was deleted. Restore it: {restore}")

    def _act(self, record: Running | End | Text | StagedFiles) -> None:
        if isinstance(record, Running):
            self.client.update_run(str(self.run_id), status=record.status)
        elif isinstance(record, End):
            self._terminate(record.status, record.time)
        elif self._artifacts is not None:
            try:
                self._artifacts.store(record)
            except Exception as error:
                self._require_run(error)  # raises too where the store itself is away: it is all tried again then
                if not is_refusal(error) and not isinstance(error, IsADirectoryError):
                    self._artifacts.postpone(record, error)
                else:
                    file = record.file if isinstance(record, Text) else ""
                    self.rejected.append(f"artifact {file!r} ({one_line(error, self.uri, 200)})")

    @property
    def postponed(self) -> int:
        """Number of artifacts that a failing storage has not taken yet."""
        return self._artifacts.waiting if self._artifacts is not None else 0

    @property
    def artifact_problem(self) -> str:
        """Why artifacts are postponed."""
        return self._artifacts.problem if self._artifacts is not None else ""

    def retry_artifacts(self, *, at_once: bool) -> None:
        """Tries postponed artifacts again: now, or if the last time is half a minute ago."""
        if self._artifacts is not None:
            self._artifacts.retry(at_once=at_once)

    def end_if_running(self, status: Status) -> None:
        """Gives the run `status`, if the store still says that it is running."""
        if self.client.get_run(str(self.run_id)).info.status == "RUNNING":
            self._terminate(status)

    def _terminate(self, status: Status, time: int | None = None) -> None:
        # MLflow prints the address of the run that has ended as it was given, and offers no other way to stop it. For
        # good: another thread may end a run meanwhile, and would print the password that this one has hidden.
        if redacted(self.uri) != self.uri:
            os.environ["MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT"] = "true"
        self.client.set_terminated(str(self.run_id), status, time)
