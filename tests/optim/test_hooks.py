"""Step hooks and state-dict hooks: each once, in order, with the optimizer that the user holds."""

import copy
from types import MethodType
from typing import Any

import pytest
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook

from adaloss_lightning import AdaLoss, LossAdaptive

from .methods import METHODS, Method, equal, make_parameters, snapshot, train

every_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)


@every_method
def test_each_step_hook_runs_once(method: Method) -> None:
    params, calls = make_parameters(), []
    optimizer = method(params)
    handles = [
        register_optimizer_step_pre_hook(lambda o, *args: calls.append(("global pre", o))),
        register_optimizer_step_post_hook(lambda o, *args: calls.append(("global post", o))),
        optimizer.register_step_pre_hook(lambda o, *args: calls.append(("pre", o))),
        optimizer.register_step_post_hook(lambda o, *args: calls.append(("post", o))),
    ]
    try:
        train(optimizer, params, range(2))
    finally:
        for handle in handles:
            handle.remove()
    # torch runs global hooks before its own, and before and after are each in that order
    assert [name for name, _ in calls] == ["global pre", "pre", "post", "global post"] * 2
    assert all(o is optimizer for _, o in calls)
    calls.clear()
    train(optimizer, params, range(2, 3))
    assert not calls  # removed is removed


@pytest.mark.parametrize("by", ["a function", "a method", "a method under a scheduler"])
def test_a_step_that_was_put_on_the_base_is_run(by: str) -> None:
    params, calls = make_parameters(), []
    base = torch.optim.SGD(params, lr=0.1)
    original = base.step

    def patched(*args: Any) -> Any:
        calls.append("step")
        return original()

    base.step = patched if by == "a function" else MethodType(patched, base)  # type: ignore[method-assign]
    if "scheduler" in by:
        torch.optim.lr_scheduler.StepLR(base, 1)
    optimizer, others = LossAdaptive(base), make_parameters()
    optimizer.register_step_pre_hook(lambda *args: calls.append("pre"))
    optimizer.register_step_post_hook(lambda *args: calls.append("post"))
    reference = LossAdaptive(torch.optim.SGD(others, lr=0.1))
    for one, its in ((optimizer, params), (reference, others)):
        train(one, its, range(2))
    assert calls == ["pre", "step", "post"] * 2
    assert equal(snapshot(optimizer, params)[0], snapshot(reference, others)[0])


@pytest.mark.parametrize("when", ["before wrapping", "after wrapping"])
def test_hooks_of_the_base_run_once(when: str) -> None:
    params, calls = make_parameters(), []
    base = torch.optim.AdamW(params)

    def register() -> None:
        base.register_step_pre_hook(lambda *args: calls.append("pre"))
        base.register_step_post_hook(lambda *args: calls.append("post"))

    if when == "before wrapping":
        register()
    optimizer = LossAdaptive(base)
    if when == "after wrapping":
        register()
    train(optimizer, params, range(2))
    assert calls == ["pre", "post"] * 2


def test_pre_hook_may_change_the_arguments() -> None:
    params = make_parameters()
    optimizer = AdaLoss(params)
    optimizer.register_step_pre_hook(lambda o, args, kwargs: (args, {**kwargs, "loss": 8.0}))
    train(optimizer, params, range(1))
    assert optimizer.b[0].item() == 3.0


def test_hooks_see_eta() -> None:
    params, seen = make_parameters(), []
    optimizer = AdaLoss(params, lr=0.1)
    optimizer.register_step_pre_hook(lambda o, *args: seen.append(o.param_groups[0]["lr"]))
    optimizer.register_step_post_hook(lambda o, *args: seen.append(o.param_groups[0]["lr"]))
    train(optimizer, params, range(2))
    assert seen == [0.1] * 4


@every_method
def test_state_dict_hooks(method: Method) -> None:
    params, calls = make_parameters(), []
    optimizer = method(params)
    optimizer.register_state_dict_pre_hook(lambda o: calls.append(("pre", o is optimizer)))
    optimizer.register_state_dict_pre_hook(lambda o: calls.append(("first", o is optimizer)), prepend=True)
    optimizer.register_state_dict_post_hook(lambda o, d: calls.append(("post", "param_groups" in d)))
    optimizer.register_state_dict_post_hook(lambda o, d: {**d, "extra": 1}, prepend=True)
    saved = optimizer.state_dict()
    assert calls == [("first", True), ("pre", True), ("post", True)]
    assert saved["extra"] == 1


@every_method
def test_load_state_dict_hooks(method: Method) -> None:
    params, calls = make_parameters(), []
    optimizer = method(params, lr=0.1)
    train(optimizer, params, range(2))
    saved = copy.deepcopy(optimizer.state_dict())

    def halve(o: Any, state_dict: dict[str, Any]) -> dict[str, Any]:
        calls.append("halve")
        groups = [{**group, "lr": group["lr"] / 2} for group in state_dict["param_groups"]]
        return {**state_dict, "param_groups": groups}

    fresh = method(make_parameters())
    fresh.register_load_state_dict_pre_hook(halve)
    fresh.register_load_state_dict_pre_hook(lambda o, d: calls.append("first"), prepend=True)
    fresh.register_load_state_dict_post_hook(lambda o: calls.append(("post", o.param_groups[0]["lr"], o.b[0].item())))
    fresh.load_state_dict(saved)
    assert calls == ["first", "halve", ("post", 0.05, optimizer.b[0].item())]
    assert saved["param_groups"][0]["lr"] == 0.1  # the caller's dict is as it was


def test_load_pre_hook_that_writes_in_place_leaves_the_callers_top_level_alone() -> None:
    optimizer = AdaLoss(make_parameters())
    saved = optimizer.state_dict()
    optimizer.register_load_state_dict_pre_hook(lambda o, d: d.update(extra=2))
    saved["extra"] = 1
    optimizer.load_state_dict(saved)
    assert saved["extra"] == 1


@every_method
def test_hooks_survive_a_load(method: Method) -> None:
    params, calls = make_parameters(), []
    optimizer = method(params)
    optimizer.register_step_post_hook(lambda *args: calls.append(1))
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    train(optimizer, params, range(1))
    assert calls == [1]


def test_hooks_of_the_base_state_dict_run_once() -> None:
    calls: list[str] = []
    base = torch.optim.AdamW(make_parameters())
    base.register_state_dict_post_hook(lambda o, d: calls.append("save"))
    base.register_load_state_dict_post_hook(lambda o: calls.append("load"))
    optimizer = LossAdaptive(base)
    optimizer.load_state_dict(optimizer.state_dict())
    assert calls == ["save", "load"]


def test_a_hook_that_raises_stops_the_step() -> None:
    params = make_parameters()
    optimizer = AdaLoss(params)
    before = snapshot(optimizer, params)

    def refuse(*args: Any) -> None:
        raise InterruptedError

    optimizer.register_step_pre_hook(refuse)
    with pytest.raises(InterruptedError):
        optimizer.step(loss=3.0)
    assert equal(before, snapshot(optimizer, params))


@every_method
def test_a_profiler_sees_the_step(method: Method) -> None:
    params = make_parameters()
    optimizer = method(params)
    train(optimizer, params, range(1))  # outside of the profile
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        train(optimizer, params, range(1, 3))
    counts = {event.key: event.count for event in profile.key_averages() if event.key.startswith("Optimizer.step")}
    assert counts == {f"Optimizer.step#{type(optimizer).__name__}.step": 2}
