"""The choices of ``auto=True``: alpha, eta, warm-up and cool-down; each part alone, too."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Literal

from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from adaloss_lightning.callback.probing import find_lr_of
from adaloss_lightning.callback.progress import Span
from adaloss_lightning.callback.rates import largest_lr, rescale
from adaloss_lightning.callback.true_loss import Fed
from adaloss_lightning.optim.loss_driven import ALPHA
from adaloss_lightning.optim.rate_adaptive import RateAdaptive
from adaloss_lightning.optim.recurrence import AUTO, Alpha
from adaloss_lightning.optim.schedule import cooling, default_warmup, shorten
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
        self.sets_lr = auto or lr is not None
        self.finds_lr = self.lr == AUTO
        self._given = {"warmup": warmup, "cooldown": cooldown}
        self.is_any = auto or any(part is not None for part in (alpha, lr, warmup, cooldown))
        self.reset()

    # -- before the first step -----------------------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget what was chosen for an earlier fit; a checkpoint may then bring what was chosen for this one."""
        self.found: dict[str, Any] = {}
        self._share = 0.0
        self._span = Span()
        self._factor = 1.0  # of a configured lr to what it was set to
        self._asked: list[int] = []  # steps of each optimizer before the run was resumed
        self._cooled_at = -1
        self._shortens = self.warmup == AUTO
        self._awaits_lr = self._is_resumed = self._watches_lr = False

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
        self._set_lr(trainer, self.lr)

    def _set_lr(self, trainer: Trainer, lr: float) -> None:
        if not self._is_resumed:
            self._factor = lr / largest_lr(trainer.optimizers)
        rescale(trainer.optimizers, [one.scheduler for one in trainer.lr_scheduler_configs], lr)

    def adopt(self, trainer: Trainer, module: LightningModule, new: Sequence[Fed]) -> None:
        """Let optimizers that have replaced others in mid-training run as those would: eta and warm-up."""
        for fed in new:
            if self._factor != 1.0:
                rescale([fed.optimizer], [], largest_lr([fed.optimizer]) * self._factor)
            if fed.adaptive is not None:
                self._warm_up(trainer, module, fed.adaptive)
        self._cooled_at = -1
        self._shortens = False  # steps and progress of the run are no longer those of the optimizers

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
            self._warn_of_what_stays(Span.of(trainer))
            return
        self._span = Span.of(trainer)
        if self.cooldown not in (AUTO, 0) and not self._span.is_known:
            raise MisconfigurationException(
                f"AdaLossCallback cannot cool down over the last {self.cooldown:.0%}: the end of this run is not "
                "known. Give Trainer(max_steps=...), or max_epochs with a loader that has a length and without "
                "max_time; or cooldown=0."
            )
        warmups = [self._warm_up(trainer, module, one) for one in optimizers]
        if self.cooldown == AUTO:
            self._share = 0.0 if trainer.lr_scheduler_configs or not self._span.is_known else _SHARE
        else:
            self._share = float(self.cooldown)
        if not optimizers:  # MoMo has a rate of its own
            self._share = 0.0
        self._note(trainer, optimizers, warmups)
        self._watches_lr = not isinstance(self.lr, str)
        is_probed = self.finds_lr and module.automatic_optimization and bool(optimizers)
        self._awaits_lr = is_probed and not trainer.fast_dev_run  # type: ignore[attr-defined]
        if not self._awaits_lr:
            is_left = self.finds_lr and not module.automatic_optimization
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

    def _warn_of_what_stays(self, now: Span) -> None:
        """Say which of the choices given for a resumed run count for nothing, and of an end that comes too early."""
        others = {
            name: self.found.get(name)
            for name, given in self._given.items()
            if given not in (None, AUTO) and given != self.found.get(name)
        }
        if others:
            kept = [f"{name}={value} from the checkpoint, not {self._given[name]}" for name, value in others.items()]
            rank_zero_warn(f"Resuming with {'; '.join(kept)}. To use yours, load the weights only in a new run.")
        if self._share and self._span.ends_before(now):
            rank_zero_warn(
                f"This run cools down to 0 at {self._span.end}, as it was begun, and goes on to {now.end}. "
                "To train on, load the weights only in a new run."
            )

    def _warm_up(self, trainer: Trainer, module: LightningModule, optimizer: RateAdaptive) -> int:
        """Start the warm-up; returns its steps, under manual optimization as many as there are with one a batch."""
        if self.warmup != AUTO:
            steps = found = int(self.warmup)
        elif module.automatic_optimization:
            steps = found = default_warmup(optimizer, self._span.steps(trainer))
        else:
            steps, found = default_warmup(optimizer), default_warmup(optimizer, self._span.batches(trainer))
        if steps:
            optimizer.warm_up(steps)
        return found

    def start_batch(self, trainer: Trainer, module: LightningModule, feds: Sequence[Fed]) -> bool:
        """Set the rate of the steps in this batch, in the first batch find eta; returns whether it was found now."""
        finds = self._awaits_lr
        if finds:
            self._find_lr(trainer, module, feds)
        if self._share or self._shortens:
            self._follow(trainer, module, feds)
        self._look_who_sets_rates(trainer, feds)
        return finds

    def _look_who_sets_rates(self, trainer: Trainer, feds: Sequence[Fed]) -> None:
        """Warn once, after the first step, of a module that writes its own rate over the one that we set."""
        if not self._watches_lr or not any(fed.history.asked for fed in feds):
            return
        self._watches_lr = False
        rate = largest_lr(trainer.optimizers)
        if not math.isclose(rate, self.found["lr"], rel_tol=1e-6) and not trainer.lr_scheduler_configs:
            rank_zero_warn(
                f"lr is {rate:g} after the first step, not the {self.found['lr']:.3g} that AdaLossCallback has set: "
                "the module writes it itself. Use a scheduler instead, which is rescaled."
            )

    def _follow(self, trainer: Trainer, module: LightningModule, feds: Sequence[Fed]) -> None:
        """Let warm-up and cool-down keep pace with the run: once for each step, with its first batch."""
        if module.automatic_optimization and trainer.global_step == self._cooled_at:
            return
        self._cooled_at = trainer.global_step
        progress = self._span.progress(trainer)
        for fed, asked in zip(feds, self._asked_of(feds), strict=True):
            if fed.adaptive is None:
                continue
            if self._shortens:
                shorten(fed.adaptive.param_groups, asked, progress)
            if self._share:
                fed.adaptive.cool(cooling(progress, self._share))

    def _asked_of(self, feds: Sequence[Fed]) -> list[int]:
        if not feds:  # they are fed no longer
            return self._asked
        before = self._asked if len(self._asked) == len(feds) else [0] * len(feds)
        return [fed.history.asked + count for fed, count in zip(feds, before, strict=True)]

    def hold(self, feds: Sequence[Fed]) -> None:
        """Keep what is counted of optimizers that will be fed no longer: a checkpoint may be made after that."""
        self._asked = self._asked_of(feds)

    def _find_lr(self, trainer: Trainer, module: LightningModule, feds: Sequence[Fed]) -> None:
        self._awaits_lr = False
        found = find_lr_of(trainer, module, feds[0].optimizer)
        self._set_lr(trainer, found.lr)
        self._watches_lr = True
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

    def state(self, feds: Sequence[Fed]) -> dict[str, Any]:
        """What a resumed run needs, in plain numbers and text."""
        return {
            "found": dict(self.found),
            "share": self._share,
            "span": asdict(self._span),
            "factor": self._factor,
            "asked": self._asked_of(feds),
            "shortens": self._shortens,
        }

    def resume(self, state: Mapping[str, Any]) -> None:
        """Choose nothing again; what the run was started with goes on."""
        self.found = dict(state.get("found", {}))
        self._share, self._span = state.get("share", 0.0), Span(**state.get("span", {}))
        self._factor, self._asked = state.get("factor", 1.0), list(state.get("asked", []))
        self._shortens = state.get("shortens", False)
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
