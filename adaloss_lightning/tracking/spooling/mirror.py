"""Artifacts of a run that follow a folder: checkpoints that Lightning deletes here are deleted there too."""

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from adaloss_lightning.tracking.spooling.spool import Spool

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_NOTE = "mirrored"


class Mirror:
    """Uploads what is new or changed in `folder`, and deletes what was uploaded from there and is there no more.

    Artifacts of the run that come from elsewhere are left alone. What was uploaded is noted in the spool, so that a
    later process goes on where this one stopped.

    Args:
        client: Client of the store.
        run_id: The run.
        folder: Folder to follow; it need not exist.
        spool: Keeps the note.
    """

    def __init__(self, client: "MlflowClient", run_id: str, folder: Path, spool: Spool) -> None:
        self._client, self._run_id, self._folder, self._spool = client, run_id, folder, spool
        self._uploaded: dict[str, list[int]] = spool.noted(_NOTE)

    def update(self) -> None:
        """Makes the artifacts what the folder is now.

        Raises:
            Exception: Whatever MLflow raises; the next call goes on with the rest.
        """
        there = {path.relative_to(self._folder).as_posix(): path for path in _files(self._folder)}
        for name in [name for name in self._uploaded if name not in there]:
            self._delete(name)
            del self._uploaded[name]
            self._spool.note(_NOTE, self._uploaded)
        for name, path in there.items():
            with contextlib.suppress(FileNotFoundError):  # deleted meanwhile: the next update sees it
                state = path.stat()
                version = [state.st_size, state.st_mtime_ns]
                if self._uploaded.get(name) != version:
                    parent = name.rpartition("/")[0]
                    self._client.log_artifact(self._run_id, str(path), parent or None)
                    self._uploaded[name] = version
                    self._spool.note(_NOTE, self._uploaded)

    def _delete(self, name: str) -> None:
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        uri = self._client.get_run(self._run_id).info.artifact_uri
        repository = get_artifact_repository(uri, tracking_uri=self._client.tracking_uri)
        # A kind of storage that cannot delete keeps the file; nothing waits for it.
        with contextlib.suppress(NotImplementedError, FileNotFoundError):
            repository.delete_artifacts(name)


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file()) if folder.is_dir() else []
