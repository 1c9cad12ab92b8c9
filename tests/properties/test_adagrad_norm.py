"""AdaGrad-Norm, global and per channel, against a loop in Python floats over every element."""

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import Parameter

from adaloss_lightning import AdaGradNorm
from tests.oracle import NormDriven, NormDrivenPerChannel, Weights

from .strategies import SGD_OPTIONS, TOLERANCE, Training, check_parameters, numbers, trainings

B0 = "adaloss_b0"
SETTINGS = st.builds(lambda own, b0: {**own, B0: b0}, SGD_OPTIONS, st.sampled_from([0.5, 3.0]))


def check(training: Training, granularity: Any) -> None:
    parameters = training.parameters()
    groups = [[Weights(numbers(p)) for p in group] for group in parameters]
    starts, etas = [own[B0] for own in training.settings], [float(own["lr"]) for own in training.settings]
    options = [{key: value for key, value in own.items() if key not in ("lr", B0)} for own in training.settings]
    expected: Any
    if granularity == "global":
        expected = NormDriven(starts, etas, groups, options)
    else:
        channels = [[p.shape[0] if p.dim() else 1 for p in group] for group in parameters]
        expected = NormDrivenPerChannel(starts, etas, groups, options, channels)
    optimizer = AdaGradNorm(training.param_groups(parameters), granularity=granularity)
    # the norm of a float32 gradient may be taken in float32; no half type may make it any worse
    norm = 1e-12 if all(p.dtype == torch.float64 for group in parameters for p in group) else TOLERANCE[torch.float32]
    for step, loss in enumerate(training.losses):
        expected.step(training.give_gradients(parameters, step))
        optimizer.step(loss=loss)
        check_parameters(parameters, groups, least=norm)
        for b, wanted in zip(optimizer.b, expected.b, strict=True):
            assert math.isnan(wanted) or b.item() == pytest.approx(wanted, rel=norm)


@settings(max_examples=70)
@given(trainings(SETTINGS))
def test_global(training: Training) -> None:
    check(training, "global")


@settings(max_examples=70)
@given(trainings(SETTINGS))
def test_per_channel(training: Training) -> None:
    check(training, "channel")


@pytest.mark.parametrize("params", [[], [Parameter(torch.empty(0, 3))]], ids=["no parameter", "no element"])
def test_a_group_without_channels(params: list[Parameter]) -> None:
    """It has nothing to move, and its b stays where it was."""
    p = Parameter(torch.zeros(2))
    optimizer = AdaGradNorm([{"params": [p]}, {"params": params}], b0=3.0, granularity="channel")
    p.grad = torch.full_like(p, 4.0)
    optimizer.step()
    assert [b.item() for b in optimizer.b] == [5.0, 3.0]


@settings(max_examples=20)
@given(dtype=st.sampled_from([torch.bfloat16, torch.float16]), size=st.integers(1, 40))
@pytest.mark.parametrize("granularity", ["global", "channel"])
def test_a_norm_beyond_the_range_of_its_gradient(granularity: Any, dtype: torch.dtype, size: int) -> None:
    """Each number is finite in float16, whose largest is 65504; neither the norm nor its square is."""
    p = Parameter(torch.zeros((2, 8 * size), dtype=dtype))
    p.grad = torch.full_like(p, 2.0**15)
    optimizer = AdaGradNorm([p], granularity=granularity)
    optimizer.step()
    channels = 2 if granularity == "channel" else 1
    b = math.sqrt(1 + p.numel() // channels * 4.0**15)
    assert optimizer.b[0].item() == pytest.approx(b, rel=1e-12)
    half = TOLERANCE[dtype] / 8  # one rounding of the parameter, and per channel one of the divided gradient
    torch.testing.assert_close(p.detach().double(), torch.full_like(p, -(2.0**15) / b).double(), rtol=half, atol=0)
