"""Every scheduler of torch composes: the effective rate is the scheduled eta over b (or its root)."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.nn import Parameter
from torch.optim import lr_scheduler

from adaloss_lightning import AdaLoss, AdamLoss, LossAdaptive
from tests import oracle
from tests.oracle import LossDriven

from .methods import METHODS, make_parameters, train

Make = Callable[[Any], Any]

SCHEDULERS: dict[str, Make] = {
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda epoch: 0.9**epoch),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda epoch: 0.9),
    "StepLR": lambda o: lr_scheduler.StepLR(o, 2, 0.5),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [1, 3], 0.5),
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, 0.5, 3),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, 0.5, 1.0, 4),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "SequentialLR": lambda o: lr_scheduler.SequentialLR(
        o, [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], [3]
    ),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 5),
    "ChainedScheduler": lambda o: lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(o, 0.1, 2), lr_scheduler.ExponentialLR(o, 0.9)], optimizer=o
    ),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, 3, cycle_momentum=True),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=10),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 8, 2.0),
    "SWALR": lambda o: torch.optim.swa_utils.SWALR(o, 0.05, 3),
}


def advance(scheduler: Any) -> None:
    scheduler.step(1.0) if isinstance(scheduler, lr_scheduler.ReduceLROnPlateau) else scheduler.step()


def test_no_scheduler_of_torch_is_missing() -> None:
    assert set(lr_scheduler.__all__) - {"LRScheduler"} - set(SCHEDULERS) == set()


@pytest.mark.parametrize("eta", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
@pytest.mark.parametrize("rule", ["adaloss", "adamloss"])
@pytest.mark.parametrize("name", SCHEDULERS)
def test_effective_rate_is_scheduled_eta_over_b(name: str, rule: str, eta: Any) -> None:
    def fresh() -> Any:
        return eta.clone() if isinstance(eta, torch.Tensor) else eta

    params, plain = make_parameters(), make_parameters()
    method: Any = AdaLoss if rule == "adaloss" else AdamLoss
    keywords: dict[str, Any] = {"momentum": 0.9} if rule == "adaloss" else {}
    optimizer = method(params, lr=fresh(), b0=1.0, **keywords)
    alone: Any = (
        torch.optim.SGD(plain, lr=fresh(), momentum=0.9)
        if rule == "adaloss"
        else torch.optim.Adam(plain, lr=fresh(), betas=(0.9, 0.99))
    )
    scheduler, scheduler_alone = SCHEDULERS[name](optimizer), SCHEDULERS[name](alone)
    group = LossDriven(oracle.sgd, 0.0, 1.0, rule, [])
    for step in range(8):
        train(optimizer, params, range(step, step + 1))
        alone.step()  # without gradients: only its schedule matters
        group.eta = float(alone.param_groups[0]["lr"])
        group.step(0.5 + step, [])
        assert float(optimizer.param_groups[0]["lr"]) == group.eta
        # the oracle keeps b, with a square and a root more a step
        assert optimizer.effective_lr[0].item() == pytest.approx(group.effective_lr, rel=1e-14)
        for key in ("momentum", "betas"):  # which some schedulers move too
            assert optimizer.param_groups[0].get(key) == alone.param_groups[0].get(key)
        advance(scheduler)
        advance(scheduler_alone)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_scheduler_built_on_the_base_before_wrapping(name: str) -> None:
    params = make_parameters()
    base = torch.optim.SGD(params, lr=0.1, momentum=0.9)
    scheduler = SCHEDULERS[name](base)
    optimizer = LossAdaptive(base)
    group = LossDriven(oracle.sgd, 0.0, 1.0, "adaloss", [])
    for step in range(6):
        train(optimizer, params, range(step, step + 1))
        group.eta = base.param_groups[0]["lr"]
        group.step(0.5 + step, [])
        assert optimizer.effective_lr[0].item() == pytest.approx(group.effective_lr, rel=1e-14)
        advance(scheduler)  # that it came before the optimizer's step would be a warning, so an error


@pytest.mark.parametrize("name", METHODS)
def test_every_method_is_scheduled(name: str) -> None:
    params = make_parameters()
    optimizer = METHODS[name](params, lr=0.1)
    scheduler = lr_scheduler.StepLR(optimizer, 1, 0.5)
    for step in range(3):
        train(optimizer, params, range(step, step + 1))
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.1 * 0.125


def test_a_scheduler_that_never_saw_a_step_still_warns() -> None:
    optimizer = AdaLoss([Parameter(torch.ones(1))])
    scheduler = lr_scheduler.StepLR(optimizer, 1)
    with pytest.warns(UserWarning, match="lr_scheduler.step"):
        scheduler.step()


def test_schedule_is_resumed() -> None:
    def build() -> tuple[list[Parameter], Any, Any]:
        params = make_parameters()
        optimizer = AdamLoss(params, lr=0.1)
        return params, optimizer, lr_scheduler.CosineAnnealingLR(optimizer, 9)

    def go_on(run: tuple[list[Parameter], Any, Any], steps: range) -> None:
        for step in steps:
            train(run[1], run[0], range(step, step + 1))
            run[2].step()

    whole, first, second = build(), build(), build()
    go_on(whole, range(6))
    go_on(first, range(3))
    second[1].load_state_dict(first[1].state_dict())
    second[2].load_state_dict(first[2].state_dict())
    with torch.no_grad():
        for p, q in zip(first[0], second[0], strict=True):
            q.copy_(p)
    go_on(second, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(whole[0], second[0], strict=True))
