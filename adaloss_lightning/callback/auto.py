"""What ``auto=True`` decides: alpha, eta, warm-up and cool-down; each part alone, too."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from adaloss_lightning.callback.metrics import log_settings
from adaloss_lightning.callback.probing import find_lr_of
from adaloss_lightning.callback.rates import largest_lr, rescale
from adaloss_lightning.callback.trainer_internals import callbacks_of
from adaloss_lightning.callback.true_loss import Fed
from adaloss_lightning.optim.loss_driven import ALPHA
from adaloss_lightning.optim.rate_adaptive import RateAdaptive
from adaloss_lightning.optim.recurrence import AUTO, Alpha
from adaloss_lightning.optim.schedule import cooling, default_warmup
from adaloss_lightning.optim.validation import require_alpha, require_number

Auto = Literal["auto"]
_SHARE = 0.25  # of a run that cools down
_CONFIGURED = "configured"
_STEPS = "a whole number of steps >= 0, or 'auto'"
_A_SHARE = "a share of the run, >= 0 and <= 1, or 'auto'"


class Choices:
    """What the callback was told of alpha, eta, warm-up and cool-down, and what it has made of it.

    Args:
        alpha, lr, warmup, cooldown: As for the callback; None is "auto" where ``auto`` is set, and off elsewhere.
        auto: Whether nothing is left to tune.

    Attributes:
        found: What was chosen: ``lr``, ``alpha``, ``warmup`` and ``cooldown``; empty where nothing was asked for.

    Raises:
        ValueError: If an argument is out of its bounds.
    """

    def __init__(
        self,
        *,
        alpha: Alpha | None,
        lr: float | Literal["auto", "configured"] | None,
        warmup: int | Auto | None,
        cooldown: float | Auto | None,
        auto: bool,
    ) -> None:
        if alpha is not None:
            require_alpha(alpha)
        if lr is not None and lr not in (AUTO, _CONFIGURED):
            _require("lr", lr, "a number > 0, 'auto' or 'configured'", above=0)
        if warmup is not None and warmup != AUTO:
            _require("warmup", warmup, _STEPS, at_least=0)
            if warmup != int(warmup):
                raise ValueError(f"Invalid warmup={warmup!r}. Must be {_STEPS}.")
        if cooldown is not None and cooldown != AUTO:
            _require("cooldown", cooldown, _A_SHARE, at_least=0)
            if not cooldown <= 1:
                raise ValueError(f"Invalid cooldown={cooldown!r}. Must be {_A_SHARE}.")
        self._is_lr_asked_for = lr == AUTO
        self.alpha: Alpha = (AUTO if auto else 1.0) if alpha is None else alpha
        self.lr: Any = (AUTO if auto else _CONFIGURED) if lr is None else lr
        self.warmup: Any = (AUTO if auto else 0) if warmup is None else warmup
        self.cooldown: Any = (AUTO if auto else 0) if cooldown is None else cooldown
        self.is_any = auto or any(part is not None for part in (alpha, lr, warmup, cooldown))
        self.reset()

    # -- before the first step -----------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget what was chosen for an earlier fit; a checkpoint may then bring what was chosen for this one."""
        self.found: dict[str, Any] = {}
        self._share = 0.0
        self._end = 0.0  # in optimizer steps, or in batches under manual optimization
        self._awaits_lr = self._is_resumed = self._is_logged = False

    def configure(self, trainer: Trainer, module: LightningModule) -> None:
        """Set an eta that was given, before a checkpoint may bring its own.

        Raises:
            MisconfigurationException: If eta is to be found under manual optimization, or set where it is 0.
        """
        if self._is_lr_asked_for and not module.automatic_optimization:
            raise MisconfigurationException(
                "AdaLossCallback cannot find lr under manual optimization: it does not know which losses are for which "
                "optimizer. Give lr=..., or leave it as configured; find_lr() does it for a loop of your own."
            )
        if isinstance(self.lr, str):
            return
        if largest_lr(trainer.optimizers) <= 0:
            raise MisconfigurationException(
                f"AdaLossCallback cannot set lr={self.lr}: it is 0 in every parameter group, and their ratio is kept. "
                "Configure the optimizer with an lr > 0."
            )
        rescale(trainer.optimizers, [one.scheduler for one in trainer.lr_scheduler_configs], self.lr)

    def begin(self, trainer: Trainer, module: LightningModule, feds: Sequence[Fed]) -> None:
        """Decide on warm-up and cool-down; eta is found in the first batch.

        Raises:
            MisconfigurationException: If a cool-down was asked for and the end of the run is not known.
        """
        if not self.is_any:
            return
        optimizers = [fed.adaptive for fed in feds if fed.adaptive is not None]
        if self._is_resumed:
            if not self.found:  # the checkpoint was made without us: its eta stays
                self._note(trainer, optimizers, [])
            if self._share and (end := _end_of(trainer, module)) > self._end:
                rank_zero_warn(
                    f"This run cools down to 0 at step {self._end:.0f}, as it was begun, and goes on to step "
                    f"{end:.0f}. To train on, load the weights only in a new run."
                )
            return
        self._end = _end_of(trainer, module)
        if self.cooldown not in (AUTO, 0) and not math.isfinite(self._end):
            raise MisconfigurationException(
                f"AdaLossCallback cannot cool down over the last {self.cooldown:.0%}: the end of this run is not "
                "known. Give Trainer(max_steps=...), or max_epochs with a loader that has a length and without "
                "max_time; or cooldown=0."
            )
        warmups = [self._warm_up(one, self._end - _done(trainer, module)) for one in optimizers]
        if self.cooldown == AUTO:
            self._share = 0.0 if trainer.lr_scheduler_configs or not math.isfinite(self._end) else _SHARE
        else:
            self._share = float(self.cooldown)
        if not optimizers:  # MoMo has a rate of its own
            self._share = 0.0
        self._note(trainer, optimizers, warmups)
        is_probed = self.lr == AUTO and module.automatic_optimization and bool(optimizers)
        self._awaits_lr = is_probed and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if not self._awaits_lr:
            is_left = self.lr == AUTO and not module.automatic_optimization
            self._tell(
                f"lr {self.found['lr']:.3g}"
                + (", as configured" if isinstance(self.lr, str) else "")
                + (" (manual optimization: find_lr() finds it)" if is_left else "")
            )

    def _note(self, trainer: Trainer, optimizers: Sequence[RateAdaptive], warmups: Sequence[int]) -> None:
        alphas = [group[ALPHA] for one in optimizers for group in one.param_groups if ALPHA in group]
        self.found = {
            "lr": largest_lr(trainer.optimizers),
            "alpha": _one(alphas, self.alpha),
            "warmup": _one(warmups, 0),
            "cooldown": self._share,
        }

    def _warm_up(self, optimizer: RateAdaptive, steps: float) -> int:
        warmup = default_warmup(optimizer, steps) if self.warmup == AUTO else int(self.warmup)
        if warmup:
            optimizer.warm_up(warmup)
        return warmup

    def start_batch(self, trainer: Trainer, module: LightningModule, feds: Sequence[Fed]) -> None:
        """Set the rate of the steps in this batch; in the first batch find eta, and log all that was set."""
        if self._awaits_lr:
            self._find_lr(trainer, module, feds)
        if not self._is_logged:
            self._is_logged = True
            log_settings(trainer, feds, self.found)
        if self._share:
            factor = cooling(_done(trainer, module) / self._end, self._share)
            for fed in feds:
                if fed.adaptive is not None:
                    fed.adaptive.cool(factor)

    def _find_lr(self, trainer: Trainer, module: LightningModule, feds: Sequence[Fed]) -> None:
        self._awaits_lr = False
        found = find_lr_of(trainer, module, feds[0].optimizer)
        rescale(trainer.optimizers, [one.scheduler for one in trainer.lr_scheduler_configs], found.lr)
        self.found["lr"] = found.lr
        self._tell(str(found))

    def _tell(self, lr: str) -> None:
        found = self.found
        parts = [
            lr,
            f"alpha {found['alpha']}",
            f"warm-up {found['warmup']} steps",
            f"cool-down {found['cooldown']:.0%}",
        ]
        rank_zero_info(f"AdaLossCallback: {'; '.join(parts)}.")

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, in plain numbers and text."""
        return {"found": dict(self.found), "share": self._share, "end": self._end}

    def resume(self, state: Mapping[str, Any]) -> None:
        """Choose nothing again; what the run was started with goes on."""
        self.found = dict(state.get("found", {}))
        self._share, self._end = state.get("share", 0.0), state.get("end", 0.0)
        self._is_resumed = True


def _require(name: str, value: Any, what: str, **bounds: float) -> None:
    try:
        if isinstance(value, bool):
            raise ValueError
        require_number(name, value, **bounds)  # type: ignore[arg-type]
    except ValueError:
        raise ValueError(f"Invalid {name}={value!r}. Must be {what}.") from None


def _one(values: Sequence[Any], otherwise: Any) -> Any:
    """The value where all are the same, else all of them."""
    if not values:
        return otherwise
    return values[0] if all(value == values[0] for value in values) else list(values)


def _end_of(trainer: Trainer, module: LightningModule) -> float:
    """Optimizer steps of the whole run, under manual optimization batches; infinite where the end is not known."""
    if any(getattr(one, "time_remaining", lambda: None)() is not None for one in callbacks_of(trainer)):  # Timer
        return math.inf
    if module.automatic_optimization:
        steps = trainer.estimated_stepping_batches
        return float(steps) if steps > 0 else math.inf
    if trainer.max_steps != -1 or trainer.max_epochs in (None, -1):
        return math.inf  # how many steps a batch makes is the module's own affair
    return float(trainer.num_training_batches) * trainer.max_epochs


def _done(trainer: Trainer, module: LightningModule) -> int:
    """How many of them are over when a batch begins."""
    return trainer.global_step if module.automatic_optimization else max(0, trainer.fit_loop.total_batch_idx)
