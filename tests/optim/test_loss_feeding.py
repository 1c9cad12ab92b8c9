"""How the loss reaches a step, what is refused, and steps that must change nothing."""

import gc
import math
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.amp import GradScaler
from torch.nn import Parameter

from adaloss_lightning import AdaLoss, AdamLoss, LossAdaptive

from .methods import BASELINES, LOSS_DRIVEN, METHODS, Method, equal, give_gradients, make_parameters, snapshot, train

every_loss_driven = pytest.mark.parametrize("method", LOSS_DRIVEN.values(), ids=LOSS_DRIVEN)


def s_of(optimizer: Any) -> float:
    return round(optimizer.b[0].item() ** 2, 9)


def adaloss() -> AdaLoss:
    p = Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    return AdaLoss([p])


def test_three_ways_and_their_order() -> None:
    ways: list[tuple[dict[str, Any], float]] = [
        ({"loss": 1.0}, 1.0),
        ({"recorded": 2.0}, 2.0),
        ({"closure": 4.0}, 4.0),
        ({"loss": 1.0, "recorded": 2.0}, 1.0),
        ({"loss": 1.0, "closure": 4.0}, 1.0),
        ({"recorded": 2.0, "closure": 4.0}, 2.0),
        ({"loss": 1.0, "recorded": 2.0, "closure": 4.0}, 1.0),
        ({"loss": 0.0, "recorded": 2.0}, 0.0),  # 0 is a loss, too
        ({"recorded": 0.0, "closure": 4.0}, 0.0),
    ]
    for given, used in ways:
        optimizer = adaloss()
        if "recorded" in given:
            optimizer.record_loss(given["recorded"])
        arguments: list[Callable[[], float]] = [lambda: 4.0] if "closure" in given else []
        keywords = {"loss": given["loss"]} if "loss" in given else {}
        assert optimizer.step(*arguments, **keywords) == used, given
        assert s_of(optimizer) == 1 + used, given
        assert optimizer.last_loss == used, given


def test_record_serves_one_step() -> None:
    optimizer = adaloss()
    optimizer.record_loss(3.0)
    optimizer.step()
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert s_of(optimizer) == 4


def test_a_record_that_the_step_did_not_need_is_stale_after_it() -> None:
    optimizer = adaloss()
    optimizer.record_loss(100.0)
    optimizer.step(loss=3.0)
    with pytest.raises(RuntimeError):
        optimizer.step()
    assert s_of(optimizer) == 4


@every_loss_driven
def test_no_loss_names_the_three_ways_and_changes_nothing(method: Method) -> None:
    params = make_parameters()
    optimizer = method(params, lr=0.1)
    train(optimizer, params, range(2))
    before = snapshot(optimizer, params)
    for closure in ((), (lambda: None,)):
        with pytest.raises(RuntimeError, match=r"step\(loss=.*record_loss.*closure"):
            optimizer.step(*closure)
    assert equal(before, snapshot(optimizer, params))
    train(optimizer, params, range(2, 3))


def test_a_step_without_a_loss_is_refused_at_a_rate_of_zero_too() -> None:
    """As in the first step of a warm-up. Only one without any slope, which makes the state to load into, passes."""
    params = make_parameters()
    optimizer = AdamLoss(params, lr=0.0)
    for p in params:
        p.grad = torch.ones_like(p)
    before = snapshot(optimizer, params)
    with pytest.raises(RuntimeError, match="three ways"):
        optimizer.step()
    assert equal(before, snapshot(optimizer, params))
    for p in params:
        p.grad = torch.zeros_like(p)
    assert optimizer.step() is None
    assert optimizer.state


def test_a_recorded_tensor_is_what_the_step_returns() -> None:
    p = torch.nn.Parameter(torch.ones(1))
    optimizer = AdaLoss([p])
    loss = (3 * p).sum()
    loss.backward()
    optimizer.record_loss(loss)
    returned = optimizer.step()
    assert isinstance(returned, torch.Tensor)
    assert not returned.requires_grad
    assert returned.item() == 3.0


FORMS: dict[str, Callable[[], Any]] = {
    "float": lambda: 3.0,
    "int": lambda: 3,
    "0-dim": lambda: torch.tensor(3.0),
    "shape [1]": lambda: torch.tensor([3.0]),
    "shape [1, 1]": lambda: torch.tensor([[3.0]]),
    "float64": lambda: torch.tensor(3.0, dtype=torch.float64),
    "bfloat16": lambda: torch.tensor(3.0, dtype=torch.bfloat16),
    "float16": lambda: torch.tensor(3.0, dtype=torch.float16),
    "integer tensor": lambda: torch.tensor(3),
    "requires grad": lambda: torch.tensor(3.0, requires_grad=True),
    "graph": lambda: torch.tensor(1.5, requires_grad=True) * 2,
    "inference": lambda: torch.inference_mode()(lambda: torch.tensor(3.0))(),
    "numpy": lambda: torch.tensor(3.0).numpy(),
}


@pytest.mark.parametrize("way", ["loss", "record", "closure"])
@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_loss(form: str, way: str) -> None:
    optimizer, loss = adaloss(), FORMS[form]()
    if way == "loss":
        returned = optimizer.step(loss=loss)
    elif way == "record":
        optimizer.record_loss(loss)
        returned = optimizer.step()
    else:
        returned = optimizer.step(lambda: loss)
    assert s_of(optimizer) == 4
    assert torch.as_tensor(returned).detach().reshape(()).item() == 3.0
    assert optimizer.b[0].dtype == torch.float64
    assert not optimizer.param_groups[0]["params"][0].grad_fn
    if way != "record":
        assert returned is loss


@pytest.mark.parametrize("way", ["loss", "record", "closure"])
def test_no_graph_is_kept(way: str) -> None:
    class Node:
        pass

    optimizer, node = adaloss(), Node()
    alive = weakref.ref(node)
    w = torch.ones(3, requires_grad=True)
    hidden = w * 2
    hidden.grad_fn.metadata["node"] = node  # dies with the graph
    loss = hidden.sum()
    if way == "record":
        optimizer.record_loss(loss)
    elif way == "loss":
        optimizer.step(loss=loss)
    else:
        closure = [lambda loss=loss: loss]
        optimizer.step(closure.pop())
    del loss, hidden, node
    gc.collect()
    assert alive() is None
    assert optimizer.last_loss is None or not optimizer.last_loss.requires_grad


REFUSED: dict[str, Callable[[], Any]] = {
    "vector": lambda: torch.ones(2),
    "empty": lambda: torch.ones(0),
    "complex": lambda: torch.tensor(1 + 1j),
    "complex number": lambda: 1 + 1j,
    "str": lambda: "0.5",
    "list": lambda: [0.5],
    "dict": lambda: {"loss": 0.5},
    "huge int": lambda: 10**400,
}


@pytest.mark.parametrize("way", ["loss", "record", "closure"])
@pytest.mark.parametrize("form", REFUSED)
@pytest.mark.parametrize("name", ["AdaLoss", "AdamLoss", "LossAdaptive(RMSprop)"])
def test_refused_losses_change_nothing(name: str, form: str, way: str) -> None:
    params, value = make_parameters(), REFUSED[form]()
    optimizer = METHODS[name](params, lr=0.1)
    train(optimizer, params, range(2))
    before = snapshot(optimizer, params)
    feed = {
        "loss": lambda: optimizer.step(loss=value),
        "record": lambda: optimizer.record_loss(value),
        "closure": lambda: optimizer.step(lambda: value),
    }
    with pytest.raises(ValueError, match=r"^Invalid loss"):
        feed[way]()
    assert equal(before, snapshot(optimizer, params))
    with pytest.raises(RuntimeError):  # nothing of it was kept
        optimizer.step()


def test_record_refuses_none_and_keeps_the_good_one() -> None:
    optimizer = adaloss()
    optimizer.record_loss(3.0)
    with pytest.raises(ValueError, match=r"^Invalid loss"):
        optimizer.record_loss(None)
    optimizer.step()
    assert s_of(optimizer) == 4


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("when", [0, 2])
@every_loss_driven
def test_a_loss_that_is_not_finite_changes_nothing(method: Method, when: int, bad: float) -> None:
    params, undisturbed = make_parameters(), make_parameters()
    optimizer, reference = method(params, lr=0.1), method(undisturbed, lr=0.1)
    train(optimizer, params, range(when))
    train(reference, undisturbed, range(when))
    before = snapshot(optimizer, params)
    give_gradients(params, 0, factor=math.nan)
    for loss in (bad, torch.tensor(bad), torch.tensor([bad], dtype=torch.bfloat16)):
        optimizer.step(loss=loss)
        assert equal(before, snapshot(optimizer, params))
    with pytest.raises(RuntimeError):  # and it does not wait for the next step
        optimizer.step()
    train(optimizer, params, range(when, when + 3))
    train(reference, undisturbed, range(when, when + 3))
    assert equal(snapshot(reference, undisturbed), snapshot(optimizer, params))


# -- GradScaler on the CPU ---------------------------------------------------------------------------------------------

# powers of two: scaling and unscaling are exact, so a run with the scaler equals one without it bit for bit
SCALE, GROWTH = 2.0**10, {"growth_factor": 2.0, "backoff_factor": 0.5, "growth_interval": 3}


def scaled_step(scaler: GradScaler, optimizer: Any, params: list[Parameter], step: int, overflow: bool, unscale: bool
                ) -> None:  # fmt: skip
    give_gradients(params, step, scaler.get_scale())
    if overflow:
        assert params[0].grad is not None
        params[0].grad[0, 0] = math.inf
    scaler.scale(torch.ones(()))  # as the training loop would: the scaler makes its scale with the first loss
    if unscale:
        scaler.unscale_(optimizer)
    scaler.step(optimizer, loss=0.5 + step)
    scaler.update()


@pytest.mark.parametrize("unscale", [False, True], ids=["scaler.step", "scaler.unscale_ first"])
@pytest.mark.parametrize("overflows", [(), (0,), (0, 1, 3), (2,)], ids=str)
@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_grad_scaler(method: Method, overflows: tuple[int, ...], unscale: bool) -> None:
    params, plain = make_parameters(torch.float32), make_parameters(torch.float32)
    optimizer, reference = method(params, lr=0.1), method(plain, lr=0.1)
    scaler = GradScaler("cpu", init_scale=SCALE, **GROWTH)
    scaler.scale(torch.ones(()))
    for step in range(6):
        before = snapshot(optimizer, params)
        scaled_step(scaler, optimizer, params, step, step in overflows, unscale)
        if step in overflows:
            parameters, groups, _ = snapshot(optimizer, params)
            assert equal(parameters, before[0])
            assert equal([g["adaloss_s"] for g in groups], [g["adaloss_s"] for g in before[1]])
            assert equal([g["adaloss_effective_lr"] for g in groups], [g["adaloss_effective_lr"] for g in before[1]])
        else:
            train(reference, plain, range(step, step + 1))
    assert equal([p.detach() for p in plain], [p.detach() for p in params])
    assert equal(reference.b, optimizer.b)
    assert scaler.get_scale() == SCALE * 0.5 ** len(overflows) * 2.0 ** growths(overflows)


def growths(overflows: tuple[int, ...]) -> int:
    """How often GradScaler doubled its scale: after each 3 good steps in a row."""
    count = row = 0
    for step in range(6):
        row = 0 if step in overflows else row + 1
        if row == 3:
            count, row = count + 1, 0
    return count


@pytest.mark.parametrize("loss", [math.nan, math.inf])
@pytest.mark.parametrize("name", LOSS_DRIVEN)
def test_grad_scaler_and_a_loss_that_is_not_finite(name: str, loss: float) -> None:
    params, plain = make_parameters(torch.float32), make_parameters(torch.float32)
    optimizer, reference = METHODS[name](params, lr=0.1), METHODS[name](plain, lr=0.1)
    scaler = GradScaler("cpu", init_scale=SCALE)
    scaler.scale(torch.ones(()))
    for step in range(4):
        give_gradients(params, step, SCALE)
        if step in (0, 2):
            scaler.step(optimizer, loss=loss)
        else:
            scaler.step(optimizer, loss=0.5 + step)
            train(reference, plain, range(step, step + 1))
        scaler.update()
    assert equal([p.detach() for p in plain], [p.detach() for p in params])
    assert equal(reference.b, optimizer.b)


@pytest.mark.parametrize("method", [AdaLoss, AdamLoss])
def test_grad_scaler_with_gradients_that_no_fused_kernel_may_take(method: Any) -> None:
    """Who unscales is settled before the step, so a fall-back has to be settled by then, too."""
    p, q = (Parameter(torch.ones(4)) for _ in range(2))
    optimizer, reference = method([p], lr=0.1), method([q], lr=0.1, fused=False)
    scaler = GradScaler("cpu", init_scale=SCALE)
    scaler.scale(torch.ones(()))
    for step in range(3):
        p.grad, q.grad = torch.full((8,), SCALE * (step + 1))[::2], torch.full((4,), step + 1.0)
        scaler.step(optimizer, loss=1.0)
        scaler.update()
        reference.step(loss=1.0)
    assert torch.equal(p, q)  # the same for-loop on the same numbers, for the scale is a power of two


@pytest.mark.parametrize("name", BASELINES)
def test_a_baseline_takes_a_loss_or_none(name: str) -> None:
    params = make_parameters()
    optimizer = METHODS[name](params)
    give_gradients(params, 0)
    assert optimizer.step() is None
    assert optimizer.step(loss=3.0) == 3.0
    optimizer.record_loss(4.0)
    assert optimizer.step() == 4.0
    assert optimizer.step(lambda: 5.0) == 5.0


def test_a_disabled_scaler() -> None:
    optimizer = adaloss()
    GradScaler("cpu", enabled=False).step(optimizer, loss=3.0)
    assert s_of(optimizer) == 4


def test_scaler_without_a_loss_says_so() -> None:
    scaler = GradScaler("cpu")
    scaler.scale(torch.ones(()))
    p = Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    optimizer = LossAdaptive(torch.optim.SGD([p], lr=0.1))
    with pytest.raises(RuntimeError, match="no loss"):
        scaler.step(optimizer)
    assert torch.equal(p.detach(), torch.ones(2))


@pytest.mark.parametrize("name", ["AdaGradNorm", "AdaGradNorm channel", "SGDDecaySqrt", "AdamSqrt"])
def test_a_baseline_ignores_whatever_its_closure_returns(name: str) -> None:
    params, others = make_parameters(), make_parameters()
    optimizer, reference = METHODS[name](params, lr=0.1), METHODS[name](others, lr=0.1)
    give_gradients(params, 0)
    give_gradients(others, 0)
    loss = torch.ones(())
    assert optimizer.step(lambda: (loss, "extra")) == (loss, "extra")
    reference.step()
    assert equal(snapshot(optimizer, params), snapshot(reference, others))
    assert optimizer.last_loss is None
