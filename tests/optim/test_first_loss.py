"""alpha="auto": the loss in units of the first one, F = |f_1 - c|, beside the paper's loop with F written out."""

import copy
import io
import math
import pickle
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch._dynamo.testing
from torch import Tensor
from torch.nn import Parameter

from adaloss_lightning import AdaLoss, AdamLoss, LossAdaptive
from adaloss_lightning.optim.engine.host_step import MANY
from adaloss_lightning.optim.recurrence import FLOOR
from tests import oracle
from tests.oracle import LossDriven, Weights
from tests.properties.strategies import numbers, on_device_path, values

from .methods import LOSS_DRIVEN, equal, give_gradients, make_parameters, snapshot, train

FIRST = "adaloss_first_loss"
LOSSES = [1.7, 0.0, 4.25, -3.0, 2.5, 0.9]
both_paths = pytest.mark.parametrize("path", [lambda optimizer: optimizer, on_device_path], ids=["host", "device"])
both_methods = pytest.mark.parametrize("method", [AdaLoss, AdamLoss])


def through_a_file(state_dict: Any) -> Any:
    file = io.BytesIO()
    torch.save(state_dict, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def known(optimizer: Any) -> list[float | None]:
    """The first loss of each group, None where none is known yet."""
    firsts = [group.get(FIRST) for group in optimizer.param_groups]
    return [None if first is None or math.isnan(first) else float(first) for first in firsts]


class Side:
    """Groups of one vector each with settings of their own, in the optimizer and in the paper's loop."""

    def __init__(self, method: Any, settings: Sequence[dict[str, Any]]) -> None:
        self.method = method
        self.parameters = [Parameter(values(index, (3,), torch.float64)) for index in range(len(settings))]
        groups = [
            {"params": [p], "lr": 0.3 / (1 + index % 3), **{f"adaloss_{key}": value for key, value in own.items()}}
            for index, (p, own) in enumerate(zip(self.parameters, settings, strict=True))
        ]
        # lr of no group, which is to stay unused
        self.optimizer = method(groups, lr=7.0, **({"momentum": 0.9} if method is AdaLoss else {}))
        self.loops = [
            self.loop(p, own, 0.3 / (1 + i % 3))
            for i, (p, own) in enumerate(zip(self.parameters, settings, strict=True))
        ]

    def loop(self, p: Parameter, own: dict[str, Any], eta: float, first: float = LOSSES[0]) -> LossDriven:
        b0, alpha, c = own.get("b0", 1.0), own.get("alpha", "auto"), own.get("c", 0.0)
        unit, weights = abs(first - c), [Weights(numbers(p))]
        if self.method is AdaLoss:
            b, alpha = (unit * b0, unit) if alpha == "auto" else (b0, alpha)
            return LossDriven(oracle.sgd, eta, b, "adaloss", weights, alpha, c, options={"momentum": 0.9})
        return LossDriven(
            oracle.adam, eta, b0, "adamloss", weights, 1 / unit if alpha == "auto" else alpha, c,
            options={"betas": (0.9, 0.99)},
        )  # fmt: skip

    def step(self, index: int, loss: float, **how: Any) -> None:
        for number, (p, loop) in enumerate(zip(self.parameters, self.loops, strict=True)):
            p.grad = values(1000 * (index + 1) + number, (3,), torch.float64)
            loop.step(loss, [numbers(p.grad)])
        self.optimizer.step(loss=loss, **how)

    def check(self) -> None:
        for p, b, rate, loop in zip(
            self.parameters, self.optimizer.b, self.optimizer.effective_lr, self.loops, strict=True
        ):
            expected = torch.tensor(loop.parameters[0].values, dtype=torch.float64)
            # float64; the loop keeps b and not its square
            torch.testing.assert_close(p.detach(), expected, rtol=1e-12, atol=1e-13)
            assert b.item() == pytest.approx(loop.b, rel=1e-13)
            assert rate.item() == pytest.approx(loop.effective_lr, rel=1e-13)


ALL_AUTO = [{"alpha": "auto", "c": (0.0, -1.5, 2.0)[i % 3], "b0": 0.5 + i % 2} for i in range(3 * MANY)]
MIXED = [own | {"alpha": "auto" if i % 4 else 0.3} for i, own in enumerate(ALL_AUTO)]


@both_paths
@pytest.mark.parametrize("count", [1, 3, MANY, 2 * MANY + 1])
@pytest.mark.parametrize("settings", [ALL_AUTO, MIXED, MIXED[1:]], ids=["auto", "number first", "auto first"])
@both_methods
def test_it_is_the_papers_loop_with_the_unit_written_out(method: Any, settings: Any, count: int, path: Any) -> None:
    side = Side(method, settings[:count])
    path(side.optimizer)
    for index, loss in enumerate(LOSSES):
        side.step(index, loss)
        side.check()


@both_methods
def test_before_the_first_step_b_is_b0(method: Any) -> None:
    optimizer = method(make_parameters(), lr=0.2, b0=4.0, alpha="auto")
    assert optimizer.b[0].item() == pytest.approx(4.0, rel=1e-15)
    assert optimizer.effective_lr[0].item() == pytest.approx(0.05 if method is AdaLoss else 0.1, rel=1e-15)


def advantages_surrogate() -> float:
    """PPO's first loss: the mean of advantages that were normalized in float32."""
    advantages = torch.randn(2048, generator=torch.Generator().manual_seed(4))
    return -((advantages - advantages.mean()) / (advantages.std() + 1e-8)).mean().item()


@both_paths
@pytest.mark.parametrize("bad", [0.0, FLOOR / 2, -FLOOR / 2, advantages_surrogate(), math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("count", [1, 2, MANY])
@both_methods
def test_a_first_loss_that_is_no_unit_is_waited_out(method: Any, count: int, bad: float, path: Any) -> None:
    assert not abs(bad) > FLOOR or math.isinf(bad)
    side = Side(method, [{"alpha": "auto", "b0": 0.5}] * count)
    path(side.optimizer)
    give_gradients(side.parameters, 0, 0.0)
    side.optimizer.step(loss=bad)
    assert known(side.optimizer) == [None] * count
    assert side.optimizer.b[0].item() == pytest.approx(0.5, rel=1e-15)
    if math.isfinite(bad):  # the step went through, at b0, and its Adam counts it
        return
    for index, loss in enumerate(LOSSES):
        side.step(index, loss)
        side.check()


@both_paths
@both_methods
def test_the_next_loss_is_the_unit_and_the_one_after_it_is_not(method: Any, path: Any) -> None:
    params = make_parameters()
    optimizer = path(method(params, b0=0.5, alpha="auto", c=1.0))
    for loss in (1.0, 1.0 + FLOOR / 2, -2.0, 7.0):
        give_gradients(params, 0)
        optimizer.step(loss=loss)
    assert known(optimizer) == [-2.0]
    # s from b0**2 or b0 by 3/3 and 6/3, and b in the unit 3
    expected = 3 * math.sqrt(0.25 + 1 + 2) if method is AdaLoss else 0.5 + 1 + 2
    assert optimizer.b[0].item() == pytest.approx(expected, rel=1e-6)  # the two first losses are up to FLOOR / 2 off


@both_paths
def test_groups_wait_each_for_their_own_c(path: Any) -> None:
    params = make_parameters()
    groups = [{"params": [p], "adaloss_c": c} for p, c in zip(params, (1.5, 0.0, -1.0), strict=True)]
    optimizer = path(AdaLoss(groups, alpha="auto"))
    for loss in (1.5, 4.0, 9.0):
        give_gradients(params, 0)
        optimizer.step(loss=loss)
    assert known(optimizer) == [4.0, 1.5, 1.5]
    optimizer.add_param_group({"params": [Parameter(torch.zeros(1))], "adaloss_c": 1.5})
    assert known(optimizer)[-1] == 4.0, "1.5 is no unit to its c"


@both_paths
@both_methods
def test_a_step_that_gradscaler_skips_sets_no_unit(method: Any, path: Any) -> None:
    params = make_parameters()
    optimizer = path(method(params, alpha="auto"))
    optimizer.found_inf = torch.ones(())
    give_gradients(params, 0)
    optimizer.step(loss=5.0)
    assert known(optimizer) == [None]
    optimizer.found_inf = torch.zeros(())
    optimizer.step(loss=2.0)
    assert known(optimizer) == [2.0]


@both_paths
@pytest.mark.parametrize("directly", [False, True])
@both_methods
def test_a_group_that_comes_later_takes_the_first_loss_of_the_others(method: Any, directly: bool, path: Any) -> None:
    side = Side(method, ALL_AUTO[:2])
    path(side.optimizer)
    for index in range(2):
        side.step(index, LOSSES[index])
    p = Parameter(values(77, (3,), torch.float64))
    own = {"alpha": "auto", "c": 0.4, "b0": 2.0}
    group = {"params": [p], "lr": 0.2, **{f"adaloss_{key}": value for key, value in own.items()}}
    if directly:
        side.optimizer.base.add_param_group(group)
    else:  # what it brings along of the state of another one, as a copy does, is not taken
        side.optimizer.add_param_group(group | {FIRST: 100.0})
    side.parameters.append(p)
    side.loops.append(side.loop(p, own, 0.2))
    for index in range(2, len(LOSSES)):
        side.step(index, LOSSES[index])
        side.check()
    assert known(side.optimizer) == [LOSSES[0]] * 3


every_method = pytest.mark.parametrize("name", LOSS_DRIVEN)


@both_paths
@pytest.mark.parametrize("stop", [0, 1, 3])
@every_method
def test_a_resumed_run_goes_on_bit_for_bit(name: str, stop: int, path: Any) -> None:
    def made(params: list[Parameter], **own: Any) -> Any:
        return path(LOSS_DRIVEN[name](params, lr=0.03, **own))

    params = make_parameters()
    optimizer = made(params, alpha="auto", c=-0.25, b0=0.3)
    train(optimizer, params, range(3, 3 + stop))
    saved = through_a_file(optimizer.state_dict())
    weights = [Parameter(p.detach().clone()) for p in params]
    resumed = made(weights, alpha=2.0)
    resumed.load_state_dict(saved)
    assert known(resumed) == [3.5 if stop else None]
    for each, own in ((optimizer, params), (resumed, weights)):
        train(each, own, range(3 + stop, 7))
    assert equal(snapshot(optimizer, params), snapshot(resumed, weights))
    assert equal([optimizer.b, optimizer.effective_lr], [resumed.b, resumed.effective_lr])


@both_paths
def test_what_was_saved_does_not_move(path: Any) -> None:
    params = make_parameters()
    optimizer = path(AdaLoss(params, alpha="auto"))
    give_gradients(params, 0)
    optimizer.step(loss=0.0)
    saved = optimizer.state_dict()["param_groups"][0]
    before = str(saved[FIRST])
    optimizer.step(loss=2.0)
    assert known(optimizer) == [2.0]
    assert str(saved[FIRST]) == before


@pytest.mark.parametrize("twin", [copy.deepcopy, lambda both: pickle.loads(pickle.dumps(both))], ids=["copy", "pickle"])
@pytest.mark.parametrize("stop", [0, 2])
@both_methods
def test_a_copy_goes_on_bit_for_bit(method: Any, stop: int, twin: Any) -> None:
    params = make_parameters()
    optimizer = method(params, alpha="auto")
    train(optimizer, params, range(3, 3 + stop))
    copied, weights = twin((optimizer, params))
    for each, own in ((optimizer, params), (copied, weights)):
        train(each, own, range(3 + stop, 6))
    assert equal(snapshot(optimizer, params), snapshot(copied, weights))
    assert known(copied) == [3.5]


@both_methods
def test_a_bare_checkpoint_starts_the_unit_over_also_in_mid_run(method: Any) -> None:
    params = make_parameters()
    groups = [{"params": [p]} for p in params]
    optimizer = method(groups, alpha="auto", b0=2.0)
    train(optimizer, params, range(4, 6))
    bare = through_a_file(optimizer.base.state_dict())
    for group in bare["param_groups"]:
        for key in [key for key in group if key.startswith("adaloss_")]:
            del group[key]
    optimizer.load_state_dict(bare)
    assert known(optimizer) == [None] * 3
    assert [b.item() for b in optimizer.b] == [pytest.approx(2.0, rel=1e-15)] * 3
    train(optimizer, params, range(1, 2))
    assert known(optimizer) == [1.5] * 3


@pytest.mark.parametrize("saved_with", [1.0, "auto"])
@both_methods
def test_the_alpha_of_the_checkpoint_wins(method: Any, saved_with: Any) -> None:
    params, weights = make_parameters(), make_parameters()
    optimizer = method(params, alpha=saved_with)
    train(optimizer, params, range(2))
    loaded = method(weights, alpha="auto" if saved_with == 1.0 else 1.0)
    train(loaded, weights, range(5, 6))
    loaded.load_state_dict(through_a_file(optimizer.state_dict()))
    assert loaded.param_groups[0]["adaloss_alpha"] == saved_with
    assert equal(loaded.b, optimizer.b)
    assert known(loaded) == [0.5 if saved_with == "auto" else None]
    with torch.no_grad():
        for p, q in zip(params, weights, strict=True):
            q.copy_(p)
    for each, own in ((optimizer, params), (loaded, weights)):
        train(each, own, range(2, 4))
    assert equal(snapshot(optimizer, params), snapshot(loaded, weights))


def test_wrapping_again_starts_over() -> None:
    params = make_parameters()
    optimizer = LossAdaptive(torch.optim.SGD(params, lr=0.1), alpha="auto")
    train(optimizer, params, range(2))
    again = LossAdaptive(optimizer.base, alpha="auto")
    assert known(again) == [None]
    assert again.b[0].item() == 1.0


FITTING: dict[str, Any] = {
    "AdaLoss": lambda p: AdaLoss(p, lr=0.1, momentum=0.9, alpha="auto", c=0.0),
    "AdaLoss gradient": lambda p: AdaLoss(p, lr=0.1, momentum=0.9, weight_decay=0.1, scale="gradient", alpha="auto"),
    # far below the smallest gradient, so that eps does not bring the unit back
    "AdamLoss": lambda p: AdamLoss(p, lr=0.1, eps=1e-30, alpha="auto"),
    "AdamLoss decay": lambda p: AdamLoss(
        p, lr=0.1, eps=1e-30, weight_decay=0.1, decoupled_weight_decay=True, alpha="auto"
    ),
    "RMSprop": lambda p: LossAdaptive(torch.optim.RMSprop(p, lr=0.1, eps=1e-30), rule="adamloss", alpha="auto"),
}


def trained_in_units(make: Any, k: float, c: float) -> list[Tensor]:
    params = make_parameters()
    optimizer = make(params)
    optimizer.param_groups[0]["adaloss_c"] = k * c
    for _ in range(12):
        optimizer.zero_grad()
        loss = k * sum(((p - 0.3) ** 2).sum() + torch.cos(p).sum() for p in params)
        loss.backward()
        optimizer.step(loss=loss)
    return [p.detach() for p in params]


@pytest.mark.parametrize("c", [0.0, 2.0])
@pytest.mark.parametrize("k", [1e-4, 3.0, 1e4])
@pytest.mark.parametrize("name", FITTING)
def test_the_unit_of_the_loss_does_not_matter(name: str, k: float, c: float) -> None:
    for p, q in zip(trained_in_units(FITTING[name], 1.0, c), trained_in_units(FITTING[name], k, c), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-10, atol=1e-11)  # float64, twelve steps


def trained_in_half_precision(make: Any, k: float, dtype: torch.dtype) -> list[Tensor]:
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    x = torch.randn(32, 4)
    optimizer = make(net.parameters())
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8 / k, enabled=dtype == torch.float16)
    for _ in range(12):
        optimizer.zero_grad()
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            loss = k * torch.nn.functional.mse_loss(net(x), x.sum(1, keepdim=True))
        scaler.scale(loss).backward()
        optimizer.record_loss(loss.detach())
        scaler.step(optimizer)
        scaler.update()
    return [p.detach() for p in net.parameters()]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [2.0**-13, 4.0, 2.0**13])  # whose products are exact
@pytest.mark.parametrize("name", FITTING)
def test_the_unit_of_the_loss_does_not_matter_in_half_precision(name: str, k: float, dtype: torch.dtype) -> None:
    one, other = (trained_in_half_precision(FITTING[name], factor, dtype) for factor in (1.0, k))
    assert not torch.equal(one[0], trained_in_half_precision(FITTING[name], 1.0, torch.float32)[0])
    for p, q in zip(one, other, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6)  # float32 parameters, twelve steps


def test_that_the_unit_mattered() -> None:
    def make(params: Any) -> AdaLoss:
        return AdaLoss(params, lr=0.1)

    assert not torch.allclose(trained_in_units(make, 1.0, 0.0)[0], trained_in_units(make, 3.0, 0.0)[0], rtol=1e-2)


@pytest.mark.parametrize("bad", ["Auto", "AUTO", "", "1", None, -1, math.nan, math.inf])
@both_methods
def test_refuses_what_is_no_alpha(method: Any, bad: Any) -> None:
    params = make_parameters()
    with pytest.raises(ValueError, match=r"^Invalid alpha="):
        method(params, alpha=bad)
    optimizer = method(params[:1], alpha="auto")
    with pytest.raises(ValueError, match=r"^Invalid alpha="):
        optimizer.add_param_group({"params": params[1:], "adaloss_alpha": bad})
    assert len(optimizer.param_groups) == 1


@pytest.mark.parametrize("count", [1, 2, MANY])
@pytest.mark.parametrize("others", [1.0, "auto"])
@pytest.mark.parametrize("on_host", [True, False])
def test_auto_set_in_a_group_that_began_with_a_number_is_refused(on_host: bool, others: Any, count: int) -> None:
    """s counts in the unit of the loss there; nothing changes."""
    params = [torch.nn.Parameter(torch.ones(2)) for _ in range(count)]
    own = [{"params": [p], "adaloss_alpha": others} for p in params[1:]]
    optimizer = AdaLoss([*own, {"params": params[:1]}], alpha=1.0)
    optimizer.host_arithmetic = on_host
    optimizer.param_groups[-1]["adaloss_alpha"] = "auto"
    before = snapshot(optimizer, params)
    with pytest.raises(ValueError, match=r"Invalid alpha='auto' set in a parameter group that began with a number"):
        optimizer.step(loss=3.0)
    assert equal(before, snapshot(optimizer, params))


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")
def test_compiled_step_with_a_warm_up() -> None:
    torch._dynamo.reset()
    params, others = make_parameters(), make_parameters()
    eager, optimizer = (AdaLoss([{"params": own[:1]}, {"params": own[1:]}], alpha="auto") for own in (params, others))
    eager.warm_up(4)
    optimizer.warm_up(4)
    compiles = torch._dynamo.testing.CompileCounterWithBackend("eager")

    @torch.compile(backend=compiles)
    def step(loss: Tensor) -> None:
        optimizer.step(loss=loss)

    graphs = []
    for index in range(6):
        for own in (params, others):
            give_gradients(own, index)
        eager.step(loss=torch.tensor(0.5 + index))
        step(torch.tensor(0.5 + index))
        graphs.append(compiles.frame_count)
    for p, q in zip(params, others, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(eager.b, optimizer.b, rtol=1e-14, atol=0)
    torch.testing.assert_close(eager.effective_lr, optimizer.effective_lr, rtol=1e-14, atol=0)
    assert sum(more > before for before, more in pairwise(graphs)) <= 2, graphs
    torch._dynamo.reset()
