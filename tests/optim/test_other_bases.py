"""Bases with manners of their own: what they can do, the wrapper can; what cannot be adapted is refused at once."""

import copy
import pickle
from typing import Any

import pytest
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from torch import Tensor
from torch.nn import Parameter
from torch.optim import lr_scheduler
from torch.optim.optimizer import register_optimizer_step_pre_hook

from adaloss_lightning import AdaLoss, AdamLoss, LossAdaptive
from adaloss_lightning.optim.engine.traits import (
    default_rule,
    needs_closure,
    normalizes_gradient,
    takes_loss,
    wants_one_rate,
)
from adaloss_lightning.optim.rate_adaptive import adaptive_in

from . import stand_ins
from .methods import equal, make_parameters, train


def parameter(*values: float) -> Parameter:
    p = Parameter(torch.tensor(values or (1.0, 2.0), dtype=torch.float64))
    p.grad = torch.ones_like(p)
    return p


# -- what the base can do, the wrapper can -----------------------------------------------------------------------------


def test_methods_of_the_base_are_reached() -> None:
    base = stand_ins.ScheduleFree([parameter()])
    optimizer: Any = LossAdaptive(base)
    for one in (optimizer, LightningOptimizer(optimizer), copy.deepcopy(optimizer)):
        one.train()
        assert one.mode == "train"
        one.eval()
        assert one.mode == "eval"
    assert base.mode == "eval"
    assert not hasattr(AdaLoss([parameter()]), "train")
    assert not hasattr(optimizer, "first_step")
    assert not hasattr(optimizer, "_private")
    with pytest.raises(AttributeError, match="first_step"):
        optimizer.first_step()


def test_a_half_made_wrapper_knows_no_attribute() -> None:
    # what copy and pickle ask of an object before its state is there
    with pytest.raises(AttributeError, match="'LossAdaptive' object has no attribute 'train'"):
        object.__new__(LossAdaptive).train()
    p = parameter()
    optimizer = LossAdaptive(stand_ins.ScheduleFree([p]), b0=3.0)
    again = pickle.loads(pickle.dumps(optimizer))
    again.train()
    assert again.b[0].item() == 3.0


def test_other_keywords_of_step_reach_the_base() -> None:
    p = parameter(1.0)
    optimizer = LossAdaptive(stand_ins.Curvature([p], lr=1.0), b0=3.0)
    optimizer.step(loss=7.0, hessian=2.0)
    assert p.item() == 1 - 1 / 4 / 2
    with pytest.raises(TypeError, match="hess"):
        optimizer.step(loss=7.0, hess=2.0)
    assert optimizer.b[0].item() == 4.0


def test_gradients_are_zeroed_in_the_way_of_the_base() -> None:
    class Noted(stand_ins.Descent):
        def zero_grad(self, set_to_none: bool = False) -> None:
            super().zero_grad(set_to_none=False)

    p = parameter()
    LossAdaptive(Noted([p])).zero_grad()
    assert equal(p.grad, torch.zeros(2, dtype=torch.float64))


def test_a_rate_that_is_a_tensor_is_lent_as_one() -> None:
    p = parameter(1.0)
    optimizer = LossAdaptive(stand_ins.TensorRate([p], lr=0.5), b0=3.0)
    eta = optimizer.param_groups[0]["lr"]
    optimizer.step(loss=7.0)
    assert p.item() == pytest.approx(1 - 0.5 / 4, rel=1e-7)  # the rate is float32
    assert optimizer.param_groups[0]["lr"] is eta
    assert eta.item() == 0.5
    assert optimizer.effective_lr[0].item() == 0.125


# -- a state_dict of its own layout ------------------------------------------------------------------------------------


def looking_ahead(params: Any, **settings: Any) -> Any:
    return LossAdaptive(stand_ins.Lookahead(torch.optim.SGD(params, lr=0.1, momentum=0.9)), **settings)


def through_a_file(saved: Any, path: Any) -> Any:
    torch.save(saved, path / "checkpoint.pt")
    return torch.load(path / "checkpoint.pt", weights_only=True)


def test_own_state_dict_resumes_bit_for_bit(tmp_path: Any) -> None:
    params = make_parameters()
    optimizer = looking_ahead(params, b0=2.0, alpha=0.5)
    train(optimizer, params, range(3))
    saved = optimizer.state_dict()
    frozen = copy.deepcopy(saved)
    resumed_params = [Parameter(p.detach().clone()) for p in params]
    resumed = looking_ahead(resumed_params)
    resumed.load_state_dict(through_a_file(saved, tmp_path))
    train(optimizer, params, range(3, 8))
    train(resumed, resumed_params, range(3, 8))
    assert equal([p.detach() for p in params], [p.detach() for p in resumed_params])
    assert equal(optimizer.state_dict(), resumed.state_dict())
    assert resumed.param_groups[0]["adaloss_alpha"] == 0.5
    assert equal(saved, frozen)  # later steps change no snapshot


def test_own_state_dict_of_the_bare_base_starts_b_at_b0() -> None:
    params = make_parameters()
    optimizer = looking_ahead(params, b0=2.0)
    bare = optimizer.base.state_dict()  # in which nothing is ours once that is taken out
    train(optimizer, params, range(2))
    saved = optimizer.state_dict()
    assert "adaloss_s" not in saved["inner"]["param_groups"][0]
    del saved["adaloss_groups"]
    optimizer.load_state_dict(saved)
    assert optimizer.b[0].item() == 2.0
    assert bare.keys() == saved.keys()


def test_a_base_that_loads_into_its_groups_as_they_are() -> None:
    params = make_parameters()
    optimizer = LossAdaptive(stand_ins.Compact(params), b0=2.0, alpha=0.5)
    bare = optimizer.base.state_dict()
    train(optimizer, params, range(2))
    saved, s = optimizer.state_dict(), optimizer.param_groups[0]["adaloss_s"].item()
    optimizer.load_state_dict(bare)
    assert optimizer.b[0].item() == 2.0
    assert not optimizer.stepped
    optimizer.load_state_dict(saved)
    assert optimizer.param_groups[0]["adaloss_s"].item() == s
    assert optimizer.stepped


def test_own_state_dict_of_other_groups_is_refused_and_changes_nothing() -> None:
    params = make_parameters()
    optimizer = looking_ahead(params)
    saved = optimizer.state_dict()
    saved["adaloss_groups"] *= 2
    with pytest.raises(ValueError, match=r"Invalid state_dict with 2 parameter groups\. Must have 1\."):
        optimizer.load_state_dict(saved)
    assert optimizer.b[0].item() == 1.0


# -- an adaptive optimizer inside another ------------------------------------------------------------------------------


def test_an_adaptive_optimizer_inside_another_is_found_and_not_adapted_twice() -> None:
    params = make_parameters()
    inner = AdaLoss(params, b0=2.0)
    outer = stand_ins.Lookahead(stand_ins.Lookahead(inner))
    assert adaptive_in(outer) is inner
    assert adaptive_in(stand_ins.Lookahead(torch.optim.SGD(params))) is None
    with pytest.raises(ValueError, match="AdaLoss is adaptive already"):
        LossAdaptive(outer)
    inner.record_loss(5.0)
    outer.step()
    assert inner.b[0].item() == 3.0


# -- one rate for all groups -------------------------------------------------------------------------------------------


def test_groups_of_a_base_with_one_rate_share_s() -> None:
    one, other = parameter(1.0), parameter(2.0)
    optimizer = LossAdaptive(stand_ins.OneRate([one], lr=1.0), b0=3.0)
    optimizer.step(loss=7.0)
    optimizer.add_param_group({"params": [other]})
    assert [b.item() for b in optimizer.b] == [4.0, 4.0]
    optimizer.step(loss=9.0)
    assert [b.item() for b in optimizer.b] == [5.0, 5.0]
    assert other.item() == pytest.approx(2 - 1 / 5, rel=1e-15)
    again = pickle.loads(pickle.dumps(optimizer))
    again.add_param_group({"params": [parameter(3.0)]})
    assert [b.item() for b in again.b] == [5.0] * 3


def test_groups_of_a_base_with_one_rate_cannot_differ() -> None:
    optimizer = LossAdaptive(stand_ins.OneRate([parameter(1.0)]), b0=3.0)
    says = r"Invalid adaloss_b0=2.0 in a parameter group\. Must be 3.0 as in the others.*optimizer of their own"
    with pytest.raises(ValueError, match=says):
        optimizer.add_param_group({"params": [parameter(2.0)], "adaloss_b0": 2.0})
    assert len(optimizer.param_groups) == 1
    groups = [{"params": [parameter(1.0)]}, {"params": [parameter(2.0)], "adaloss_alpha": 0.0}]
    with pytest.raises(ValueError, match="Invalid adaloss_alpha"):
        LossAdaptive(stand_ins.OneRate(groups))
    LossAdaptive(stand_ins.Descent(groups))


# -- traits ------------------------------------------------------------------------------------------------------------

OF_TORCH: dict[str, Any] = {
    name: getattr(torch.optim, name)
    for name in (
        "ASGD", "Adadelta", "Adafactor", "Adagrad", "Adam", "AdamW", "Adamax", "Muon", "NAdam", "RAdam", "RMSprop",
        "SGD",
    )
    if hasattr(torch.optim, name)
}  # fmt: skip
LINEAR = {"ASGD", "SGD", "Descent", "ScheduleFree", "Curvature", "TensorRate", "OneRate"}
STAND_INS = [
    stand_ins.Descent, stand_ins.ScheduleFree, stand_ins.Curvature, stand_ins.TensorRate, stand_ins.OneRate,
    stand_ins.Sign, stand_ins.TrustRatio,
]  # fmt: skip


def matrix() -> Parameter:
    return Parameter(torch.randn(6, 5, generator=torch.Generator().manual_seed(0)))


@pytest.mark.parametrize("kind", OF_TORCH.values(), ids=OF_TORCH)
def test_what_is_known_of_torchs_classes_is_what_is_measured(kind: Any) -> None:
    unknown = type("Unknown", (kind,), {})
    expected = kind.__name__ not in LINEAR
    assert normalizes_gradient(kind([matrix()])) is expected
    assert normalizes_gradient(unknown([matrix()])) is expected
    assert not needs_closure(unknown([matrix()]))


@pytest.mark.parametrize("kind", STAND_INS)
@pytest.mark.parametrize("is_nested", [False, True], ids=["", "within Lookahead"])
def test_default_rule_follows_what_a_base_does_with_its_gradient(kind: Any, is_nested: bool) -> None:
    base = kind([matrix(), Parameter(torch.zeros(5))])
    base = stand_ins.Lookahead(base) if is_nested else base
    assert default_rule(base) == ("adaloss" if kind.__name__ in LINEAR else "adamloss")
    assert not needs_closure(base)
    assert not takes_loss(base)
    assert wants_one_rate(base) is (kind is stand_ins.OneRate)


def test_a_base_that_cannot_be_copied_is_judged_by_what_is_in_it_or_its_name() -> None:
    class Busy(stand_ins.Lookahead):
        def __init__(self, optimizer: Any) -> None:
            super().__init__(optimizer)
            self.module = torch.nn.Linear(1, 1)  # a toy must not touch it

    class AdaThing(stand_ins.Descent):
        def __init__(self, params: Any) -> None:
            super().__init__(params)
            self.module = torch.nn.Linear(1, 1)

    assert normalizes_gradient(Busy(stand_ins.Sign([matrix()])))
    assert not normalizes_gradient(Busy(stand_ins.Descent([matrix()])))
    assert wants_one_rate(Busy(stand_ins.OneRate([matrix()])))
    assert normalizes_gradient(AdaThing([matrix()]))


def test_measuring_leaves_no_trace() -> None:
    calls: list[str] = []

    class Random(stand_ins.Descent):
        def direction(self, p: Tensor) -> Tensor:
            return super().direction(p) * torch.rand(())

    p = matrix()
    inner = Random([p])
    scheduler = lr_scheduler.StepLR(inner, 1)
    base = stand_ins.Lookahead(inner)
    base.register_step_pre_hook(lambda *args: calls.append("own"))
    inner.register_step_pre_hook(lambda *args: calls.append("inner"))
    handle = register_optimizer_step_pre_hook(lambda *args: calls.append("global"))
    before, state, generator = p.detach().clone(), copy.deepcopy(base.state_dict()), torch.get_rng_state()
    attributes = set(vars(inner)), set(vars(base))
    try:
        assert default_rule(base) == "adaloss"
        assert not wants_one_rate(base)
    finally:
        handle.remove()
    assert not calls
    assert p.grad is None
    assert torch.equal(p.detach(), before)
    assert equal(base.state_dict(), state)
    assert torch.equal(torch.get_rng_state(), generator)
    assert (set(vars(inner)), set(vars(base))) == attributes
    assert not getattr(inner, "_opt_called", False), "the scheduler was to warn of a step that never was"
    assert scheduler.get_last_lr() == [0.1]


# -- GradScaler --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [AdaLoss, AdamLoss])
def test_grad_scaler_leaves_unscaling_to_a_kernel_that_was_asked_for(method: Any) -> None:
    for fused, expected in ((None, False), (False, False), (True, True)):
        optimizer = method([parameter()], fused=fused)
        assert optimizer._step_supports_amp_scaling is expected
        assert bool(optimizer.param_groups[0]["fused"]) is (fused is not False)
