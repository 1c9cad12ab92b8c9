"""Artifacts of a run on their way to a storage that may fail while the store itself works."""

import contextlib
import json
import logging
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from requests import HTTPError

from adaloss_lightning.tracking.errors import one_line
from adaloss_lightning.tracking.logger.records import StagedFiles, Text, from_json, to_json
from adaloss_lightning.tracking.logger.spool import Spool, write_private

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

_WAITING, _UPLOADED = "artifacts", "mirrored"  # names of notes
_RETRY_S = 30.0


class Artifacts:
    """Stores texts and staged files; what the storage does not take waits here, and holds up no metric.

    A server often keeps artifacts elsewhere: in a bucket for which this machine lacks a library, a password or a route.
    What waits is noted in the spool, and tried again from time to time and by later processes.

    Args:
        client: Client of the store.
        run_id: The run.
        label: What messages call it.
        spool: Names the staged folder, and keeps the notes.
    """

    def __init__(self, client: "MlflowClient", run_id: str, label: str, spool: Spool) -> None:
        self.problem = ""
        self._client, self._run_id, self._label, self._spool = client, run_id, label, spool
        staged = spool.header.get("staged")
        self._staged = StagedFolder(client, run_id, Path(staged), spool) if staged else None
        noted = map(from_json, spool.noted(_WAITING).get("waiting", []))
        self._waiting = [record for record in noted if isinstance(record, Text | StagedFiles)]
        self._next_try = 0.0

    @property
    def waiting(self) -> int:
        """Number of records that wait."""
        return len(self._waiting)

    def store(self, record: Text | StagedFiles) -> None:
        """Stores what the record says.

        Raises:
            Exception: Whatever MLflow, or the library of the storage, raises.
        """
        if isinstance(record, Text):
            self._client.log_text(self._run_id, record.text, record.file)
        elif self._staged is not None:
            self._staged.upload()

    def postpone(self, record: Text | StagedFiles, error: Exception) -> None:
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
            self._note()
        self._next_try = time.monotonic() + _RETRY_S

    def retry(self, *, at_once: bool) -> None:
        """Tries what waits again: now, or if the last time is half a minute ago. What fails goes on waiting."""
        if not self._waiting or (time.monotonic() < self._next_try and not at_once):
            return
        for record in list(self._waiting):
            try:
                self.store(record)
            except Exception as error:  # of whatever library the storage needs
                self.postpone(record, error)
                if isinstance(error, RefusedFilesError) or _is_refused(error):
                    continue  # it is this file's alone
                return
            self._waiting.remove(record)
            self._note()

    def _note(self) -> None:
        self._spool.note(_WAITING, {"waiting": [to_json(record) for record in self._waiting]})


class RefusedFilesError(Exception):
    """Some files were refused, each for itself; all others are stored."""


class StagedFolder:
    """Uploads what is new or changed in `folder`, and deletes what was uploaded from there and is there no more.

    Artifacts of the run that come from elsewhere are left alone. What was uploaded is noted beside the folder, so that
    a later process continues where this one stopped, also one that resumes the run.
    """

    def __init__(self, client: "MlflowClient", run_id: str, folder: Path, spool: Spool) -> None:
        self._client, self._run_id, self._folder = client, run_id, folder
        self._note = folder.parent / f"{_UPLOADED}.json"
        self._uploaded: dict[str, list[int]] = self._noted() or spool.noted(_UPLOADED)  # there before version 0.1.0

    def upload(self) -> None:
        """Makes the artifacts what the folder is now.

        Raises:
            RefusedFilesError: A server refused some of the files, for their size say; the others are stored.
            Exception: Whatever MLflow raises; the next call goes on with the rest.
        """
        paths = sorted(path for path in self._folder.rglob("*") if path.is_file())
        there = {path.relative_to(self._folder).as_posix(): path for path in paths}
        for name in self._uploaded.keys() - there.keys():
            self._delete(name)
            del self._uploaded[name]
            self._write_note()
        refused: list[str] = []
        for name, path in there.items():
            try:
                self._upload(name, path)
            except HTTPError as error:
                if not _is_refused(error):
                    raise
                refused.append(f"{name}: {one_line(error, self._client.tracking_uri)}")
        if refused:
            raise RefusedFilesError("; ".join(refused))

    def _upload(self, name: str, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile: the next time sees it
            state = path.stat()
            version = [state.st_size, state.st_mtime_ns]
            if self._uploaded.get(name) != version:
                self._client.log_artifact(self._run_id, str(path), name.rpartition("/")[0] or None)
                self._uploaded[name] = version
                self._write_note()

    def _delete(self, name: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = self._client.get_run(self._run_id).info.artifact_uri
        repository = get_artifact_repository(uri, tracking_uri=self._client.tracking_uri)
        # A kind of storage that cannot delete keeps the file; nothing waits for it.
        with contextlib.suppress(NotImplementedError, FileNotFoundError):
            repository.delete_artifacts(name)

    def _noted(self) -> dict[str, list[int]]:
        try:
            note: dict[str, Any] = json.loads(self._note.read_text())
            return dict(note["files"]) if note["run_id"] == self._run_id else {}
        except (OSError, ValueError, KeyError):
            return {}

    def _write_note(self) -> None:
        with contextlib.suppress(OSError):  # without it a later process uploads the files once more
            write_private(self._note, json.dumps({"run_id": self._run_id, "files": self._uploaded}))


def _is_refused(error: Exception) -> bool:
    """Whether a server answers and refuses this one file."""
    response = getattr(error, "response", None)
    return isinstance(error, HTTPError) and response is not None and 400 <= response.status_code < 500
