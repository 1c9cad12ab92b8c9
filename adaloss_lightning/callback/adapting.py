"""Adapting the optimizers of a trainer: what is refused, how one is wrapped and fed."""

from collections.abc import Callable, Sequence

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from torch.optim import Optimizer

from adaloss_lightning.callback.gradients import Gradients, unsharded_parameters
from adaloss_lightning.callback.metrics import suffix_of
from adaloss_lightning.callback.trainer_internals import callbacks_of
from adaloss_lightning.callback.true_loss import Fed, Window
from adaloss_lightning.optim.engine.traits import default_rule, takes_loss
from adaloss_lightning.optim.loss_adaptive import LossAdaptive
from adaloss_lightning.optim.rate_adaptive import adaptive_in
from adaloss_lightning.optim.recurrence import Alpha, Rule


def require_supported(trainer: Trainer, pl_module: LightningModule, callback: Callback) -> None:
    """Refuse what cannot work.

    Raises:
        MisconfigurationException: The strategy steps by itself, there is no optimizer, or another such callback.
    """
    kind = type(callback)
    if sum(isinstance(one, kind) for one in callbacks_of(trainer)) > 1:
        raise MisconfigurationException(
            f"Found several {kind.__name__}s. Must be one: each would feed every step again. Remove all but one."
        )
    if trainer.strategy.handles_gradient_accumulation:
        raise MisconfigurationException(
            f"AdaLossCallback cannot work with {type(trainer.strategy).__name__}: its engine owns the optimizer step, "
            "so no learning rate can be set between the loss and the step. Use strategy='ddp' or 'fsdp'."
        )
    if not all(optimizer.param_groups for optimizer in trainer.optimizers):  # so is Lightning's stand-in for None
        raise MisconfigurationException(
            "AdaLossCallback found no optimizer to adapt: configure_optimizers() of "
            f"{type(pl_module).__name__} returned none. Return one, such as torch.optim.SGD(self.parameters())."
        )


def adapted(optimizer: Optimizer, rule: Rule | None, *, b0: float, alpha: Alpha, c: float) -> Optimizer:
    """The optimizer, wrapped unless it is adaptive already or uses the loss itself.

    Raises:
        MisconfigurationException: It cannot be wrapped, and the message says why.
    """
    if adaptive_in(optimizer) is not None:
        return optimizer
    if takes_loss(optimizer):
        rank_zero_info(
            f"{type(optimizer).__name__} uses the loss itself: AdaLossCallback feeds it the true loss of each step "
            "and does not adapt its rate."
        )
        return optimizer
    try:
        wrapper = LossAdaptive(optimizer, b0=b0, alpha=alpha, c=c, rule=rule or default_rule(optimizer))
    except (TypeError, ValueError) as error:
        raise MisconfigurationException(f"AdaLossCallback cannot adapt {type(optimizer).__name__}: {error}") from error
    # where LearningRateMonitor looks for the one that the schedulers know
    wrapper.optimizer = optimizer  # type: ignore[attr-defined]
    return wrapper


def feeding(
    pl_module: LightningModule,
    optimizers: Sequence[Optimizer],
    is_active: Callable[[], bool],
    on_step: Callable[[Fed], None],
) -> list[Fed]:
    """Feed each of the optimizers with the losses that are in its gradients."""
    manual = not pl_module.automatic_optimization
    unsharded = unsharded_parameters(pl_module)
    found = []
    for index, optimizer in enumerate(optimizers):
        gradients = Gradients(optimizer, unsharded, watched=manual)
        window = Window(gradients, filters=manual and (len(optimizers) > 1 or not gradients.cannot_be_watched))
        window.open()
        suffix = suffix_of("optimizer", index, optimizers)
        fed = Fed(optimizer, window, is_automatic=not manual, is_active=is_active, on_step=on_step, suffix=suffix)
        found.append(fed)
    return found


def unscale_before_steps(optimizers: Sequence[Optimizer]) -> None:
    """Let gradients be unscaled before the step.

    Under any mixed precision, bf16 too, Lightning clips only what no fused kernel would unscale in the step.
    """
    for optimizer in optimizers:
        optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def may_clip(trainer: Trainer, pl_module: LightningModule) -> bool:
    """Whether gradients are clipped, or may be by hand: ``clip_gradients`` under manual optimization."""
    overridden = type(pl_module).configure_gradient_clipping is not LightningModule.configure_gradient_clipping
    return bool(trainer.gradient_clip_val) or overridden or not pl_module.automatic_optimization
