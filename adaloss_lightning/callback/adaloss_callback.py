"""AdaLossCallback: feeds Lightning's training loss to loss-adaptive optimizers, and makes optimizers loss-adaptive."""

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor
from torch.optim import Optimizer

from adaloss_lightning.callback.adapting import adapted, feeding, may_clip, require_supported, unscale_before_steps
from adaloss_lightning.callback.auto import Auto, Choices
from adaloss_lightning.callback.diagnosis import History, diagnosis, early_diagnosis, introduction, report
from adaloss_lightning.callback.metrics import log_measures, log_settings, show_measures
from adaloss_lightning.callback.resume import SAVED, Resumed, settings
from adaloss_lightning.callback.strangers import Strangers
from adaloss_lightning.callback.trainer_internals import (
    callbacks_named,
    callbacks_of,
    forget_logged,
    is_accumulating,
    is_time_to_log,
    put_first,
    scaler_of,
)
from adaloss_lightning.callback.true_loss import Fed, unscaled
from adaloss_lightning.optim.engine.wrapper import Group
from adaloss_lightning.optim.loss_adaptive import LossAdaptive
from adaloss_lightning.optim.recurrence import RULES, Alpha, Rule
from adaloss_lightning.optim.validation import require_choice, require_number


class AdaLossCallback(Callback):
    r"""Makes the optimizers of a ``LightningModule`` loss-adaptive and feeds them the true loss of each step.

    Optimizers from ``configure_optimizers`` that are not adaptive are wrapped in
    :class:`~adaloss_lightning.LossAdaptive` once, in ``on_fit_start``; adaptive ones (``AdaLoss``, ``AdamLoss``, the
    baselines) are only fed. Schedulers go on working on eta; the effective rate is eta over b (or its root).

    What is fed is the loss as ``training_step`` returned it: unscaled under fp16, averaged over the micro-batches that
    were really accumulated and over the ranks. With manual optimization it is the sum of the losses whose
    ``manual_backward`` reached the optimizer's parameters since its last step or ``zero_grad``, for that is the
    function whose gradient the step applies; ``optimizer.step(loss=loss)`` and ``optimizer.record_loss(loss)`` go
    before it. A batch whose ``training_step`` returned None changes nothing.

    Every logger gets ``adaloss/loss``, ``adaloss/b`` and ``adaloss/effective_lr`` every ``log_every_n_steps``; the
    progress bar shows the last one. With several groups b and the rate have the suffix ``/group{i}``, with several
    optimizers all have ``/optimizer{i}`` before it. ``trainer.callback_metrics`` always holds the last step's values.

    Args:
        rule: How optimizers are wrapped: ``"adaloss"``, ``"adamloss"``, or None for what fits the optimizer:
            ``"adamloss"`` where it normalizes its gradient, as Adam does, ``"adaloss"`` where it does not.
        b0: Start of b for optimizers that are wrapped, > 0.
        alpha: How strongly the loss feeds b, >= 0, or ``"auto"``: in units of the first loss, under which another eta
            fits. None is 1.
        c: Surrogate of the optimal loss.
        log: Whether to log.
        lr: Eta. A float sets it, ``"auto"`` finds it before the first step by short runs that leave no trace
            (:func:`~adaloss_lightning.find_lr`). The group with the largest configured rate gets it; the others and the
            schedulers keep their ratio to that. None and ``"configured"`` leave it as it is.
        warmup: Steps that go through over which the effective rate rises linearly; ``"auto"`` is 2 / (1 - beta2), 100
            without a beta2, and a fifth of the run at most. None is 0.
        cooldown: Share of the run, at its end, over which the effective rate falls linearly to 0; ``"auto"`` is 0.25,
            and 0 where the end is not known or the module has a scheduler. None is 0.
        auto: Whether nothing is left to tune: None then means ``"auto"`` for ``alpha``, ``lr``, ``warmup`` and
            ``cooldown``. Under manual optimization eta stays as configured.

    Attributes:
        found: After ``fit``, what was chosen: ``lr``, ``alpha``, ``warmup`` and ``cooldown``. It is logged once as
            hyper-parameters and kept in the checkpoint: a run that is resumed chooses nothing again.

    Raises:
        ValueError: If an argument is out of its bounds.
        MisconfigurationException: Before the first step, if this module or what was asked for cannot be trained so.

    Example::

        trainer = Trainer(callbacks=[AdaLossCallback(auto=True)])
    """

    def __init__(
        self,
        rule: Rule | None = None,
        *,
        b0: float = 1.0,
        alpha: Alpha | None = None,
        c: float = 0.0,
        log: bool = True,
        lr: float | Literal["auto", "configured"] | None = None,
        warmup: int | Auto | None = None,
        cooldown: float | Auto | None = None,
        auto: bool = False,
    ) -> None:
        if rule is not None:
            require_choice("rule", rule, RULES)
        require_number("b0", b0, above=0)
        require_number("c", c)
        self._choices = Choices(alpha=alpha, lr=lr, warmup=warmup, cooldown=cooldown, auto=auto)
        self.rule = rule
        self.b0 = b0
        self.alpha = self._choices.alpha
        self.c = c
        self.logs = log  # Lightning puts a method named log on every callback
        self._fed: list[Fed] = []
        self._configured: list[list[Group]] = []
        self._resumed: Resumed | None = None
        self._starts = self._is_logged = self._shows = False  # the last: whether any step was made in this fit
        self._scaler: Any = None
        self._is_new_batch = True  # whether no backward has happened in this batch
        self._strangers = Strangers()
        self._logged: list[str] = []  # what was logged in the last batch

    @property
    def found(self) -> dict[str, Any]:
        """What was chosen for the last ``fit``; empty where nothing was left to choose."""
        return dict(self._choices.found)

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Go before Lightning's tuners: what they try is the adapted optimizer, and their steps have a loss.

        ``BatchSizeFinder`` and ``LearningRateFinder`` train in ``on_fit_start``, before any other callback. What logs
        the learning rate is to see the one that we find.
        """
        if stage != "fit":
            return
        self._resumed, self._starts = None, False
        self._choices.reset()
        if self._choices.finds_lr or callbacks_named(trainer, "BatchSizeFinder", "LearningRateFinder"):
            put_first(trainer, self)

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wrap what is not adaptive, before a checkpoint is loaded into it; refuse what cannot work."""
        require_supported(trainer, pl_module, self)
        self._scaler = scaler_of(trainer)
        self._shows, self._is_logged, self._starts = False, False, True
        self._logged.clear()
        self._choices.configure(trainer, pl_module)
        self._adapt(trainer, pl_module)
        self._configured = settings(trainer.optimizers)

    def _adapt(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the trainer's optimizers adaptive, and feed them from now on."""
        self._release()
        optimizers = [
            adapted(optimizer, self.rule, b0=self.b0, alpha=self.alpha, c=self.c) for optimizer in trainer.optimizers
        ]
        if any(new is not old for new, old in zip(optimizers, trainer.optimizers, strict=True)):
            trainer.strategy.optimizers = optimizers
        if may_clip(trainer, pl_module):
            unscale_before_steps(optimizers)
        self._fed += feeding(
            pl_module, optimizers, lambda: self in callbacks_of(trainer), partial(self._keep_current, trainer)
        )

    def _adapt_new(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Adapt optimizers that have replaced others, as at the start."""
        old = [fed.optimizer for fed in self._fed]  # kept: a new one may get the id of one that is gone
        before = dict(zip(map(id, old), self._configured, strict=True))
        self._adapt(trainer, pl_module)
        self._choices.adopt(trainer, pl_module, [fed for fed in self._fed if id(fed.optimizer) not in before])
        found = zip(self._fed, settings(trainer.optimizers), strict=True)
        self._configured = [before.get(id(fed.optimizer), own) for fed, own in found]

    def _release(self) -> None:
        self._choices.hold(self._fed)
        for fed in self._fed:
            fed.close()
        self._fed.clear()
        self._strangers.close()

    def _is_current(self, trainer: Trainer) -> bool:
        """Whether the trainer still has the optimizers that are fed: a module may replace them in mid-training."""
        return [fed.optimizer for fed in self._fed] == trainer.optimizers

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Keep what was configured: eta in a checkpoint may be what a scheduler has made of it."""
        checkpoint[SAVED] = {"configured": self._configured, "auto": self._choices.state(self._fed)}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Note what the run goes on from."""
        # Lightning's finders put back what they moved, while fit starts; some strategies load what resumes then, too
        is_put_back = self._starts and not trainer.strategy.restore_checkpoint_after_setup
        if is_put_back or trainer.state.fn != "fit" or not checkpoint.get("global_step"):
            return
        self._resumed = Resumed.of(checkpoint)
        self._choices.resume(self._resumed.auto)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Decide on warm-up and cool-down, and say once what a checkpoint has changed."""
        self._starts = False
        for fed in self._fed:
            fed.window.open()
        self._choices.begin(trainer, pl_module, self._fed)
        if self._resumed is not None:
            self._configured = self._resumed.report(
                trainer, self._configured, b0=self.b0, finds_lr=self._choices.finds_lr
            )

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look in the first steps of each epoch whether the module steps an optimizer of its own."""
        self._strangers.watch()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Adapt optimizers that have replaced others; find eta before the first step."""
        if self._logged:
            forget_logged(trainer, self._logged)
            self._logged.clear()
        self._is_new_batch = True
        if not self._is_current(trainer):
            self._adapt_new(trainer, pl_module)
        if self._choices.start_batch(trainer, pl_module, self._fed):
            self._configured = settings(trainer.optimizers)
            self._strangers.found.clear()  # of the search
        if not self._is_logged:
            self._is_logged = True
            log_settings(trainer, self._fed, self._configured, self._choices.found)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note the loss of a micro-batch, freed of the factors that Lightning put on it."""
        if not pl_module.automatic_optimization and not self._is_current(trainer):
            self._adapt_new(trainer, pl_module)
        if self._scaler is not None:
            loss = unscaled(loss, self._scaler)
        for fed in self._fed:
            fed.window.before_backward()
        if not pl_module.automatic_optimization:
            for fed in self._fed:
                fed.window.add(loss)
            return
        fed, accumulated = self._fed[0], trainer.accumulate_grad_batches
        if accumulated == 1:
            fed.window.add(loss)
        else:
            fed.window.add_share(loss, accumulated, self._is_new_batch)
            self._is_new_batch = False
            if is_accumulating(trainer):
                return
            fed.window.complete_shares()
        fed.begin()  # the window is complete: let this backward hide the averaging

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which optimizers the loss is for: those whose parameters its backward reached."""
        for fed in self._fed:
            fed.window.after_backward()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """Warn of a step that comes before we could adapt its optimizer."""
        own = [fed for fed in self._fed if fed.optimizer is optimizer]
        for fed in own:
            fed.ask()
        if not own:
            rank_zero_warn(
                f"{type(optimizer).__name__} takes one step at its own rate: it came into trainer.optimizers within a "
                "batch; from the next batch on it is adapted. Replace optimizers in on_train_epoch_start or "
                "on_train_batch_end."
            )

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what the step left behind, and drop a loss that no step used."""
        is_first = not self._shows and any(fed.has_stepped for fed in self._fed)
        logs = self.logs and (is_first or (any(fed.has_stepped for fed in self._fed) and is_time_to_log(trainer)))
        if is_first:
            self._shows = True
            self._say(introduction)
        if self._strangers.found:
            self._strangers.report(pl_module, self._fed, trainer.optimizers)
        for fed in self._fed:
            fed.end_batch()
            if logs and fed.adaptive is not None and fed.adaptive.stepped:
                self._logged += log_measures(pl_module, fed.adaptive, fed.suffix)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Warn after the first epoch of a rate that has come to nothing."""
        if trainer.current_epoch == 0:
            self._say(early_diagnosis)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what a change of settings would have helped against."""
        report(((fed.adaptive, fed.history) for fed in self._fed), partial(diagnosis, finds_lr=self._choices.finds_lr))

    def _say(self, diagnose: Callable[[LossAdaptive, History], str | None]) -> None:
        """Log what helps those who left eta as configured, and have not been told in the run that goes on."""
        if not (self._choices.sets_lr or (self._resumed is not None and self._resumed.knows_b)):
            report(((fed.adaptive, fed.history) for fed in self._fed), diagnose)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave no hook behind."""
        self._release()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave no hook behind, however the run ended."""
        self._release()

    def _keep_current(self, trainer: Trainer, fed: Fed) -> None:
        """Show the values of the step that just ended in every hook of every callback."""
        if self.logs and self in callbacks_of(trainer):
            show_measures(trainer, fed)
