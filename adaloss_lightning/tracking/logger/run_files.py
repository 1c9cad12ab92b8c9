"""Files of a run: the folder that Lightning writes to, and what becomes an artifact from there."""

import logging
import shutil
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Literal

from adaloss_lightning.tracking.address import redacted, storable
from adaloss_lightning.tracking.logger.checkpoints import CheckpointLinks
from adaloss_lightning.tracking.logger.records import StagedFiles
from adaloss_lightning.tracking.logger.tracked_run import TrackedRun
from adaloss_lightning.tracking.names import plain_text
from adaloss_lightning.tracking.store import make_private

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import ModelCheckpoint

log = logging.getLogger(__name__)

_LONGEST_NAME = 255  # bytes of a file's name, on every usual file system


class RunFiles:
    """The folder of a run's files: the store's own, or one that the artifacts of the run follow.

    Args:
        run: The run.
        log_model: Whether checkpoints that lie elsewhere become artifacts too; "all": also those that are deleted.
    """

    def __init__(self, run: TrackedRun, log_model: Literal[True, False, "all"]) -> None:
        self._run, self._log_model = run, log_model
        self._folder: Path | None = None
        self._has_failed = False
        self._links: CheckpointLinks | None = None

    def folder(self) -> Path | None:
        """The folder, made by the first call; None where it cannot be made, which is reported."""
        if self._folder is None and not self._has_failed:
            run = None if self._run.is_remote else self._run.opened()
            folder = (run.artifact_dir if run is not None else None) or self._run.staging_dir
            self._run.start()
            try:
                make_private(folder)
                self._folder = folder
            except OSError:
                log.warning("Cannot make the folder %s for files of the run: its checkpoints are no artifacts.", folder)
                self._has_failed = True
        return self._folder

    def copy(self, path: Path, artifact_path: str) -> None:
        """Copies a file into the folder `artifact_path` among the artifacts; reports a disk that does not take it.

        Raises:
            OSError: The file cannot be read.
        """
        require_inside("artifact_path", artifact_path or path.name)
        if (folder := self.folder()) is None:
            return
        target = folder / artifact_path / path.name
        with path.open("rb") as source:
            if target.exists() and target.samefile(path):
                return
            try:
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    shutil.copyfileobj(source, file)
            except OSError as error:
                log.warning("Cannot keep %s as an artifact of %s: %s", path, self._run.label, error)
                with suppress(OSError):
                    target.unlink()  # half a file is none

    def follow(self, callback: "ModelCheckpoint") -> None:
        """Makes the folder have the checkpoints that `callback` keeps elsewhere."""
        if self._log_model and (folder := self.folder()) is not None:
            try:
                if self._links is None:
                    self._links = CheckpointLinks(folder, keep_all=self._log_model == "all")
                self._links.update(callback)
            except OSError as error:  # a full disk must not end the run
                log.warning("Cannot keep the checkpoint as an artifact of %s: %s", self._run.label, error)
                self._links, self._log_model = None, False

    def finish(self) -> None:
        """Follows the checkpoints for the last time."""
        if self._links is not None:
            with suppress(OSError):  # a full disk; the checkpoints there are stay
                self._links.finish()

    def staged(self) -> StagedFiles | None:
        """The record that makes the artifacts follow the folder; None where the files are artifacts already."""
        if self._folder is None or self._folder != self._run.staging_dir:
            return None
        self._forget_password(self._folder / "config.yaml")
        return StagedFiles()

    def _forget_password(self, config: Path) -> None:
        # LightningCLI's own SaveConfigCallback has written the address there as it was given.
        uri = self._run.uri
        if redacted(uri) != uri and config.is_file():
            config.write_text(config.read_text().replace(uri, storable(uri)))


def require_inside(option: str, path: str) -> None:
    """Raises ValueError for a path that leads out of the artifacts, or that no file can have."""
    parts = PurePosixPath(path).parts
    if not parts or ".." in parts or parts[0] == "/" or plain_text(path) != path:
        raise ValueError(f"Invalid {option}={path!r}. Must be a path inside the run's artifacts, such as notes/a.txt.")
    if any(len(part.encode()) > _LONGEST_NAME for part in parts):
        raise ValueError(f"Invalid {option}={path!r}. Must have names of at most {_LONGEST_NAME} bytes.")
