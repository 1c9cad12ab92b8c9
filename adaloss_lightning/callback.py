"""AdaLossCallback: feeds Lightning's training loss to loss-adaptive optimizers, and makes optimizers loss-adaptive."""

import math
from typing import Any

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor
from torch.optim import Optimizer

from adaloss_lightning.accumulator import RULES, Rule, Scalar
from adaloss_lightning.loss_adaptive import LossAdaptive
from adaloss_lightning.rate_adaptive import RateAdaptive
from adaloss_lightning.resume import overridden, settings, without_b
from adaloss_lightning.step_loss import ManualLosses, StepLoss, unscaled
from adaloss_lightning.validation import require_choice, require_number
from adaloss_lightning.wrapper import Group

_NAMESPACES = ("lightning", "pytorch_lightning", "adaloss_lightning")
_BATCH_HOOKS = ("on_train_batch_start", "on_train_batch_end", "on_before_zero_grad", "on_before_optimizer_step")


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

    Logged to every logger and the progress bar: ``adaloss/loss``, ``adaloss/b`` and ``adaloss/effective_lr``, the last
    two with the suffix ``/group{i}`` where there are several parameter groups; all with ``/optimizer{i}`` before it
    where there are several optimizers. That happens every ``Trainer(log_every_n_steps=...)``, and at the first step and
    the last of each epoch: one ``LightningModule.log`` costs Lightning about half a millisecond, ten times our step.
    In between ``trainer.callback_metrics`` holds the values of the last step nonetheless where somebody may look: a
    monitor or a file name with ``adaloss/`` in it, or a callback or module of yours with a hook for each batch.

    Args:
        rule: How optimizers are wrapped: ``"adaloss"``, ``"adamloss"``, or None for ``"adamloss"`` with Adam and its
            relatives and ``"adaloss"`` with the rest.
        b0: Start of b for optimizers that are wrapped, > 0.
        alpha: How strongly the loss feeds b, >= 0.
        c: Surrogate of the optimal loss.
        log: Whether to log.

    Raises:
        ValueError: If an argument is out of its bounds.
        MisconfigurationException: In ``on_fit_start``, if this training cannot be made loss-adaptive.

    Example::

        trainer = Trainer(callbacks=[AdaLossCallback()])
    """

    def __init__(
        self, rule: Rule | None = None, *, b0: float = 1.0, alpha: float = 1.0, c: float = 0.0, log: bool = True
    ) -> None:
        if rule is not None:
            require_choice("rule", rule, RULES)
        require_number("b0", b0, above=0)
        require_number("alpha", alpha, at_least=0)
        require_number("c", c)
        self.rule = rule
        self.b0 = b0
        self.alpha = alpha
        self.c = c
        self.logs = log  # Lightning puts a method named log on every callback
        self._window = StepLoss()
        self._manual = ManualLosses([])
        self._resumes = self._without_b = False
        self._configured: list[list[Group]] = []
        self._scaler: Any = None
        self._stepped = False  # whether any optimizer was about to step in this batch
        self._is_watched = False  # whether anybody may look at values between those that are logged
        self._shows = False  # whether anything was logged yet in this fit
        self._logged: list[str] = []  # what was logged in the last batch
        self._left: dict[int, Scalar | None] = {}  # what we left at each optimizer, to tell it from what the user left

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wrap what is not adaptive, before a checkpoint is loaded into it; refuse what cannot work."""
        _require_one_callback(trainer)
        _require_supported_strategy(trainer)
        if not all(optimizer.param_groups for optimizer in trainer.optimizers):  # so is Lightning's stand-in for None
            raise MisconfigurationException(
                "AdaLossCallback found no optimizer to adapt: configure_optimizers() of "
                f"{type(pl_module).__name__} returned none. Return one, such as torch.optim.SGD(self.parameters())."
            )
        optimizers = [self._adapted(optimizer) for optimizer in trainer.optimizers]
        if any(new is not old for new, old in zip(optimizers, trainer.optimizers, strict=True)):
            trainer.strategy.optimizers = optimizers
        if _may_clip(trainer, pl_module):
            # Under any mixed precision, bf16 too, Lightning clips only what no fused kernel would unscale in the step
            for optimizer in optimizers:
                optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]
        self._scaler = getattr(trainer.precision_plugin, "scaler", None)
        self._window.clear()
        self._manual = ManualLosses([optimizer for optimizer in optimizers if isinstance(optimizer, RateAdaptive)])
        self._stepped = self._shows = False
        self._logged.clear()
        self._left.clear()
        self._configured = settings(optimizers)

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Look whether the checkpoint knows b."""
        if not checkpoint.get("global_step"):  # nothing to resume: the learning rate finder puts back what it moved
            return
        self._resumes, self._without_b = True, without_b(checkpoint)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say once what a checkpoint has changed."""
        self._is_watched = _has_watcher(trainer, pl_module)
        if not self._resumes:
            return
        if self._without_b:
            rank_zero_info(f"The checkpoint was made without AdaLossCallback: b starts at b0={self.b0}.")
        changes = overridden(self._configured, settings(trainer.optimizers))
        if changes:
            rank_zero_warn(f"Resuming with {'; '.join(changes)}. To use yours, load the weights only and start anew.")
        self._resumes = False

    def _adapted(self, optimizer: Optimizer) -> Optimizer:
        if isinstance(optimizer, RateAdaptive):
            return optimizer
        rule = self.rule or ("adamloss" if _is_adam(optimizer) else "adaloss")
        try:
            adapted = LossAdaptive(optimizer, b0=self.b0, alpha=self.alpha, c=self.c, rule=rule)
        except (TypeError, ValueError) as error:
            raise MisconfigurationException(
                f"AdaLossCallback cannot adapt {type(optimizer).__name__}: {error}"
            ) from error
        # where LearningRateMonitor looks for the one that the schedulers know
        adapted.optimizer = optimizer  # type: ignore[attr-defined]
        return adapted

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Take the last values out of Lightning's collection, where they would be collected again at every step.

        That costs as much as the rest of this callback. Progress bar, loggers and ``callback_metrics`` have got them.
        """
        while self._logged:
            trainer._results.pop(f"on_train_batch_end.{self._logged.pop()}", None)  # type: ignore[union-attr]

    def on_before_zero_grad(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """A new accumulation window begins where the old gradients end."""
        if pl_module.automatic_optimization:
            self._window.clear()

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Note the loss of a micro-batch, freed of the factors that Lightning put on it."""
        if self._scaler is not None:
            loss = unscaled(loss, self._scaler)
        if not pl_module.automatic_optimization:
            self._manual.before_backward(loss)
            return
        mean: Scalar | None = loss
        if trainer.accumulate_grad_batches != 1:
            self._window.add(loss, trainer.accumulate_grad_batches)
            if trainer.fit_loop._should_accumulate():
                return
            mean = self._window.take_mean()
        self._leave(trainer.optimizers[0], mean)  # the window is complete: let this backward hide the averaging

    def on_after_backward(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note, under manual optimization, which optimizers the loss is for: those whose gradients it changed."""
        if not pl_module.automatic_optimization:
            self._manual.after_backward()

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """See that a loss waits at the optimizer.

        It is not the step itself: GradScaler may still skip that, so b moves in ``optimizer.step`` alone.
        """
        if not isinstance(optimizer, RateAdaptive):  # trainer.optimizers was replaced in mid-training
            return
        if pl_module.automatic_optimization:
            if optimizer.recorded_loss is None:  # the last training_step of the window returned None, or all of them
                mean = self._window.take_mean()
                # Without any there is nothing to step on: NaN skips the step, and no stale loss can serve.
                self._leave(optimizer, math.nan if mean is None else mean)
        else:
            if optimizer.recorded_loss is self._left.get(id(optimizer)):  # of a step that GradScaler skipped
                optimizer.discard_loss()
            self._leave(optimizer, self._manual.take(optimizer))
        self._stepped = True

    def _leave(self, optimizer: Optimizer, loss: Scalar | None) -> None:
        """Record the loss, unless the user recorded one."""
        if loss is None or not isinstance(optimizer, RateAdaptive) or optimizer.recorded_loss is not None:
            return
        optimizer.record_loss(loss)
        self._left[id(optimizer)] = optimizer.recorded_loss
        if isinstance(optimizer, LossAdaptive):
            optimizer.begin_sync()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log what the step left behind, and drop a loss that no step used."""
        shows = self.logs and self._stepped
        logs = shows and self._is_time_to_log(trainer)
        several = len(trainer.optimizers) > 1
        for index, optimizer in enumerate(trainer.optimizers):
            if not isinstance(optimizer, RateAdaptive):
                continue
            optimizer.discard_loss()
            if not shows or not optimizer.stepped:
                continue
            suffix = f"/optimizer{index}" if several else ""
            if logs:
                self._log(pl_module, optimizer, suffix)
            elif self._is_watched:
                _keep_current(trainer, optimizer, suffix)
        self._stepped = False
        self._left.clear()

    def _is_time_to_log(self, trainer: Trainer) -> bool:
        """When Lightning hands values on to the loggers; its own property for that costs ten times as much."""
        loop, every = trainer.fit_loop.epoch_loop, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and (loop._batches_that_stepped + 1) % every == 0:
            return True
        ends = loop.batch_progress.is_last_batch or trainer.should_stop or 0 < loop.max_steps <= loop.global_step
        return bool(ends or not self._shows)

    def _log(self, pl_module: LightningModule, optimizer: RateAdaptive, suffix: str) -> None:
        def log(name: str, value: Scalar, sync_dist: bool = False) -> None:
            # batch_size keeps Lightning from searching the batch for it; these are no means over a batch
            pl_module.log(name, value, on_step=True, on_epoch=False, prog_bar=True, batch_size=1, sync_dist=sync_dist)
            self._logged.append(name)

        self._shows = True
        loss, rates = measures(optimizer, suffix)
        for name, value in loss.items():  # the baselines do not average it over ranks, for they do not use it
            log(name, value, sync_dist=not isinstance(optimizer, LossAdaptive))
        for name, value in rates.items():
            log(name, value)


def _has_watcher(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether anybody may look at ``trainer.callback_metrics`` within an epoch: to keep it costs 0.1 ms a step."""
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    named = [getattr(callback, name, None) for callback in callbacks for name in ("monitor", "filename")]
    named += [config.monitor for config in trainer.lr_scheduler_configs]
    if any("adaloss/" in str(name) for name in named):
        return True
    own = [one for one in callbacks if type(one).__module__.partition(".")[0] not in _NAMESPACES]
    return any(is_overridden(hook, one, Callback) for hook in _BATCH_HOOKS for one in own) or any(
        is_overridden(hook, pl_module, LightningModule) for hook in _BATCH_HOOKS
    )


def _keep_current(trainer: Trainer, optimizer: RateAdaptive, suffix: str) -> None:
    """Let monitors (of checkpoints, early stopping, plateaus) see this step's values although nothing is logged now."""
    loss, rates = measures(optimizer, suffix)
    if trainer.world_size == 1 or isinstance(optimizer, LossAdaptive):  # else it is the loss of one rank
        rates |= loss
    trainer._logger_connector._callback_metrics.update(rates)  # trainer.callback_metrics collects all of them anew


def measures(optimizer: RateAdaptive, suffix: str = "") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is logged of an optimizer that has stepped, 0-dim tensors by name: the loss if it saw one, and b and rates.

    Args:
        optimizer: The optimizer.
        suffix: Behind each name, before that of a group.
    """
    loss = optimizer.last_loss
    several = len(optimizer.param_groups) > 1
    rates = {
        f"adaloss/{name}{suffix}" + (f"/group{index}" if several else ""): tensor
        for name, tensors in (("b", optimizer.b), ("effective_lr", optimizer.effective_lr))
        for index, tensor in enumerate(tensors)
    }
    return {} if loss is None else {f"adaloss/loss{suffix}": loss}, rates


def _require_one_callback(trainer: Trainer) -> None:
    count = sum(isinstance(callback, AdaLossCallback) for callback in trainer.callbacks)  # type: ignore[attr-defined]
    if count > 1:
        raise MisconfigurationException(
            f"Found {count} AdaLossCallbacks. Must be one: each would feed every step again. Remove all but one."
        )


def _require_supported_strategy(trainer: Trainer) -> None:
    if trainer.strategy.handles_gradient_accumulation:
        raise MisconfigurationException(
            f"AdaLossCallback cannot work with {type(trainer.strategy).__name__}: its engine owns the optimizer step, "
            "so no learning rate can be set between the loss and the step. Use strategy='ddp' or 'fsdp'."
        )


def _is_adam(optimizer: Optimizer) -> bool:
    return any("adam" in cls.__name__.lower() for cls in type(optimizer).__mro__)


def _may_clip(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether gradients are clipped, or may be by hand: ``clip_gradients`` under manual optimization."""
    overridden = type(pl_module).configure_gradient_clipping is not LightningModule.configure_gradient_clipping
    return bool(trainer.gradient_clip_val) or overridden or not pl_module.automatic_optimization
