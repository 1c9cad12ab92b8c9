"""Resuming: whether the checkpoint knows b, and which settings it overrides."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch.optim import Optimizer

from adaloss_lightning.optim.engine.groups import S
from adaloss_lightning.optim.engine.wrapper import PREFIX, Group

SAVED = "adaloss_lightning"  # our entry in a checkpoint


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


@dataclass(frozen=True)
class Resumed:
    """A checkpoint from which a run goes on.

    Attributes:
        saved: Settings as they were configured where it was made; None where it does not tell.
        knows_b: Whether any of its optimizers was adaptive.
        auto: What was chosen there.
    """

    saved: list[list[Group]] | None
    knows_b: bool
    auto: Mapping[str, Any]

    @classmethod
    def of(cls, checkpoint: Mapping[str, Any]) -> "Resumed":
        """Read it."""
        groups = [group for state in checkpoint.get("optimizer_states", []) for group in state.get("param_groups", [])]
        own = checkpoint.get(SAVED, {})
        return cls(own.get("configured"), not groups or any(S in group for group in groups), own.get("auto", {}))

    def report(
        self, trainer: Trainer, configured: list[list[Group]], *, b0: float, finds_lr: bool
    ) -> list[list[Group]]:
        """Say what the checkpoint has changed; returns the settings that are in force.

        Args:
            trainer: It has loaded the checkpoint.
            configured: Settings as they are configured now.
            b0: Where b starts if the checkpoint does not know it.
            finds_lr: Whether eta is left to us: one that was found before is no surprise.
        """
        if not self.knows_b:
            rank_zero_info(f"The checkpoint was made without AdaLossCallback: b starts at b0={b0}.")
        saved = self.saved
        if saved is None:
            scheduled = any(config.reduce_on_plateau for config in trainer.lr_scheduler_configs)
            saved = settings(trainer.optimizers, keeps_lr=not scheduled)
        changes = overridden(configured, saved, but="lr" if finds_lr and self.saved is not None else "")
        if changes:
            rank_zero_warn(f"Resuming with {'; '.join(changes)}. To use yours, load the weights only in a new run.")
        return saved


def overridden(configured: list[list[Group]], loaded: list[list[Group]], but: str) -> list[str]:
    """One phrase for each setting, but the one of that name, that is no longer what was configured."""
    changes = {
        f"{name}={theirs.get(name)!r} from the checkpoint, not {value!r}": None
        for mine_of, theirs_of in zip(configured, loaded, strict=False)
        for mine, theirs in zip(mine_of, theirs_of, strict=False)
        for name, value in mine.items()
        if name != but and theirs.get(name, value) != value
    }
    return list(changes)
