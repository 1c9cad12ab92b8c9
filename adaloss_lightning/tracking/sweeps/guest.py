"""A swept project as a guest: its LightningCLI, its trainer and its launcher inside a sweep."""

import contextlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import OnExceptionCheckpoint
from lightning.pytorch.cli import LightningCLI

from adaloss_lightning.tracking.logger import BufferedMLFlowLogger
from adaloss_lightning.tracking.logger.resume import run_to_join
from adaloss_lightning.tracking.temporarily import environment, replaced

TASK_VARIABLE = "ADALOSS_SWEEP_TASK"
_RANK = "adaloss_lightning.tracking.sweeps.executors.worker"  # without arguments it trains as another rank
_ON_EXCEPTION = "on_exception"  # folder in the root of a point


@contextlib.contextmanager
def as_guest() -> Iterator[None]:
    """Inside the block a LightningCLI takes `fit` also with `run=False`, and its trainer joins the point's run.

    The trainer is changed after it is built: a command line cannot reach what a project links or builds in Python.
    """
    parse, build = LightningCLI.parse_arguments, LightningCLI.instantiate_classes

    def parse_arguments(self: LightningCLI, parser: Any, args: Any) -> None:
        has_subcommands = hasattr(self, "_subcommand_method_arguments")
        parse(self, parser, args[1:] if not has_subcommands and args and list(args[:1]) == ["fit"] else args)

    def instantiate_classes(self: LightningCLI) -> None:
        build(self)
        stack.enter_context(guest_trainer(self))

    with (
        contextlib.ExitStack() as stack,
        replaced(LightningCLI, "parse_arguments", parse_arguments),
        replaced(LightningCLI, "instantiate_classes", instantiate_classes),
    ):
        yield


@contextlib.contextmanager
def guest_trainer(cli: LightningCLI) -> Iterator[None]:
    """Inside the block the trainer logs to the point's run, if there is one, and has a root of its own.

    The run goes on until the block ends: a point is finished when all that its project does is done, not when `fit` is.
    """
    run = run_to_join()
    if run is None:
        yield
        return
    config = cli.config_init.get(str(cli.subcommand), cli.config_init)
    _add_logger(cli.trainer, config.get("trainer.logger"))
    root = _separate(cli.trainer, run[1])
    with contextlib.ExitStack() as stack:
        stack.callback(_tidy, root)
        for logger in cli.trainer.loggers:
            if isinstance(logger, BufferedMLFlowLogger):
                stack.enter_context(logger.hold())
        yield


@contextlib.contextmanager
def launchable(task: str) -> Iterator[None]:
    """Inside the block the processes that Lightning's launchers start are further ranks of `task`.

    They start the command of this process again, which is the sweep's.
    """
    rank = importlib.util.find_spec(_RANK)
    with environment({TASK_VARIABLE: task}), replaced(sys.modules["__main__"], "__spec__", rank):
        yield


def _add_logger(trainer: Trainer, configured: object) -> None:
    """Puts ours before the loggers that the project has configured, and drops Lightning's default one."""
    is_dry = trainer.fast_dev_run  # type: ignore[attr-defined]  # set by Lightning
    if is_dry or any(isinstance(logger, BufferedMLFlowLogger) for logger in trainer.loggers):
        return
    own = trainer.loggers
    if configured in (None, True) and own and own[0].save_dir == trainer.default_root_dir:
        own = own[1:]
    # Lightning keeps config.yaml and checkpoints in the folder of the first one.
    trainer.loggers = [BufferedMLFlowLogger(), *own]


def _separate(trainer: Trainer, run_id: str) -> Path:
    """Gives the trainer a root of its own, where Lightning keeps the checkpoints that it resumes without being asked.

    These are the ones of a SLURM requeue and of every OnExceptionCheckpoint: no point resumes another one's.
    """
    root = f"{trainer.default_root_dir}/.adaloss/points/{run_id}"
    trainer._default_root_dir = root  # type: ignore[attr-defined]  # Lightning reads it when it saves and resumes
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, OnExceptionCheckpoint):
            callback.dirpath = f"{root}/{_ON_EXCEPTION}"
    return Path(trainer.default_root_dir).absolute()


def _tidy(root: Path) -> None:
    """Removes what Lightning would resume, as a point that was stopped starts again, and folders that are empty."""
    shutil.rmtree(root / _ON_EXCEPTION, ignore_errors=True)
    for checkpoint in root.glob("hpc_ckpt_*.ckpt"):
        checkpoint.unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for folder in (root, root.parent, root.parent.parent):
            folder.rmdir()
