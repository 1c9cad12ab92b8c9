"""Artifacts of a run on their way to a storage that may fail while the store itself works."""

import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING

from adaloss_lightning.tracking.errors import one_line
from adaloss_lightning.tracking.logger.batch import Record
from adaloss_lightning.tracking.logger.mirror import Mirror, RefusedFilesError, is_refused
from adaloss_lightning.tracking.logger.spool import Spool

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

_NOTE = "artifacts"
_RETRY_S = 30.0


class Artifacts:
    """Stores texts and what `Mirror` follows; what the storage does not take waits here, and holds up no metric.

    A server often keeps artifacts elsewhere: in a bucket for which this machine lacks a library, a password or a route.
    What waits is noted in the spool, and tried again from time to time and by later processes.

    Args:
        client: Client of the store.
        run_id: The run.
        label: What messages call it.
        staged: Folder whose files are artifacts; "" for none.
        spool: Keeps the notes.
    """

    def __init__(self, client: "MlflowClient", run_id: str, label: str, staged: str, spool: Spool) -> None:
        self.problem = ""
        self._client, self._run_id, self._label, self._spool = client, run_id, label, spool
        self._mirror = Mirror(client, run_id, Path(staged), spool) if staged else None
        self._waiting: list[Record] = spool.noted(_NOTE).get("waiting", [])
        self._next_try = 0.0

    @property
    def waiting(self) -> int:
        """Number of records that wait."""
        return len(self._waiting)

    def store(self, record: Record) -> None:
        """Stores what the record says.

        Raises:
            Exception: Whatever MLflow, or the library of the storage, raises.
        """
        if "text" in record:
            self._client.log_text(self._run_id, record["text"], record["file"])
        elif self._mirror is not None:
            self._mirror.update()

    def postpone(self, record: Record, error: Exception) -> None:
        """Lets the record wait; the first one that does is reported."""
        self.problem = one_line(error, self._client.tracking_uri)
        if not self._waiting:
            log.warning(
                "Cannot store artifacts of %s (%s: %s). Everything else is delivered. %s",
                self._label,
                type(error).__name__,
                self.problem,
                self._spool.promise("when their storage takes them"),
            )
        if record not in self._waiting:
            self._waiting.append(record)
            self._spool.note(_NOTE, {"waiting": self._waiting})
        self._next_try = time.monotonic() + _RETRY_S

    def retry(self, *, at_once: bool) -> None:
        """Tries what waits again, unless that was done a short while ago; what fails goes on waiting."""
        if not self._waiting or (time.monotonic() < self._next_try and not at_once):
            return
        for record in list(self._waiting):
            try:
                self.store(record)
            except Exception as error:  # of whatever library the storage needs
                self.postpone(record, error)
                if isinstance(error, RefusedFilesError) or is_refused(error):
                    continue  # it is this file's alone
                return
            self._waiting.remove(record)
            self._spool.note(_NOTE, {"waiting": self._waiting})
