"""Checkpoints that Lightning keeps elsewhere, as artifacts of the run."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import yaml

if TYPE_CHECKING:
    from lightning.pytorch.callbacks import ModelCheckpoint


_SETTINGS = (
    "monitor", "mode", "save_last", "save_top_k", "save_weights_only", "_every_n_train_steps", "_every_n_val_epochs"
)  # fmt: skip


class CheckpointLinks:
    """Keeps in `folder` what a ModelCheckpoint keeps in a folder of its own: `<name>/<name>.ckpt`, as Lightning does.

    They are hard links where the file system allows it, else copies. Beside each lie Lightning's `metadata.yaml`, with
    the score and how it was chosen, and `aliases.txt`: latest, and best for the one that is.

    Args:
        folder: The artifacts of the run.
        keep_all: Checkpoints that the callback deletes stay.
    """

    def __init__(self, folder: Path, *, keep_all: bool) -> None:
        self._folder, self._keep_all = folder, keep_all
        self._linked: dict[Path, float] = {}

    def update(self, callback: "ModelCheckpoint") -> None:
        """Adds the new ones, and takes away those the callback keeps no longer."""
        paths = {callback.best_model_path, callback.last_model_path, *callback.best_k_models} - {""}
        kept = {Path(path) for path in paths if not Path(path).is_relative_to(self._folder)}
        if not self._keep_all:
            for path in [path for path in self._linked if path not in kept]:
                shutil.rmtree(self._target(path).parent, ignore_errors=True)
                del self._linked[path]
        for path in kept:
            with contextlib.suppress(FileNotFoundError):  # deleted by another rank or callback meanwhile
                written = path.stat().st_mtime
                if self._linked.get(path) != written:
                    _link(path, self._target(path))
                    _write(self._target(path).with_name("metadata.yaml"), _metadata(callback, path))
                    self._linked[path] = written
        for path in kept & self._linked.keys():
            is_best = str(path) == callback.best_model_path
            _write(self._target(path).with_name("aliases.txt"), ["latest", "best"] if is_best else ["latest"])

    def _target(self, path: Path) -> Path:
        return self._folder / path.stem / path.name


def _metadata(callback: "ModelCheckpoint", path: Path) -> dict[str, Any]:
    score = callback.best_k_models.get(str(path), callback.current_score)
    settings = {name: getattr(callback, name) for name in _SETTINGS if hasattr(callback, name)}
    number = score.item() if isinstance(score, torch.Tensor) else score
    return {"score": number, "original_filename": path.name, "Checkpoint": settings}


def _write(path: Path, content: Any) -> None:
    """What Lightning writes: YAML, or for aliases the text of a list; a file that says it already stays."""
    text = str(content) if isinstance(content, list) else yaml.safe_dump(content)
    if not path.exists() or path.read_text() != text:
        path.write_text(text)


def _link(path: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(target.name + ".part")
    temporary.unlink(missing_ok=True)
    try:
        os.link(path, temporary)
    except OSError:
        shutil.copyfile(path, temporary)
    temporary.replace(target)
