"""The trainer that is calling a logger: what Lightning tells it in no other way.

Lightning asks a logger for its run while it sets up a fit, and loads the checkpoint afterwards. Which checkpoint that
is stands in the frame of `Trainer._fit_impl` alone.
"""

import sys
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint

_FIT, _FOLDER = "_fit_impl", "__resolve_ckpt_dir"


def fit_in_progress() -> tuple[Trainer, str | None] | None:
    """The trainer that fits in this thread and the checkpoint it resumes; None outside of `fit`."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == _FIT and "ckpt_path" in frame.f_locals:
            trainer: Trainer = frame.f_locals["self"]
            return trainer, checkpoint_to_resume(trainer, frame.f_locals["ckpt_path"])
        frame = frame.f_back
    return None


def is_for_checkpoint_folder() -> bool:
    """Whether a ModelCheckpoint asks the caller's caller: it makes a folder of `save_dir`, `name` and `version`."""
    return sys._getframe(2).f_code.co_name == _FOLDER


def checkpoint_to_resume(trainer: Trainer, given: str | Path | None) -> str | None:
    """Path of the checkpoint that `trainer.fit(ckpt_path=given)` resumes; None where it resumes none.

    Lightning looks for `last` in every callback's folder, and asks the logger for a folder that is not chosen yet: that
    starts the run which is to be found here. Such a folder is a new one and holds no checkpoint.
    """
    connector = trainer._checkpoint_connector
    if given is None and SLURMEnvironment.detect():
        given = connector._hpc_resume_path
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    faults = [callback for callback in callbacks if isinstance(callback, OnExceptionCheckpoint)]
    if given is None and faults:
        given = "last"
    if given == "hpc":
        given = connector._hpc_resume_path
    elif given == "best":
        given = getattr(trainer.checkpoint_callback, "best_model_path", None)
    elif given == "last":
        found: set[Any] = {callback.ckpt_path for callback in faults}
        for callback in trainer.checkpoint_callbacks:
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is not None:
                found |= callback._find_last_checkpoints(trainer)
        there = [str(path) for path in found if get_filesystem(path).exists(str(path))]
        given = max(there, key=lambda path: get_filesystem(path).modified(path), default=None)
    return str(given) if given else None
