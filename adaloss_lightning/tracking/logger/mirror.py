"""Artifacts of a run that follow a folder: checkpoints that Lightning deletes here are deleted there too."""

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from requests import HTTPError

from adaloss_lightning.tracking.errors import one_line
from adaloss_lightning.tracking.logger.spool import Spool

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_NOTE = "mirrored"


class RefusedFilesError(Exception):
    """Some files were refused, each for itself; all others are stored."""


class Mirror:
    """Uploads what is new or changed in `folder`, and deletes what was uploaded from there and is there no more.

    Artifacts of the run that come from elsewhere are left alone. What was uploaded is noted beside the folder, so that
    a later process continues where this one stopped, also one that resumes the run.

    Args:
        client: Client of the store.
        run_id: The run.
        folder: Folder to follow; it need not exist.
        spool: Has the notes of version 0.1.
    """

    def __init__(self, client: "MlflowClient", run_id: str, folder: Path, spool: Spool) -> None:
        self._client, self._run_id, self._folder = client, run_id, folder
        self._note = folder.parent / f"{_NOTE}.json"
        self._uploaded: dict[str, list[int]] = self._noted() or spool.noted(_NOTE)

    def update(self) -> None:
        """Makes the artifacts what the folder is now.

        Raises:
            RefusedFilesError: A server refused some of the files, for their size say; the others are stored.
            Exception: Whatever MLflow raises; the next call goes on with the rest.
        """
        there = {path.relative_to(self._folder).as_posix(): path for path in _files(self._folder)}
        refused: list[str] = []
        for name in [name for name in self._uploaded if name not in there]:
            self._delete(name)
            del self._uploaded[name]
            self._write_note()
        for name, path in there.items():
            try:
                self._upload(name, path)
            except HTTPError as error:
                if not is_refused(error):
                    raise
                refused.append(f"{name}: {one_line(error, self._client.tracking_uri)}")
        if refused:
            raise RefusedFilesError("; ".join(refused))

    def _upload(self, name: str, path: Path) -> None:
        with contextlib.suppress(FileNotFoundError):  # deleted meanwhile: the next update sees it
            state = path.stat()
            version = [state.st_size, state.st_mtime_ns]
            if self._uploaded.get(name) != version:
                parent = name.rpartition("/")[0]
                self._client.log_artifact(self._run_id, str(path), parent or None)
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
        temporary = self._note.with_suffix(".tmp")
        with contextlib.suppress(OSError):  # without it a later process uploads the files once more
            temporary.write_text(json.dumps({"run_id": self._run_id, "files": self._uploaded}))
            temporary.replace(self._note)


def is_refused(error: Exception) -> bool:
    """Whether a server answers and refuses this one file."""
    response = getattr(error, "response", None)
    return isinstance(error, HTTPError) and response is not None and 400 <= response.status_code < 500


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
