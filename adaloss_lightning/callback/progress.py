"""Progress of a run: how much of it is over when a batch begins."""

import math
from dataclasses import dataclass

from lightning.pytorch import Trainer

from adaloss_lightning.callback.trainer_internals import callbacks_named, last_epoch_of


@dataclass(frozen=True)
class Span:
    """Where a run begins and ends, in epochs and in optimizer steps; it ends with whichever comes first.

    Batches are counted within epochs, for what makes up a step may change on the way (`GradientAccumulationScheduler`)
    or be the module's own affair (manual optimization), and a later `fit` of the same trainer may have other data.

    Attributes:
        first_epoch: Epoch that the run begins with.
        last_epoch: Epoch before which it ends; infinite where that is not known.
        first_step: Optimizer steps that were made before the run.
        last_step: Optimizer steps after which it ends; infinite where that is not known.
    """

    first_epoch: float = 0.0
    last_epoch: float = math.inf
    first_step: float = 0.0
    last_step: float = math.inf

    @classmethod
    def of(cls, trainer: Trainer) -> "Span":
        """The run that begins now."""
        first = float(trainer.current_epoch), float(trainer.global_step)
        if any(timer.time_remaining() is not None for timer in callbacks_named(trainer, "Timer")):
            return cls(first_epoch=first[0], first_step=first[1])
        last_step = math.inf if trainer.max_steps == -1 else float(trainer.max_steps)
        last_epoch = last_epoch_of(trainer) if math.isfinite(trainer.num_training_batches) else math.inf
        return cls(first[0], last_epoch, first[1], last_step)

    @property
    def is_known(self) -> bool:
        """Whether the run has an end."""
        return math.isfinite(self.last_epoch) or math.isfinite(self.last_step)

    @property
    def end(self) -> str:
        """The end in words."""
        ends = {"step": self.last_step, "epoch": self.last_epoch}
        return " or ".join(f"{what} {last:.0f}" for what, last in ends.items() if math.isfinite(last))

    def ends_before(self, other: "Span") -> bool:
        """Whether the other one goes on where this one has ended."""
        ends = (self.last_epoch, other.last_epoch), (self.last_step, other.last_step)
        return self.is_known and all(mine < theirs or mine == math.inf for mine, theirs in ends)

    def batches(self, trainer: Trainer) -> float:
        """Batches of the whole run, with the data of the moment."""
        return (self.last_epoch - self.first_epoch) * trainer.num_training_batches

    def steps(self, trainer: Trainer) -> float:
        """Optimizer steps of the whole run under automatic optimization, if they go on as they begin."""
        batches = trainer.num_training_batches
        an_epoch = math.ceil(batches / trainer.accumulate_grad_batches) if math.isfinite(batches) else 1
        return max(0.0, min((self.last_epoch - self.first_epoch) * an_epoch, self.last_step - self.first_step))

    def progress(self, trainer: Trainer) -> float:
        """Share of the run that is over when the batch of the moment begins; 0 where the end is not known."""
        over = 0.0
        if math.isfinite(self.last_epoch):
            an_epoch = trainer.num_training_batches
            done = (trainer.current_epoch - self.first_epoch) * an_epoch + trainer.fit_loop.batch_idx
            over = done / max(1.0, (self.last_epoch - self.first_epoch) * an_epoch)
        if math.isfinite(self.last_step):
            over = max(over, (trainer.global_step - self.first_step) / max(1.0, self.last_step - self.first_step))
        return over
