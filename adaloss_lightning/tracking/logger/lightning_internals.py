"""Names that Lightning keeps private and the logger needs, each with its reason; tests notice when one changes."""

import sys
from argparse import Namespace
from pathlib import Path
from types import FrameType
from typing import Any

from lightning.fabric.loggers.logger import _DummyExperiment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.cloud_io import get_filesystem
from lightning.fabric.utilities.logger import _add_prefix, _convert_params, _flatten_dict
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, OnExceptionCheckpoint
from lightning.pytorch.loggers import MLFlowLogger
from lightning.pytorch.loggers.logger import Logger
from torch.nn import Module

_FIT, _FOLDER = "_fit_impl", "__resolve_ckpt_dir"
_CALLS = {_FIT, "_validate_impl", "_test_impl", "_predict_impl"}
_SETTINGS = ("monitor", "mode", "save_last", "save_top_k", "save_weights_only", "_every_n_train_steps")


def build_without_store(logger: MLFlowLogger, **settings: Any) -> None:
    """Does for an `MLFlowLogger` what its constructor does, which opens the store, unlocked, on every rank."""
    Logger.__init__(logger)
    own: dict[str, Any] = {"experiment_id": None, "initialized": False, "mlflow_client": None}
    own |= {"logged_model_time": {}, "checkpoint_callback": None, "log_batch_kwargs": {}}
    for name, value in (own | settings).items():
        setattr(logger, f"_{name}", value)


def fit_in_progress() -> tuple[Trainer, str | None] | None:
    """The trainer that fits in this thread and the checkpoint it resumes; None outside of `fit`.

    Lightning asks a logger for its run while it sets up a fit, and sets `Trainer.ckpt_path` afterwards. Until then the
    checkpoint stands in the frame of `Trainer._fit_impl` alone.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == _FIT and "ckpt_path" in frame.f_locals:
            trainer: Trainer = frame.f_locals["self"]
            return trainer, checkpoint_to_resume(trainer, frame.f_locals["ckpt_path"])
        frame = frame.f_back
    return None


def is_logged_to(logger: Logger) -> bool:
    """Whether a trainer fits, validates, tests or predicts in this thread and will finalize `logger` afterwards."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name in _CALLS and isinstance(trainer := frame.f_locals.get("self"), Trainer):
            return logger in trainer.loggers
        frame = frame.f_back
    return False


def is_for_checkpoint_folder() -> bool:
    """Whether a ModelCheckpoint asks the caller's caller.

    It makes a folder of `save_dir`, `name` and `version`, of which the first is the run's own folder already.
    """
    return sys._getframe(2).f_code.co_name == _FOLDER


def checkpoint_to_resume(trainer: Trainer, given: str | Path | None) -> str | None:
    """Path of the checkpoint that `trainer.fit(ckpt_path=given)` resumes; None where it resumes none.

    Lightning's own choice asks the logger for a folder that is not chosen yet: that starts the run which is to be found
    here. So it is made here from its parts. Such a folder is a new one and holds no checkpoint.
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


def settings_of(callback: ModelCheckpoint) -> dict[str, Any]:
    """What Lightning's loggers write beside a checkpoint of how it was chosen; some of it has no public name."""
    return {name: getattr(callback, name) for name in _SETTINGS if hasattr(callback, name)}


def saved_by(callback: ModelCheckpoint) -> set[str]:
    """Paths that a ModelCheckpoint has saved; one saved for an exception is known by a private name alone."""
    last = getattr(callback, "_last_checkpoint_saved", "")
    return {last, callback.best_model_path, callback.last_model_path, *callback.best_k_models} - {""}


def no_experiment() -> Any:
    """An object that takes every call and does nothing, as Lightning has it for ranks other than 0."""
    return _DummyExperiment()


def prefixed(metric: str, prefix: str, separator: str) -> str:
    """Name of a metric with the prefix as every logger of Lightning writes it."""
    return next(iter(_add_prefix({metric: 0.0}, prefix, separator)))


def flat(params: dict[str, Any] | Namespace) -> dict[str, Any]:
    """Params as every logger of Lightning flattens them."""
    return _flatten_dict(_convert_params(params))


def trainer_of(module: Module) -> Trainer | None:
    """The trainer of a module; the public property raises where there is none."""
    trainer: Trainer | None = getattr(module, "_trainer", None)
    return trainer
