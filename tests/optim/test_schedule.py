"""Warm-up and cool-down of the effective rate beside their formulas; eta and b stay what they are."""

import copy
import math
from typing import Any

import pytest
import torch
from torch.nn import Parameter

from adaloss_lightning import AdaGradNorm, AdaLoss, AdamLoss, LossAdaptive
from adaloss_lightning.optim.engine.host_step import MANY
from adaloss_lightning.optim.schedule import cooling, default_warmup
from tests import oracle
from tests.oracle import LossDriven, Weights
from tests.properties.strategies import numbers, on_device_path, values

from .methods import METHODS, equal, give_gradients, make_parameters, snapshot, train
from .test_first_loss import through_a_file

both_paths = pytest.mark.parametrize("path", [lambda optimizer: optimizer, on_device_path], ids=["host", "device"])
WARMUP = 4


def factor(step: int, cool: float = 1.0) -> float:
    return cool * min(1.0, (step + 1) / WARMUP)


MADE: dict[str, Any] = {
    "AdaLoss": lambda p, **kw: AdaLoss(p, **kw),
    "AdaLoss gradient": lambda p, **kw: AdaLoss(p, scale="gradient", **kw),
    "AdamLoss": lambda p, **kw: AdamLoss(p, **kw),
    "AdamLoss gradient": lambda p, **kw: AdamLoss(p, scale="gradient", **kw),
}


@both_paths
@pytest.mark.parametrize("groups", [1, 2, MANY])
@pytest.mark.parametrize("name", MADE)
def test_the_rate_of_each_step_is_that_of_the_papers_loop_times_the_factors(name: str, groups: int, path: Any) -> None:
    """Also where b divides the gradient, which Adam would not notice of a schedule."""
    parameters = [Parameter(values(i, (3,), torch.float64)) for i in range(groups)]
    optimizer = path(MADE[name]([{"params": [p], "lr": 0.1 + 0.1 * i} for i, p in enumerate(parameters)], b0=0.5))
    update, rule = (oracle.adam, "adamloss") if "Adam" in name else (oracle.sgd, "adaloss")
    loops = [
        LossDriven(
            update, 0.1 + 0.1 * i, 0.5, rule, [Weights(numbers(p))], scale="gradient" if "gradient" in name else "lr",
            options={"betas": (0.9, 0.99)} if rule == "adamloss" else {},
        )
        for i, p in enumerate(parameters)
    ]  # fmt: skip
    etas = [loop.eta for loop in loops]
    optimizer.warm_up(WARMUP)
    for step in range(7):
        cool = 1.0 if step < 5 else 0.5
        optimizer.cool(cool)
        for index, (p, loop, eta) in enumerate(zip(parameters, loops, etas, strict=True)):
            p.grad = values(100 * (step + 1) + index, (3,), torch.float64)
            loop.eta = eta * factor(step, cool)
            loop.step(0.5 + step, [numbers(p.grad)])
        optimizer.step(loss=0.5 + step)
        assert [group["lr"] for group in optimizer.param_groups] == etas
    for p, loop, b, rate in zip(parameters, loops, optimizer.b, optimizer.effective_lr, strict=True):
        expected = torch.tensor(loop.parameters[0].values, dtype=torch.float64)
        torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-13)
        assert b.item() == pytest.approx(loop.b, rel=1e-13)
        assert rate.item() == pytest.approx(loop.effective_lr, rel=1e-13)


@both_paths
@pytest.mark.parametrize("name", METHODS)
def test_every_method_warms_up_and_cools_down(name: str, path: Any) -> None:
    """One step at half the rate by its warm-up, and one by a cool-down, and one by half of eta: the same."""
    ways = []
    for way in ("warm-up", "cool-down", "eta"):
        params = make_parameters()
        optimizer = path(METHODS[name](params, lr=0.05 if way == "eta" else 0.1))
        if way == "warm-up":
            optimizer.warm_up(2)
        elif way == "cool-down":
            optimizer.cool(0.5)
        train(optimizer, params, range(1))
        ways.append(([p.detach() for p in params], optimizer.b, optimizer.effective_lr))
    for other in ways[:2]:
        torch.testing.assert_close(other, ways[2], rtol=1e-12, atol=1e-13)


def test_adagrad_norm_per_channel_warms_up() -> None:
    """Its gradient of each channel is divided by that channel's norm: a first step moves by the rate."""
    p = Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimizer = AdaGradNorm([p], lr=1.0, b0=1e-9, granularity="channel")
    optimizer.warm_up(4)
    p.grad = torch.tensor([[3.0, 4.0], [30.0, 40.0]], dtype=torch.float64)
    optimizer.step()
    expected = torch.tensor([[-0.15, -0.2], [-0.15, -0.2]], dtype=torch.float64)
    torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=0)


@both_paths
def test_a_scheduler_moves_eta_beside_them(path: Any) -> None:
    params = make_parameters()
    optimizer = path(AdaLoss(params, lr=0.8, b0=3.0))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)
    optimizer.warm_up(WARMUP)
    s, rates = 9.0, []
    for step in range(6):
        s += 0.5 + step
        optimizer.cool(1.0 - 0.1 * step)
        train(optimizer, params, range(step, step + 1))
        rates.append(0.8 * 0.5 ** (step // 2) / math.sqrt(s) * factor(step, 1.0 - 0.1 * step))
        assert optimizer.effective_lr[0].item() == pytest.approx(rates[-1], rel=1e-14)
        scheduler.step()
    assert optimizer.param_groups[0]["lr"] == 0.8 * 0.5**3


@both_paths
@pytest.mark.parametrize("skip", ["loss", "found_inf"])
@pytest.mark.parametrize("method", [AdaLoss, AdamLoss])
def test_a_skipped_step_does_not_count(method: Any, skip: str, path: Any) -> None:
    params = make_parameters()
    optimizer = path(method(params, lr=1.0, alpha=0.0))
    optimizer.warm_up(WARMUP)
    seen = []
    for step in range(5):
        give_gradients(params, step)
        bad = step in (0, 2)
        if skip == "found_inf":
            optimizer.found_inf = torch.tensor(float(bad))
        optimizer.step(loss=math.nan if bad and skip == "loss" else 1.0)
        seen.append(optimizer.effective_lr[0].item())
    assert seen[1:] == pytest.approx([0.25, 0.25, 0.5, 0.75], rel=1e-14)


@both_paths
@pytest.mark.parametrize("stop", [0, 2, 6])
@pytest.mark.parametrize("name", METHODS)
def test_a_run_resumed_in_its_warm_up_goes_on_bit_for_bit(name: str, stop: int, path: Any) -> None:
    params = make_parameters()
    optimizer = path(METHODS[name](params, lr=0.03))
    optimizer.warm_up(WARMUP)
    train(optimizer, params, range(stop))
    weights = [Parameter(p.detach().clone()) for p in params]
    resumed = path(METHODS[name](weights, lr=0.5))
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    copied, copies = copy.deepcopy((optimizer, params))
    path(copied)
    for each, own in ((optimizer, params), (resumed, weights), (copied, copies)):
        train(each, own, range(stop, 7))
    assert equal(snapshot(optimizer, params), snapshot(resumed, weights))
    assert equal(snapshot(optimizer, params), snapshot(copied, copies))
    assert equal(optimizer.effective_lr, resumed.effective_lr)


def test_a_saved_count_does_not_move_and_a_bare_checkpoint_has_none() -> None:
    params = make_parameters()
    optimizer = on_device_path(AdaLoss(params, lr=1.0, alpha=0.0))
    optimizer.warm_up(WARMUP)
    train(optimizer, params, range(2))
    saved = optimizer.state_dict()
    before = copy.deepcopy(saved["param_groups"])
    train(optimizer, params, range(2, 3))
    assert equal(saved["param_groups"], before)
    bare = AdaLoss(make_parameters(), lr=1.0, alpha=0.0)
    bare.warm_up(WARMUP)
    bare.load_state_dict(torch.optim.SGD(make_parameters(), lr=1.0).state_dict())
    train(bare, bare.param_groups[0]["params"], range(1))
    assert bare.effective_lr[0].item() == 1.0  # the checkpoint's run does not warm up


def test_a_warm_up_may_be_ended_and_begun_again() -> None:
    params = make_parameters()
    optimizer = AdaLoss(params, lr=1.0, alpha=0.0)
    rates = []
    for steps in (4, 0, 2):
        optimizer.warm_up(steps)
        train(optimizer, params, range(1))
        rates.append(optimizer.effective_lr[0].item())
    assert rates == [0.25, 1.0, 0.5]


def test_a_group_that_comes_in_mid_warm_up_joins_it() -> None:
    params = make_parameters()
    optimizer = AdaLoss(params[:1], lr=1.0, alpha=0.0)
    optimizer.warm_up(WARMUP)
    train(optimizer, params[:1], range(2))
    optimizer.add_param_group({"params": params[1:]})
    train(optimizer, params, range(1))
    assert [rate.item() for rate in optimizer.effective_lr] == [0.75, 0.75]


def test_a_rate_of_zero_changes_nothing_but_b() -> None:
    params = make_parameters()
    optimizer = AdaLoss(params, lr=1.0)
    optimizer.cool(0.0)
    before = [p.detach().clone() for p in params]
    train(optimizer, params, range(2))
    assert equal(before, [p.detach() for p in params])
    assert optimizer.b[0].item() == pytest.approx(math.sqrt(1 + 0.5 + 1.5), rel=1e-15)


@pytest.mark.parametrize("bad", [-1, 2.5, math.nan, math.inf, "auto", None])
def test_refuses_a_bad_warm_up_and_changes_nothing(bad: Any) -> None:
    params = make_parameters()
    optimizer = AdaLoss(params)
    before = snapshot(optimizer, params)
    with pytest.raises(ValueError, match=r"^Invalid warmup="):
        optimizer.warm_up(bad)
    assert equal(before, snapshot(optimizer, params))


@pytest.mark.parametrize("bad", [-0.1, 1.1, math.nan, math.inf])
def test_refuses_a_bad_factor(bad: float) -> None:
    optimizer = AdaLoss(make_parameters())
    with pytest.raises(ValueError, match=r"^Invalid factor=.*Must be >= 0 and <= 1\.$"):
        optimizer.cool(bad)


@pytest.mark.parametrize(("make", "total", "expected"), [
    (lambda p: AdamLoss(p), math.inf, 200),  # beta2 = 0.99
    (lambda p: torch.optim.Adam(p), math.inf, 2000),
    (lambda p: torch.optim.Adam(p), 500, 100),  # a fifth
    (lambda p: torch.optim.Adam(p), 4, 0),
    (lambda p: LossAdaptive(torch.optim.AdamW(p, betas=(0.9, 0.95))), math.inf, 40),
    (lambda p: torch.optim.Adam([{"params": p, "betas": (0.9, 0.9)}]), math.inf, 20),
    (lambda p: torch.optim.SGD(p, lr=0.1), math.inf, 100),
    (lambda p: torch.optim.SGD(p, lr=0.1), 99, 19),
    (lambda p: torch.optim.RMSprop(p), math.inf, 100),
])  # fmt: skip
def test_default_warmup(make: Any, total: float, expected: int) -> None:
    assert default_warmup(make(make_parameters()), total) == expected


@pytest.mark.parametrize(("progress", "share", "expected"), [
    (0.0, 0.25, 1.0), (0.75, 0.25, 1.0), (0.875, 0.25, 0.5), (0.99, 0.25, 0.04), (1.0, 0.25, 0.0), (1.5, 0.25, 0.0),
    (0.0, 1.0, 1.0), (0.25, 1.0, 0.75), (1.0, 0.0, 1.0),
])  # fmt: skip
def test_cooling(progress: float, share: float, expected: float) -> None:
    assert cooling(progress, share) == pytest.approx(expected, rel=1e-12)


def test_a_rate_that_is_a_tensor_with_a_gradient_warms_up() -> None:
    eta = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    p = torch.ones(2, dtype=torch.float64)
    optimizer = AdaLoss([Parameter(p)], lr=eta, alpha=0.0, differentiable=False)
    optimizer.warm_up(2)
    for step in range(3):
        give_gradients(optimizer.param_groups[0]["params"], step)
        optimizer.step(loss=1.0)
        assert optimizer.effective_lr[0].item() == 0.5 * min(1.0, (step + 1) / 2)
