"""Checkpoints that Lightning keeps elsewhere, as artifacts of the run."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

from adaloss_lightning.tracking.logger.lightning_internals import saved_by, settings_of

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import ModelCheckpoint

_METADATA = "metadata.yaml"


class CheckpointLinks:
    """Keeps in `folder` what ModelCheckpoints keep in folders of their own: `<name>/<name>.ckpt`, as Lightning does.

    They are hard links where the file system allows it, else copies. Beside each lie Lightning's `metadata.yaml`, with
    the score and how it was chosen, and `aliases.txt`: latest, and best for the one that is. The second of two
    checkpoints with one name lies in `<name>-2`.

    Args:
        folder: The artifacts of the run, with those that an earlier process of a resumed run has left there.
        keep_all: Checkpoints that a callback deletes stay.
    """

    def __init__(self, folder: Path, *, keep_all: bool) -> None:
        self._folder, self._keep_all = folder, keep_all
        self._targets: dict[Path, Path] = dict(_left_by_earlier(folder))
        # An absent one may be lost, as on another node's disk, and its artifact the only copy: no callback deleted it.
        self._seen = {path for path in self._targets if path.exists()}
        self._linked: dict[Path, tuple[int, int]] = {}
        self._callbacks: dict[tuple[str, str], ModelCheckpoint] = {}

    def update(self, callback: "ModelCheckpoint") -> None:
        """Adds what the callback has saved, and takes away what is deleted."""
        self._callbacks[callback.state_key, str(callback.dirpath)] = callback
        paths = sorted(Path(path).absolute() for path in saved_by(callback))
        kept = [path for path in paths if not path.is_relative_to(self._folder)]
        for path in kept:
            with contextlib.suppress(FileNotFoundError):  # deleted by another rank or callback meanwhile
                state = path.stat()
                self._seen.add(path)
                written = state.st_mtime_ns, state.st_ino
                if self._linked.get(path) != written:
                    target = self._target(path)
                    _link(path, target)
                    _write(target.with_name(_METADATA), _metadata(callback, path))
                    self._linked[path] = written
                is_best = str(path) == str(Path(callback.best_model_path).absolute())
                _write(self._target(path).with_name("aliases.txt"), ["latest", "best"] if is_best else ["latest"])
        for path in [] if self._keep_all else list(self._seen):
            if not path.exists():
                shutil.rmtree(self._targets.pop(path).parent, ignore_errors=True)
                self._linked.pop(path, None)
                self._seen.remove(path)

    def finish(self) -> None:
        """Follows what Lightning has done after it told of the last checkpoint: it deletes others and makes links."""
        for callback in list(self._callbacks.values()):
            with contextlib.suppress(ReferenceError):  # the trainer is gone
                self.update(callback)

    def _target(self, path: Path) -> Path:
        if path not in self._targets:
            taken = {target.parent.name for target in self._targets.values()}
            names = [path.stem, *(f"{path.stem}-{number}" for number in range(2, len(taken) + 3))]
            self._targets[path] = self._folder / next(name for name in names if name not in taken) / path.name
        return self._targets[path]


def _left_by_earlier(folder: Path) -> dict[Path, Path]:
    found = {}
    for metadata in folder.glob(f"*/{_METADATA}"):
        with contextlib.suppress(OSError, ValueError, TypeError, KeyError, yaml.YAMLError):
            content = yaml.safe_load(metadata.read_text())
            found[Path(content["path"])] = metadata.with_name(content["original_filename"])
    return found


def _metadata(callback: "ModelCheckpoint", path: Path) -> dict[str, Any]:
    score = callback.best_k_models.get(str(path), callback.current_score)
    number = score.item() if isinstance(score, torch.Tensor) else score
    return {"score": number, "original_filename": path.name, "path": str(path), "Checkpoint": settings_of(callback)}


def _write(path: Path, content: Any) -> None:
    """Writes what Lightning does, YAML or for aliases the text of a list, unless the file has it already."""
    text = str(content) if isinstance(content, list) else yaml.safe_dump(content)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    path = path.resolve()  # last.ckpt may be a link to another checkpoint
    if path.is_dir():  # of a sharded strategy
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.copytree(path, temporary, copy_function=_link_file)
        shutil.rmtree(target, ignore_errors=True)
    else:
        temporary.unlink(missing_ok=True)
        _link_file(path, temporary)
    temporary.replace(target)


def _link_file(path: str | Path, target: str | Path) -> None:
    try:
        os.link(path, target)
    except OSError:
        shutil.copyfile(path, target)
