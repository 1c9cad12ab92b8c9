"""Eta in groups and schedulers, when the callback sets it."""

import inspect
from typing import Any

import pytest
import timm.scheduler
import torch
from torch import Tensor, nn
from torch.optim import lr_scheduler

from adaloss_lightning import AdaLossCallback
from tests.callback.models import Rates, Regression, fit, optimizer_of

SCHEDULERS: dict[str, Any] = {
    "none": None,
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3, 0.5),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: min(1.0, step / 4) * 0.9**step),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.1, 1.0, 5),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 12),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, [0.2, 0.1, 0.0], total_steps=12),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.LinearLR(o, 0.1, 1.0, 3), lr_scheduler.CosineAnnealingLR(o, 9)], [3]
    ),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, [0.2, 0.1, 0.0], [0.4, 0.3, 0.0], 3, cycle_momentum=False),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 4),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, [0.04, 0.03, 0.0], anneal_epochs=6),
    "timm CosineLRScheduler": lambda o: timm.scheduler.CosineLRScheduler(o, 12, warmup_t=3),
    "timm TanhLRScheduler": lambda o: timm.scheduler.TanhLRScheduler(o, 12, warmup_t=3),
    "timm StepLRScheduler": lambda o: timm.scheduler.StepLRScheduler(o, 5, warmup_t=2),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(
        o, patience=2, threshold=1e9, threshold_mode="abs"  # no loss is better: it always reduces
    ),
}  # fmt: skip


class Groups(Regression):
    """Three groups, one of them frozen, and a scheduler that steps at each step."""

    def __init__(self, scheduler: Any, lr: Any = float) -> None:
        super().__init__()
        self.extra = nn.Parameter(torch.zeros(1))
        self.scheduler, self.lr = scheduler, lr

    def compute_loss(self, batch: Any) -> Tensor:
        loss = super().compute_loss(batch) + self.extra.sum() ** 2
        self.log("own", loss)
        return loss

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        if isinstance(scheduler, timm.scheduler.scheduler.Scheduler):
            scheduler.step(self.trainer.global_step)
        else:
            super().lr_scheduler_step(scheduler, metric)

    def configure_optimizers(self) -> Any:
        groups = [
            {"params": [p], "lr": self.lr(lr)}
            for p, lr in zip((self.net.weight, self.net.bias, self.extra), (0.2, 0.1, 0.0), strict=True)
        ]
        optimizer = torch.optim.SGD(groups, lr=0.1)
        if self.scheduler is None:
            return optimizer
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.scheduler(optimizer), "interval": "step", "monitor": "own"},
        }


@pytest.mark.parametrize("lr", [float, torch.tensor], ids=["float", "tensor"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers_and_groups_keep_their_ratios(name: str, lr: Any) -> None:
    if name == "SequentialLR":
        stock = torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], lr=lr(0.1))
        SCHEDULERS[name](stock)
        if stock.param_groups[0]["initial_lr"] is stock.param_groups[0]["lr"]:
            pytest.skip("torch 2.7 writes each rate into the tensor that it starts from")
    seen: list[list[list[float]]] = []
    for callback in (AdaLossCallback(), AdaLossCallback(lr=0.05)):
        rates = Rates()
        trainer = fit(Groups(SCHEDULERS[name], lr), callback, callbacks=[rates], max_epochs=3)
        assert trainer.global_step == 12
        seen.append(rates.etas)
    for configured, given in zip(*seen, strict=True):
        tolerance = 1e-12 if lr is float else 1e-5
        assert given == pytest.approx([eta * 0.05 / 0.2 for eta in configured], rel=tolerance, abs=1e-18)
        assert given[2] == 0.0


def test_the_floor_of_a_schedule_keeps_its_ratio() -> None:
    def make(parameters: Any) -> Any:
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        return [optimizer], [lr_scheduler.CosineAnnealingLR(optimizer, 2, eta_min=0.01)]

    trainer = fit(Regression(make), AdaLossCallback(lr=0.005))
    assert optimizer_of(trainer).param_groups[0]["lr"] == pytest.approx(0.0005)

    def plateau(parameters: Any) -> Any:
        optimizer = torch.optim.SGD(parameters, lr=0.1)
        scheduler = lr_scheduler.ReduceLROnPlateau(optimizer, min_lr=0.01)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "monitor": "adaloss/loss"}}

    trainer = fit(Regression(plateau), AdaLossCallback(lr=0.005))
    assert trainer.lr_scheduler_configs[0].scheduler.min_lrs == pytest.approx([0.0005])


TIMM: dict[str, Any] = {
    "cosine": lambda o: timm.scheduler.CosineLRScheduler(o, 12, lr_min=0.01, warmup_t=3, warmup_lr_init=0.02),
    "plateau": lambda o: timm.scheduler.PlateauLRScheduler(o, lr_min=0.01, warmup_t=3, warmup_lr_init=0.02),
}


@pytest.mark.filterwarnings("ignore:PlateauLRScheduler is deprecated")
@pytest.mark.parametrize("name", TIMM)
def test_floor_and_start_of_timms_schedules_keep_their_ratio(name: str) -> None:
    if name == "plateau" and "verbose" in inspect.signature(timm.scheduler.PlateauLRScheduler).parameters:
        pytest.skip("timm 1.0.9 gives torch an argument that torch 2.7 has no more")
    configured, given = Rates(), Rates()
    fit(Groups(TIMM[name]), AdaLossCallback(), callbacks=[configured], max_epochs=3)
    trainer = fit(Groups(TIMM[name]), AdaLossCallback(lr=0.05), callbacks=[given], max_epochs=3)
    for before, after in zip(configured.etas, given.etas, strict=True):
        assert after == pytest.approx([eta * 0.05 / 0.2 for eta in before], rel=1e-12)
    if name == "plateau":
        assert trainer.lr_scheduler_configs[0].scheduler.lr_scheduler.min_lrs == pytest.approx([0.0025] * 3)


def test_a_schedule_of_something_else_stays() -> None:
    """timm's can move any setting of a group."""

    class Decay(timm.scheduler.scheduler.Scheduler):
        def __init__(self, optimizer: Any) -> None:
            super().__init__(optimizer, "weight_decay")

        def _get_lr(self, t: int) -> list[float]:
            return [value * 0.5**t for value in self.base_values]

    class Module(Groups):
        def configure_optimizers(self) -> Any:
            optimizer = torch.optim.SGD(self.parameters(), lr=0.1, weight_decay=0.8)
            return {"optimizer": optimizer, "lr_scheduler": {"scheduler": Decay(optimizer), "interval": "step"}}

    trainer = fit(Module(None), AdaLossCallback(lr=0.05), max_epochs=1)
    assert optimizer_of(trainer).param_groups[0]["weight_decay"] == pytest.approx(0.8 * 0.5**4)


def test_a_module_that_writes_its_own_rate_over_ours_is_warned() -> None:
    class Warms(Regression):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            optimizer.step(closure=optimizer_closure)
            for group in optimizer.param_groups:
                group["lr"] = min(1.0, (self.trainer.global_step + 1) / 4) * 0.1

    with pytest.warns(UserWarning, match=r"lr is 0.025 after the first step, not the 0.7 that .* Use a scheduler"):
        fit(Warms(), AdaLossCallback(lr=0.7))
    fit(Warms(), AdaLossCallback())


def test_the_largest_rate_becomes_lr_to_the_last_bit() -> None:
    value = 0.1 + 0.2
    callback = AdaLossCallback(lr=value)
    trainer = fit(Regression(lambda p: torch.optim.Adam(p, lr=1e-3)), callback)
    assert optimizer_of(trainer).param_groups[0]["lr"] == value == callback.found["lr"]


def test_a_tensor_lr_of_the_user_is_not_written_into() -> None:
    eta = torch.tensor(0.1)
    trainer = fit(Regression(lambda p: torch.optim.SGD(p, lr=eta)), AdaLossCallback(auto=True))
    assert eta.item() == pytest.approx(0.1)
    assert isinstance(optimizer_of(trainer).param_groups[0]["lr"], Tensor)
