"""Metrics and hyper-parameters of adaptive optimizers, under the names that every logger gets."""

from collections.abc import Mapping, Sequence, Sized
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from adaloss_lightning.callback.trainer_internals import show_in_callback_metrics
from adaloss_lightning.callback.true_loss import Fed
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group
from adaloss_lightning.optim.loss_adaptive import LossAdaptive
from adaloss_lightning.optim.rate_adaptive import RateAdaptive

FAMILY = "adaloss/"  # of everything that the callback logs


def suffix_of(kind: str, index: int, all_of_them: Sized) -> str:
    """What names one of several optimizers or groups; empty where there is one."""
    return f"/{kind}{index}" if len(all_of_them) > 1 else ""


def measures(optimizer: RateAdaptive, suffix: str = "") -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What is logged of an optimizer that has stepped, 0-dim tensors by name: the loss if it saw one, and b and rates.

    Args:
        optimizer: The optimizer.
        suffix: Behind each name, before that of a group.
    """
    loss = optimizer.last_loss
    rates = {
        f"{FAMILY}{name}{suffix}{suffix_of('group', index, tensors)}": tensor
        for name, tensors in (("b", optimizer.b), ("effective_lr", optimizer.effective_lr))
        for index, tensor in enumerate(tensors)
    }
    return {} if loss is None else {f"{FAMILY}loss{suffix}": loss}, rates


def log_measures(module: LightningModule, optimizer: RateAdaptive, suffix: str) -> list[str]:
    """Log them through Lightning; returns the names."""
    loss, rates = measures(optimizer, suffix)
    for name, value in (loss | rates).items():
        # batch_size keeps Lightning from searching the batch for it; these are no means over a batch
        module.log(
            name,
            value,
            on_step=True,
            on_epoch=False,
            prog_bar=name.startswith(f"{FAMILY}effective_lr"),
            batch_size=1,
            # the baselines do not average the loss over ranks, for they do not use it
            sync_dist=name in loss and not isinstance(optimizer, LossAdaptive),
        )
    return [*loss, *rates]


def show_measures(trainer: Trainer, fed: Fed) -> None:
    """Show the values of the step that just ended in every hook of every callback."""
    optimizer = fed.adaptive
    if optimizer is None or not optimizer.stepped:
        return
    loss, rates = measures(optimizer, fed.suffix)
    if isinstance(optimizer, LossAdaptive) or trainer.world_size == 1:  # else it is the loss of one rank
        rates |= loss
    # a second group brings other names; the tensors are new ones, for a callback may keep the old
    show_in_callback_metrics(trainer, rates, fed.names - rates.keys())
    fed.names = rates.keys()


def log_settings(
    trainer: Trainer, feds: Sequence[Fed], configured: Sequence[Sequence[Group]], chosen: Mapping[str, Any]
) -> None:
    """Log once, as hyper-parameters, what was set: rule, b0, alpha, c and eta, and what was chosen.

    Args:
        trainer: Of the run.
        feds: Its optimizers.
        configured: Eta of each group of each of them, as the run began with it and not as a scheduler has left it.
        chosen: By name.
    """
    params: dict[str, Any] = {FAMILY + name: value for name, value in chosen.items()}
    for fed, etas in zip(feds, configured, strict=True):
        groups = [] if fed.adaptive is None else fed.adaptive.param_groups
        for index, (group, eta) in enumerate(zip(groups, etas, strict=False)):
            suffix = fed.suffix + suffix_of("group", index, groups)
            params |= {f"{FAMILY}{name}{suffix}": group[PREFIX + name] for name in _SETTINGS if PREFIX + name in group}
            if "lr" in eta:
                params[f"{FAMILY}lr{suffix}"] = eta["lr"]
    for logger in trainer.loggers if params else ():
        # TensorBoard shows those of the last call alone
        earlier = getattr(logger, "hparams", None)
        try:
            logger.log_hyperparams({**(earlier if isinstance(earlier, Mapping) else {}), **params})
        except Exception as error:  # MLflow takes no second value of a param, as another fit in the same run has
            rank_zero_warn(f"{type(logger).__name__} did not take the settings of AdaLossCallback: {error}")


_SETTINGS = ("rule", "b0", "alpha", "c")
