"""Callbacks: a logging interval that no epoch is too short for, and checkpoints that know their MLflow runs."""

import math
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn

from adaloss_lightning.tracking.logger import BufferedMLFlowLogger
from adaloss_lightning.tracking.logger.resume import RUN_STATE, states_in
from adaloss_lightning.tracking.names import run_label


class LogEveryEpoch(Callback):
    """Logs at least once an epoch, where an epoch has fewer steps than `Trainer(log_every_n_steps=...)` asks for.

    Without it a short fit leaves a run that has no training loss at all. RecipeCLI adds it by itself.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shortens the interval, now that the number of batches is known."""
        batches = trainer.num_training_batches
        if math.isinf(batches):  # the length of an epoch is unknown
            return
        steps = math.ceil(batches / trainer.accumulate_grad_batches)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        trainer.log_every_n_steps = within_epoch(every, steps)  # type: ignore[attr-defined]


def within_epoch(every: int, steps: int) -> int:
    """The interval `every`, or the `steps` of an epoch where those are fewer; 0 stays, it means never."""
    return min(every, max(steps, 1))


class RememberRun(Callback):
    """Keeps in every checkpoint which MLflow runs it is of, one for each `BufferedMLFlowLogger` of the trainer.

    A `fit` that resumes such a checkpoint continues those runs, also when no store was there yet to number them. The
    checkpoint may be named by its path, as `last`, `best` or `hpc`, or not at all where Lightning resumes by itself.
    RecipeCLI adds this callback.

    Example::

        trainer = Trainer(logger=BufferedMLFlowLogger("my experiment"), callbacks=[RememberRun()])
        trainer.fit(module, ckpt_path=path)  # None or a checkpoint of before
    """

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the key; on ranks other than 0 nothing reads it."""
        states = [dict(logger.run_state) for logger in mlflow_loggers(trainer)]
        if states:
            checkpoint[RUN_STATE] = states

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Reports a checkpoint that is resumed in other runs than its own."""
        if RUN_STATE not in checkpoint or trainer.state.fn != TrainerFn.FITTING:
            return
        for logger in mlflow_loggers(trainer) if trainer.is_global_zero else []:
            # an identifier that no store has given yet is no sign
            mine = {logger.run_state[name] for name in ("run_id", "run_key")} - {None}
            states = states_in(checkpoint)
            if not any(mine & {state.get("run_id"), state.get("run_key")} for state in states):
                known = " or ".join(run_label(None, state.get("run_id") or state.get("run_key")) for state in states)
                rank_zero_warn(
                    f"The checkpoint is of {known} in MLflow, but training is logged to another one, which had "
                    "begun before fit. To continue the checkpoint's run, log nothing before fit, or give the logger "
                    "resume_from=path of the checkpoint."
                )


def mlflow_loggers(trainer: Trainer) -> list[BufferedMLFlowLogger]:
    """The loggers that track in MLflow."""
    return [logger for logger in trainer.loggers if isinstance(logger, BufferedMLFlowLogger)]
