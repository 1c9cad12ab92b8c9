"""Which run a checkpoint belongs to, so that resuming it goes on with that run."""

import logging
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from adaloss_lightning.tracking.logger import BufferedMLFlowLogger

log = logging.getLogger(__name__)

_KEY = "mlflow_run"


class RememberRun(Callback):
    """Writes into every checkpoint which MLflow run it is of.

    `BufferedMLFlowLogger(resume_from=path)` then goes on with that run, also when no store was there to number it yet.
    RecipeCLI does both by itself.

    Example::

        logger = BufferedMLFlowLogger(resume_from=path)  # None or a checkpoint of before
        Trainer(logger=logger, callbacks=[RememberRun()]).fit(module, ckpt_path=path)
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the key; on ranks other than 0 nobody reads it."""
        for logger in trainer.loggers:
            if isinstance(logger, BufferedMLFlowLogger):
                checkpoint[_KEY] = logger.run_state
                return


def read_run_state(path: str | Path) -> dict[str, str | None]:
    """The `run_state` in a checkpoint; empty, and said once, where there is none: the training then gets a new run."""
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        state: dict[str, str | None] = checkpoint[_KEY]
    except Exception as error:  # whatever is wrong with the file, Lightning will say when it loads it
        reason = "it does not say which" if isinstance(error, KeyError) else type(error).__name__
        log.warning("Cannot go on with the MLflow run of %s (%s): a new run starts.", path, reason)
        return {}
    return state
