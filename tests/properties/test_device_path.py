"""The path for accelerators, run on the CPU, against the path for the host: the same numbers in float64.

The accumulators are equal to the last bit. The roots are not: ``torch.sqrt`` of float64 is an ulp off for one number in
a hundred (torch 2.15, AVX-512), and a float divided by a tensor is rounded twice. So rates agree to a few ulp.
"""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import Parameter

from adaloss_lightning import AdaLoss, AdamLoss, LossAdaptive

from ..optim.methods import clone, equal
from .strategies import ADAM_GROUPS, SGD_GROUPS, Training, on_device_path, trainings

FLOAT64 = (torch.float64,)


def weights_and_state(optimizer: Any, parameters: list[list[Parameter]]) -> Any:
    """All of the base that a step may change."""
    flat = [p for group in parameters for p in group]
    state = [{key: clone(value) for key, value in optimizer.state[p].items()} for p in flat if p in optimizer.state]
    return [p.detach().clone() for p in flat], state


def parameters_of(groups: list[list[Parameter]]) -> list[Tensor]:
    return [p.detach() for group in groups for p in group]


def accumulators(optimizer: Any) -> list[float]:
    return [group["adaloss_s"].item() for group in optimizer.param_groups]


def rates(optimizer: Any) -> list[float]:
    return [rate.item() for rate in optimizer.effective_lr]


def check(training: Training, make: Any) -> None:
    parameters, others = training.parameters(), training.parameters()
    host = make(training.param_groups(parameters))
    device = on_device_path(make(training.param_groups(others)))
    # at most five steps of a few ulp each
    close = 1e-6 if host.scale == "gradient" and training.has_float32_rates else 1e-13
    for step, loss in enumerate(training.losses):
        training.give_gradients(parameters, step)
        training.give_gradients(others, step)
        host.step(loss=loss)
        device.step(loss=torch.tensor(loss, dtype=torch.float64))
        assert accumulators(device) == accumulators(host)
        assert rates(device) == pytest.approx(rates(host), rel=1e-15)  # at most four ulp
        first, second = weights_and_state(device, others), weights_and_state(host, parameters)
        torch.testing.assert_close(first, second, rtol=close, atol=close)


@settings(max_examples=40)
@given(trainings(SGD_GROUPS, FLOAT64), st.sampled_from(["lr", "gradient"]), st.sampled_from([None, False]))
def test_adaloss(training: Training, scale: Any, fused: bool | None) -> None:
    check(training, lambda groups: AdaLoss(groups, scale=scale, fused=fused))


@settings(max_examples=40)
@given(trainings(ADAM_GROUPS, FLOAT64), st.sampled_from(["lr", "gradient"]), st.sampled_from([None, False]))
def test_adamloss(training: Training, scale: Any, fused: bool | None) -> None:
    check(training, lambda groups: AdamLoss(groups, scale=scale, fused=fused))


RULES = st.sampled_from(["adaloss", "adamloss"])
OF_ANY_BASE = SGD_GROUPS.map(lambda own: {key: own[key] for key in own if key.startswith("adaloss") or key == "lr"})
BASES = st.sampled_from([torch.optim.AdamW, torch.optim.RMSprop, torch.optim.Adagrad, torch.optim.NAdam])


@settings(max_examples=40)
@given(trainings(OF_ANY_BASE, FLOAT64), RULES, BASES)
def test_any_base(training: Training, rule: Any, base: Any) -> None:
    check(training, lambda groups: LossAdaptive(base(groups, foreach=False, weight_decay=0.125), rule=rule))


FUSED: dict[str, Any] = {
    "AdaLoss": (AdaLoss, {"lr": 0.5, "momentum": 0.9}),
    "AdamLoss": (AdamLoss, {"lr": 0.5, "amsgrad": True}),
    "AdamW": (lambda groups: LossAdaptive(torch.optim.AdamW(groups, fused=True)), {"lr": 0.5}),
}
BAD = st.sampled_from([math.nan, math.inf, -math.inf])


@settings(max_examples=40)
@given(
    trainings(st.just({}), FLOAT64),
    st.sampled_from(sorted(FUSED)),
    st.lists(st.one_of(st.none(), st.none(), BAD), min_size=5, max_size=5),
)
def test_losses_that_are_not_finite(training: Training, name: str, bad: list[float | None]) -> None:
    """On the device such a step is as if it had not been, whether a kernel stops it or a read of the loss does."""
    make, own = FUSED[name]
    if name == "AdamW":  # stock torch is wrong for odd layouts
        training = training.plain()
    parameters, others = training.parameters(), training.parameters()
    optimizer = on_device_path(make([{**group, **own} for group in training.param_groups(parameters)]), reads=True)
    clean = on_device_path(make([{**group, **own} for group in training.param_groups(others)]))
    for step, loss in enumerate(training.losses):
        training.give_gradients(parameters, step)
        poison = bad[step]
        if poison is not None:
            before = clone([*parameters_of(parameters), *optimizer.b, *optimizer.effective_lr])
            optimizer.step(loss=poison)
            assert equal([*parameters_of(parameters), *optimizer.b, *optimizer.effective_lr], before)
            continue
        training.give_gradients(others, step)
        optimizer.step(loss=loss)
        clean.step(loss=loss)
        assert equal(accumulators(optimizer), accumulators(clean))
        assert equal(parameters_of(parameters), parameters_of(others))
