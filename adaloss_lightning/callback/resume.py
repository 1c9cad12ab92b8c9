"""Resuming: whether the checkpoint knows b, and which settings it overrides."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer

from adaloss_lightning.optim.engine.groups import S
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group


def settings(optimizers: Sequence[Optimizer], *, keeps_lr: bool = True) -> list[list[Group]]:
    """Eta and our settings of each group of each optimizer, by the names that users know.

    Args:
        optimizers: Those of the trainer.
        keeps_lr: Whether ``group["lr"]`` is what was configured, where no scheduler has noted that as ``initial_lr``.
    """
    return [[_settings(optimizer, group, keeps_lr) for group in optimizer.param_groups] for optimizer in optimizers]


def _settings(optimizer: Optimizer, group: Group, keeps_lr: bool) -> Group:
    own = {key.removeprefix(PREFIX): group[key] for key in optimizer.defaults if key.startswith(PREFIX)}
    lr: Any = group.get("initial_lr", group.get("lr") if keeps_lr else None)
    return own if lr is None else {"lr": float(lr), **own}


def without_b(checkpoint: Mapping[str, Any]) -> bool:
    """Whether a checkpoint holds optimizers of which none was adaptive."""
    groups = [group for state in checkpoint.get("optimizer_states", []) for group in state.get("param_groups", [])]
    return bool(groups) and not any(S in group for group in groups)


def report_resumed(
    trainer: Trainer, configured: list[list[Group]], saved: list[list[Group]] | None, b0: float | None
) -> None:
    """Say what a checkpoint has changed.

    Args:
        trainer: It has loaded the checkpoint.
        configured: Settings as they are configured now.
        saved: As they were configured where the checkpoint was made; None where it does not tell.
        b0: Where b starts although the run resumes: the checkpoint does not know it.
    """
    if b0 is not None:
        rank_zero_info(f"The checkpoint was made without AdaLossCallback: b starts at b0={b0}.")
    if saved is None:
        scheduled = any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs)
        saved = settings(trainer.optimizers, keeps_lr=not scheduled)
    changes = overridden(configured, saved)
    if changes:
        rank_zero_warn(f"Resuming with {'; '.join(changes)}. To use yours, load the weights only in a new run.")


def overridden(configured: list[list[Group]], loaded: list[list[Group]]) -> list[str]:
    """One phrase for each setting that is no longer what was configured."""
    changes = {
        f"{name}={theirs.get(name)!r} from the checkpoint, not {value!r}": None
        for mine_of, theirs_of in zip(configured, loaded, strict=False)
        for mine, theirs in zip(mine_of, theirs_of, strict=False)
        for name, value in mine.items()
        if theirs.get(name, value) != value
    }
    return list(changes)
