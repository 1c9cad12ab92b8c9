"""s and its keeping: precision, checkpoints, snapshots, and what a step that fails leaves behind."""

import copy
import io
import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict
from torch.distributed.tensor import Shard, distribute_tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from adaloss_lightning import AdaGradNorm, AdaLoss, AdamLoss, AdamSqrt, LossAdaptive, SGDDecaySqrt

from .methods import LOSS_DRIVEN, METHODS, Method, equal, give_gradients, make_parameters, one_rank, snapshot, train

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
every_loss_driven = pytest.mark.parametrize("method", LOSS_DRIVEN.values(), ids=LOSS_DRIVEN)


def through_a_file(state_dict: dict[str, Any]) -> dict[str, Any]:
    buffer = io.BytesIO()
    torch.save(state_dict, buffer)
    buffer.seek(0)
    return torch.load(buffer, weights_only=True)


@pytest.mark.parametrize("number", [np.float64, np.float32, np.int64, lambda x: torch.tensor([float(x)]), Parameter])
def test_settings_of_other_kinds_of_numbers_are_saved_as_plain_ones(number: Any) -> None:
    def setting(value: float) -> Any:
        return number(torch.tensor(float(value))) if number is Parameter else number(value)

    (p, q), group = (Parameter(torch.zeros(2)) for _ in range(2)), {"adaloss_alpha": setting(3)}
    optimizer = AdaLoss([{"params": [p]}, {"params": [q], **group}], lr=0.5, b0=setting(2), alpha=setting(1))
    optimizer.step(loss=5.0)
    assert [group["adaloss_s"].item() for group in optimizer.param_groups] == [4 + 5, 4 + 15]
    loaded = through_a_file(optimizer.state_dict())
    assert [group["adaloss_alpha"] for group in loaded["param_groups"]] == [1, 3]


@pytest.mark.parametrize("setting", ["alpha", "c"])
@pytest.mark.parametrize("later", [False, True])
def test_a_float32_tensor_as_a_setting_leaves_s_in_float64(setting: str, later: bool) -> None:
    value = torch.tensor(1.0 if setting == "alpha" else 0.0)
    optimizer = AdamLoss([Parameter(torch.zeros(1))], b0=1e5, **({} if later else {setting: value}))
    if later:
        optimizer.param_groups[0][f"adaloss_{setting}"] = value
    for _ in range(200):
        optimizer.step(loss=1e-3)
    assert optimizer.b[0].item() - 1e5 == pytest.approx(0.2, abs=1e-8)
    assert type(optimizer.param_groups[0]["adaloss_effective_lr"]) is float


@pytest.mark.parametrize("lr", [np.float64(0.5), np.float32(0.5), 1])
def test_rates_are_saved_as_plain_numbers(lr: Any) -> None:
    optimizer = AdaLoss([Parameter(torch.zeros(2))], lr=0.1, b0=np.array(2.0))
    optimizer.param_groups[0]["lr"] = lr  # as a scheduler that computes in NumPy does
    optimizer.step(loss=5.0)
    optimizer.param_groups[0]["lr"] = 0.1
    (group,) = through_a_file(optimizer.state_dict())["param_groups"]
    assert (group["adaloss_effective_lr"], group["adaloss_b0"]) == (lr / 3, 2.0)


@pytest.mark.parametrize("old", ["AdaLoss", "LossAdaptive(SGD fused)", "AdaGradNorm"])
def test_a_base_that_was_wrapped_before_starts_as_it_is_told_now(old: str) -> None:
    params = make_parameters()
    earlier = METHODS[old](params, lr=0.1)
    train(earlier, params, range(2))
    again = LossAdaptive(earlier.base, b0=100.0, alpha=5.0, c=2.0, rule="adamloss")
    assert (again.b[0].item(), again.effective_lr[0].item()) == (100.0, pytest.approx(0.01, rel=1e-15))
    give_gradients(params, 2)
    again.step(loss=3.0)
    assert again.b[0].item() == 105
    groups = AdaLoss(again.param_groups, b0=7.0)
    assert groups.b[0].item() == 7.0


def test_a_bad_argument_for_a_base_that_was_wrapped_before_changes_nothing() -> None:
    params = make_parameters()
    earlier = AdaLoss(params, lr=0.1, b0=2.0)
    train(earlier, params, range(2))
    before = snapshot(earlier, params)
    with pytest.raises(ValueError, match=r"Invalid b0=-1\.0"):
        LossAdaptive(earlier.base, b0=-1.0)
    assert equal(before, snapshot(earlier, params))


@pytest.mark.parametrize("loss", [1e308, -1e308])
@pytest.mark.parametrize("method", ["AdaLoss", "AdamLoss unfused", "LossAdaptive(AdamW)"])
def test_a_loss_that_s_cannot_hold_is_left_out(method: str, loss: float) -> None:
    params = make_parameters()
    optimizer = METHODS[method](params, lr=0.1)
    train(optimizer, params, range(2))
    optimizer.param_groups[0]["adaloss_c"] = -1.5e308 if loss > 0 else 1.5e308
    before = snapshot(optimizer, params)
    give_gradients(params, 2)
    optimizer.step(loss=loss)
    assert equal(before, snapshot(optimizer, params))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_small_losses_count_on_a_large_b(dtype: torch.dtype) -> None:
    p = Parameter(torch.zeros(1, dtype=dtype))
    optimizer = AdamLoss([p], b0=1e5)
    for _ in range(200):
        optimizer.step(loss=torch.tensor(1e-3))  # 1e5 + 1e-3 is 1e5 in float32
    assert optimizer.b[0].dtype == torch.float64
    # a float32 loss of 1e-3 is 1e-3 to 6e-8 of it, so the sum of 0.2 is right to 1e-8; float64 adds 1e-11 a step
    assert optimizer.b[0].item() - 1e5 == pytest.approx(0.2, abs=1e-7)


@every_method
@pytest.mark.parametrize("stop", [0, 1, 4])
def test_resumed_run_goes_on_bit_for_bit(method: Method, stop: int) -> None:
    params = make_parameters()
    optimizer = method(params, lr=0.1, b0=0.3)
    train(optimizer, params, range(stop))
    saved = through_a_file(optimizer.state_dict())
    weights = [Parameter(p.detach().clone()) for p in params]
    resumed = method(weights, lr=0.9, b0=5.0)  # whatever it was built with, the checkpoint says
    resumed.load_state_dict(saved)
    assert equal(snapshot(optimizer, params), snapshot(resumed, weights))
    train(optimizer, params, range(stop, 8))
    train(resumed, weights, range(stop, 8))
    assert equal(snapshot(optimizer, params), snapshot(resumed, weights))
    assert equal([optimizer.b, optimizer.effective_lr], [resumed.b, resumed.effective_lr])


@pytest.mark.parametrize("name", ["AdaLoss momentum", "AdamLoss"])
def test_resumed_run_stays_off_the_fused_kernel(name: str) -> None:
    """After one gradient of another layout a run goes on unfused; a resumed one has to, or it differs in roundings."""

    def step(optimizer: Any, p: Parameter, i: int) -> None:
        p.grad = torch.ones(1).expand(2057) if i == 0 else torch.sin(p.detach() * 3 + i)
        optimizer.step(loss=0.3)

    p = Parameter(torch.randn(2057, generator=torch.Generator().manual_seed(0)))
    optimizer = METHODS[name]([p], lr=0.037, weight_decay=0.1)
    for i in range(3):
        step(optimizer, p, i)
    q = Parameter(p.detach().clone())
    resumed = METHODS[name]([q], lr=0.037, weight_decay=0.1)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for i in range(3, 20):
        step(optimizer, p, i)
        step(resumed, q, i)
    assert torch.equal(p, q)


@every_method
def test_bfloat16_parameters_keep_s_exact(method: Method) -> None:
    params = make_parameters(torch.bfloat16)
    optimizer = method(params, lr=0.1, b0=0.3)
    train(optimizer, params, range(3))
    resumed = method(make_parameters(torch.bfloat16), lr=0.1)
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    assert equal(optimizer.b, resumed.b)
    assert all(b.dtype == torch.float64 for b in resumed.b)


@every_method
def test_a_snapshot_does_not_move(method: Method) -> None:
    params = make_parameters()
    optimizer = method(params, lr=0.1)
    train(optimizer, params, range(2))
    live = optimizer.state_dict()
    ours = [{k: v for k, v in group.items() if k.startswith("adaloss_")} for group in live["param_groups"]]
    frozen, frozen_ours = copy.deepcopy(live), copy.deepcopy(ours)
    held = optimizer.b, optimizer.effective_lr
    values = copy.deepcopy(held)
    train(optimizer, params, range(2, 4))
    assert equal(ours, frozen_ours)  # s, even without a deep copy
    assert equal(held, values)
    resumed = method(make_parameters(), lr=0.1)
    resumed.load_state_dict(frozen)
    untouched = copy.deepcopy(frozen["param_groups"])
    train(resumed, resumed.param_groups[0]["params"], range(2))
    assert equal(frozen["param_groups"], untouched)  # a checkpoint may be loaded twice


@every_method
def test_reading_changes_nothing(method: Method) -> None:
    params = make_parameters()
    optimizer = method(params, lr=0.1)
    train(optimizer, params, range(2))
    before = snapshot(optimizer, params)
    for tensor in (*optimizer.b, *optimizer.effective_lr):
        tensor.fill_(1e9)  # they are the reader's own
    assert equal(before, snapshot(optimizer, params))


@every_method
def test_the_users_tensor_lr_is_the_same_object_with_the_same_value(method: Method) -> None:
    eta, params = torch.tensor(0.1, dtype=torch.float64), make_parameters()
    optimizer = method(params, lr=eta)
    plain = make_parameters()
    by_float = method(plain, lr=0.1)
    for steps in (range(2), range(2, 4)):
        version = eta._version
        train(optimizer, params, steps)
        train(by_float, plain, steps)
        assert optimizer.param_groups[0]["lr"] is eta
        assert eta.item() == 0.1
        assert eta._version == version
    for a, b in zip(params, plain, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)  # float64; the same up to the kernel's own roundings


class Explodes(torch.optim.SGD):
    """Fails in the middle of its step when told to."""

    explode = False

    def step(self, closure: Any = None) -> Any:
        if self.explode:
            raise FloatingPointError("boom")
        return super().step(closure)


@pytest.mark.parametrize("scale", ["lr", "gradient"])
@pytest.mark.parametrize("eta", [0.1, torch.tensor(0.1)], ids=["float", "tensor"])
def test_a_step_that_raises_leaves_everything_in_place(scale: Any, eta: Any) -> None:
    params = make_parameters()
    base = Explodes(params, lr=eta)
    optimizer = LossAdaptive(base, scale=scale)
    train(optimizer, params, range(2))
    base.explode = True
    optimizer.record_loss(7.0)
    gradients = [p.grad for p in params]
    before = snapshot(optimizer, params)
    with pytest.raises(FloatingPointError, match="boom"):
        optimizer.step()
    assert equal(before, snapshot(optimizer, params))
    assert optimizer.param_groups[0]["lr"] is eta
    assert all(p.grad is g for p, g in zip(params, gradients, strict=True))
    base.explode = False
    s = optimizer.b[0].item() ** 2
    with pytest.raises(RuntimeError, match="has no loss"):
        optimizer.step()  # a recorded loss serves one step, also one that raises
    optimizer.step(loss=7.0)
    assert optimizer.b[0].item() == pytest.approx(math.sqrt(s + 7), rel=1e-15)


def test_a_loss_recorded_before_a_closure_that_raises_is_not_that_of_the_next_step() -> None:
    optimizer = AdaLoss([Parameter(torch.zeros(2))])

    def closure() -> None:
        raise FloatingPointError("boom")

    optimizer.record_loss(100.0)
    with pytest.raises(FloatingPointError, match="boom"):
        optimizer.step(closure)
    optimizer.step(lambda: torch.tensor(3.0))
    assert (optimizer.b[0].item(), optimizer.recorded_loss) == (2.0, None)


@pytest.mark.parametrize("name", ["AdaGradNorm", "AdaGradNorm channel", "SGDDecaySqrt", "AdamSqrt"])
def test_a_baseline_whose_step_raises_leaves_everything_in_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    params = make_parameters()
    optimizer = METHODS[name](params, lr=0.1)
    train(optimizer, params, range(2))

    def boom(*args: Any, **keywords: Any) -> None:
        raise FloatingPointError("boom")

    before = snapshot(optimizer, params)
    with monkeypatch.context() as patch:
        patch.setattr(torch, "_fused_sgd_", boom)
        patch.setattr(torch, "_foreach_add_", boom)  # with which Adam counts its steps, before its kernel
        with pytest.raises(FloatingPointError, match="boom"):
            optimizer.step()
    assert equal(before, snapshot(optimizer, params))
    train(optimizer, params, range(2, 3))


@every_loss_driven
def test_checkpoint_of_the_bare_base(method: Method) -> None:
    donor_params = make_parameters()
    donor = method(donor_params, lr=0.1)
    train(donor, donor_params, range(3))
    bare = through_a_file(donor.base.state_dict())
    for group in bare["param_groups"]:
        for key in [key for key in group if key.startswith("adaloss_")]:
            del group[key]
    params = [Parameter(p.detach().clone()) for p in donor_params]
    optimizer = method(params, lr=0.5, b0=3.0)
    train(optimizer, params, range(2))  # even in the middle of a run
    optimizer.load_state_dict(bare)
    assert optimizer.b[0].item() == pytest.approx(3.0, rel=1e-15)
    assert optimizer.param_groups[0]["lr"] == 0.1
    for p, q in zip(params, donor_params, strict=True):
        assert equal(dict(optimizer.state[p]), dict(donor.state[q]))
    train(optimizer, params, range(2))


@pytest.mark.parametrize(
    "told", [{}, {"fused": False}, {"foreach": True}, {"foreach": False}, {"fused": True}], ids=str
)
@pytest.mark.parametrize("saved_as", [{}, {"fused": True}, {"fused": False}, {"foreach": True}], ids=str)
@pytest.mark.parametrize("method", [AdaLoss, AdamLoss])
def test_the_implementation_that_was_asked_for_outlives_a_checkpoint(method: Any, saved_as: Any, told: Any) -> None:
    """What was asked for here goes before what the checkpoint says, and that before our own choice."""
    bare = torch.optim.SGD if method is AdaLoss else torch.optim.Adam
    donor_params, params = make_parameters(), make_parameters()
    donor: Any = bare(donor_params, lr=0.1, **saved_as)
    give_gradients(donor_params, 0)
    donor.step()
    optimizer = method(params, **told)
    optimizer.load_state_dict(through_a_file(donor.state_dict()))
    expected = {"fused": None, "foreach": None} | (told or saved_as)
    if expected == {"fused": None, "foreach": None}:
        expected["fused"] = True
    train(optimizer, params, range(2))
    assert {key: optimizer.param_groups[0][key] for key in expected} == expected


@pytest.mark.parametrize("method", [AdaLoss, AdamLoss])
def test_resumed_run_of_parameters_that_had_no_memory_at_first(method: Any) -> None:
    """The kernel is chosen when they have: a run that goes on and a resumed one take the same."""

    def network() -> torch.nn.Sequential:
        return torch.nn.Sequential(torch.nn.LazyLinear(33), torch.nn.Tanh(), torch.nn.Linear(33, 1))

    def steps(net: Any, optimizer: Any, count: int) -> None:
        for _ in range(count):
            optimizer.zero_grad()
            loss = torch.nn.functional.mse_loss(net(x), x.sum(dim=1, keepdim=True))
            loss.backward()
            optimizer.step(loss=loss)

    x = torch.randn(64, 17, generator=torch.Generator().manual_seed(0))
    net, again = network(), network()
    optimizer, resumed = (method(one.parameters(), lr=0.01) for one in (net, again))
    steps(net, optimizer, 3)
    again.load_state_dict(through_a_file(net.state_dict()))
    resumed.load_state_dict(through_a_file(optimizer.state_dict()))
    for one, its in ((net, optimizer), (again, resumed)):
        steps(one, its, 30)
        assert its.param_groups[0]["fused"] is True
    assert all(map(torch.equal, net.parameters(), again.parameters()))


@pytest.mark.parametrize("name", ["SGDDecaySqrt", "AdaGradNorm", "AdamSqrt"])
def test_saving_with_the_distributed_checkpoint_moves_nothing(name: str) -> None:
    """It makes a step of zeros where there is no state yet, and SGD never has any."""
    net = torch.nn.Linear(3, 1)
    params = list(net.parameters())
    optimizer = {"SGDDecaySqrt": SGDDecaySqrt, "AdaGradNorm": AdaGradNorm, "AdamSqrt": AdamSqrt}[name](params, lr=0.1)
    optimizer.warm_up(10)
    for _ in range(2):
        before = [optimizer.b, optimizer.effective_lr, optimizer.param_groups[0]["adaloss_steps"]]
        get_optimizer_state_dict(net, optimizer)
        assert equal([optimizer.b, optimizer.effective_lr, optimizer.param_groups[0]["adaloss_steps"]], before)
        train(optimizer, params, range(2))
        optimizer.zero_grad()


@pytest.mark.parametrize("fused", [None, True])
def test_a_checkpoint_of_one_process_goes_on_with_sharded_parameters(fused: bool | None) -> None:
    """torch does not shard fused SGD, which the checkpoint was written with."""
    params = make_parameters()[:2]
    optimizer = AdaLoss(params, lr=0.1)
    train(optimizer, params, range(2))
    assert optimizer.param_groups[0]["fused"] is True
    with one_rank() as mesh:
        shards = [Parameter(distribute_tensor(p.detach(), mesh, [Shard(0)])) for p in params]
        resumed = AdaLoss(shards, lr=0.1, fused=fused)
        resumed.load_state_dict(through_a_file(optimizer.state_dict()))
        train(optimizer, params, range(2, 4))
        for step in range(2, 4):
            for index, p in enumerate(shards):
                p.grad = torch.sin(3 * p.detach() + index + step)
            resumed.step(loss=0.5 + step)
        for p, shard in zip(params, shards, strict=True):
            torch.testing.assert_close(shard.full_tensor(), p, rtol=1e-12, atol=1e-13)  # float64, another kernel
    assert equal(optimizer.b, resumed.b)


def test_checkpoint_loads_into_the_bare_base() -> None:
    params = make_parameters()
    optimizer = LossAdaptive(torch.optim.AdamW(params, lr=0.1))
    train(optimizer, params, range(3))
    bare = torch.optim.AdamW(make_parameters(), lr=0.2)
    bare.load_state_dict(through_a_file(optimizer.state_dict()))
    assert bare.param_groups[0]["lr"] == 0.1


@every_method
def test_checkpoint_with_other_groups_is_refused_and_nothing_changes(method: Method) -> None:
    params = make_parameters()
    optimizer = method(params, lr=0.1)
    train(optimizer, params, range(2))
    before = snapshot(optimizer, params)
    other = method([{"params": [p]} for p in make_parameters()], lr=0.1)
    with pytest.raises(ValueError, match="group"):
        optimizer.load_state_dict(other.state_dict())
    assert equal(before, snapshot(optimizer, params))


def test_channels_of_a_late_group() -> None:
    params = make_parameters()
    optimizer = METHODS["AdaGradNorm channel"](params[:1], lr=0.1)
    train(optimizer, params[:1], range(2))
    optimizer.add_param_group({"params": params[1:]})
    train(optimizer, params, range(2, 4))
    saved = through_a_file(optimizer.state_dict())
    weights = [Parameter(p.detach().clone()) for p in params]
    resumed = METHODS["AdaGradNorm channel"]([{"params": weights[:1]}, {"params": weights[1:]}], lr=0.1)
    resumed.load_state_dict(saved)
    train(optimizer, params, range(4, 6))
    train(resumed, weights, range(4, 6))
    assert equal([p.detach() for p in params], [p.detach() for p in weights])


def test_state_is_that_of_the_base() -> None:
    params: list[Parameter] = make_parameters()
    base: Optimizer = torch.optim.AdamW(params)
    optimizer = LossAdaptive(base)
    train(optimizer, params, range(1))
    assert optimizer.state is base.state
    assert optimizer.param_groups is base.param_groups
    assert isinstance(optimizer, Optimizer)
    assert not hasattr(optimizer, "optimizer")  # LearningRateMonitor unwraps an attribute of that name
    state: dict[str, Tensor] = optimizer.state[params[0]]
    assert set(state) == {"step", "exp_avg", "exp_avg_sq"}
