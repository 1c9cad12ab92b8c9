"""A logging interval that no epoch is too short for."""

import math

from lightning.pytorch import Callback, LightningModule, Trainer


class LogEveryEpoch(Callback):
    """Logs at least once an epoch, where an epoch has fewer steps than `Trainer(log_every_n_steps=...)` asks for.

    Without it a short training leaves a run that has no training loss at all. RecipeCLI adds it by itself.
    """

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Shortens the interval, now that the number of batches is known."""
        batches = trainer.num_training_batches
        if math.isinf(batches):  # nobody knows how long an epoch will be
            return
        steps = math.ceil(batches / trainer.accumulate_grad_batches)
        every: int = trainer.log_every_n_steps  # type: ignore[attr-defined]
        trainer.log_every_n_steps = within_epoch(every, steps)  # type: ignore[attr-defined]


def within_epoch(every: int, steps: int) -> int:
    """The interval `every`, or the `steps` of an epoch where those are fewer; 0 stays, it means never."""
    return min(every, max(steps, 1))
