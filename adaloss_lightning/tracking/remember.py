"""Which run a checkpoint belongs to, so that resuming it goes on with that run: the callback that writes it down."""

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from adaloss_lightning.tracking.logger import BufferedMLFlowLogger
from adaloss_lightning.tracking.run_state import RUN_STATE


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
                checkpoint[RUN_STATE] = logger.run_state
                return

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Says when a checkpoint is resumed in another run than its own, which has begun by now."""
        state = checkpoint.get(RUN_STATE)
        if not state or trainer.state.fn != TrainerFn.FITTING:
            return
        for logger in trainer.loggers:
            if not isinstance(logger, BufferedMLFlowLogger):
                continue
            # a run_id that no store has given yet is no sign
            if not set(state.values()) & set(logger.run_state.values()) - {None}:
                rank_zero_warn(
                    f"The checkpoint is of the MLflow run {state['run_id'] or state['run_key']}, but the training is "
                    "logged to another. To continue that one: BufferedMLFlowLogger(resume_from=path of the checkpoint)."
                )
